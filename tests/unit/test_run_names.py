"""Runs by their names: a name that is none is told alike by every program that takes one.

.venv/bin/python -m pytest tests/unit/test_run_names.py
"""

import pytest

from scripts.publish import publish
from scripts.runs import delete_run, find_runs
from scripts.serve.find import find_served
from train.errors import InputError
from train.export_place import find_source
from train.run_names import find_run, known_runs

PROGRAMS = {
    "publish": lambda runs, name: publish.find_run(runs, name),
    "compare, diff-runs, reproduce": lambda runs, name: find_runs(runs, [name]),
    "serve, chat": lambda runs, name: find_served(name, "", runs),
    "quantise, export": lambda runs, name: find_source(name, "", runs),
    "delete-run": lambda runs, name: delete_run(runs, name, yes=True),
}


@pytest.fixture
def runs(tmp_path):
    """Two runs and a directory that is none."""
    for name in ("b-2", "a-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["absent-1", "../runs/a-1", ".."])
def test_every_program_names_the_runs_there_are_and_the_way_to_one_on_a_cluster(runs, program, name):
    with pytest.raises(InputError) as caught:
        PROGRAMS[program](runs, name)
    (message,) = caught.value.problems
    assert message.startswith(f"RUN: {name}: is no run in {runs}\n  fix: there are: a-1, b-2; ")
    elsewhere = "make delete-run ON=cluster" if program == "delete-run" else "make results"
    assert f"{elsewhere} RUN={name}" in message


def test_a_run_is_found_and_a_directory_without_a_record_is_none(runs):
    assert find_run(runs, "a-1") == runs / "a-1"
    with pytest.raises(InputError, match="RUN: notes: is no run"):
        find_run(runs, "notes")


def test_where_there_are_none_the_way_to_one_is_told(tmp_path):
    assert known_runs(tmp_path) == "none; make run makes one"
    with pytest.raises(InputError, match=r"RUN: \(empty\): is no run in .*\n.*make results RUN=…"):
        find_run(tmp_path, "")
