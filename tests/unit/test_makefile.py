"""The Makefile: its form, its help, and that what a person types arrives whole at the programs.

.venv/bin/python -m pytest tests/unit/test_makefile.py
"""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.makefile import MAKEFILE, make, targets, user_variables


def test_the_makefile_has_the_strict_header():
    for line in (
        "SHELL := bash",
        ".SHELLFLAGS := -euo pipefail -c",
        "MAKEFLAGS += --warn-undefined-variables --no-builtin-rules",
        ".DELETE_ON_ERROR:",
    ):
        assert f"{line}\n" in MAKEFILE


def test_every_target_is_phony_and_has_a_sentence():
    for name, rule in targets().items():
        assert re.search(rf"^\.PHONY: {name}$", MAKEFILE, re.MULTILINE), name
        assert re.search(r"## .+\.$", rule.split("\n")[0]), name


def test_no_recipe_is_longer_than_three_lines():
    for rule in re.findall(r"^\S[^\n]*:[^\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE):
        assert rule.count("\n") <= 3, rule


def test_make_alone_prints_every_target_in_its_group_and_every_variable():
    printed = make().stdout
    groups = re.findall(r"^##@ (.+)$", MAKEFILE, re.MULTILINE)
    assert groups
    for text in [*groups, *(f"\n  {name} " for name in targets()), *(f"\n  {name} " for name in user_variables())]:
        assert text in printed


def test_every_variable_is_explained_above_its_line_and_exported():
    assert user_variables()
    exported = " ".join(re.findall(r"^export (.+)$", MAKEFILE, re.MULTILINE)).split()
    for name in user_variables():
        assert re.search(rf"^## .+\n{name} \?=", MAKEFILE, re.MULTILINE), name
        assert name in exported


def test_make_uses_no_undefined_variable():
    for name in targets():
        assert "undefined variable" not in make("--dry-run", name).stderr


@pytest.fixture
def recorder(tmp_path) -> Path:
    """A stand-in for Python that prints the arguments it is given."""
    program = tmp_path / "recorder"
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    return program


def arguments_of(recorder: Path, target: str, **variables: str) -> list[str]:
    result = make(target, BASE="", PYTHON=str(recorder), **variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_make_run_passes_the_demo_and_nothing_else(recorder):
    assert arguments_of(recorder, "run") == ["-m", "scripts.run", "--overlay", "demo", "--runs-dir", "runs"]


def test_values_with_spaces_and_quotes_arrive_whole_and_settings_are_split(recorder):
    values = {"MODEL": "my model's", "DATA": 'a "b" $HOME.json', "VALIDATION_DATA": "c d.json", "RUN": "; false"}
    written = {name: value.replace("$", "$$") for name, value in values.items()}
    given = arguments_of(recorder, "run", SET="lora_r=16 lora_target_modules=[q_proj,v_proj]", NPROC="2", **written)
    flags = dict(zip(given[2:-3:2], given[3:-3:2], strict=True))
    assert flags["--model"] == values["MODEL"]
    assert flags["--data"] == values["DATA"]
    assert flags["--validation-data"] == values["VALIDATION_DATA"]
    assert flags["--run"] == values["RUN"]
    assert flags["--nproc"] == "2"
    assert given[-3:] == ["--set", "lora_r=16", "lora_target_modules=[q_proj,v_proj]"]


def test_a_setting_is_not_taken_for_a_pattern_of_file_names(recorder):
    assert "rank_pattern={*:4}" in arguments_of(recorder, "run", SET="rank_pattern={*:4} requirements*=1")
    assert "requirements*=1" in arguments_of(recorder, "run", SET="requirements*=1")


def test_make_check_data_is_the_chain_up_to_its_first_stage(recorder):
    assert arguments_of(recorder, "check-data", OVERLAY="medical")[-2:] == ["--until", "check-data"]


@pytest.mark.parametrize(("yes", "flags"), [("", []), ("1", ["--yes"]), ("0", [])])
def test_only_yes_1_deletes_without_a_question(recorder, yes, flags):
    given = arguments_of(recorder, "delete-run", RUN="old run", YES=yes)
    assert given == ["-m", "scripts.runs", "delete", "old run", *flags, "--runs-dir", "runs"]


def test_make_report_asks_for_the_run(recorder):
    result = make("report", BASE="", PYTHON=str(recorder))
    assert result.returncode == 2
    assert "RUN=name" in result.stderr


def test_runs_to_compare_are_split_at_spaces_and_an_overlay_nobody_gave_picks_none(recorder):
    start = ["-m", "scripts.compare"]
    given = arguments_of(recorder, "compare", RUN="a b* c", TO="my page.html")
    assert given == [*start, "--run", "a", "b*", "c", "--runs-dir", "runs", "--to", "my page.html"]
    assert arguments_of(recorder, "compare") == [*start, "--runs-dir", "runs"]
    given = arguments_of(recorder, "compare", OVERLAY="demo", RUNS="my runs")
    assert given == [*start, "--runs-dir", "my runs", "--overlay", "demo"]


def test_what_two_runs_are_told_apart_by_and_what_is_reproduced_arrives_whole(recorder):
    given = arguments_of(recorder, "diff-runs", RUN="a b", JSON="1")
    assert given == ["-m", "scripts.diff_runs", "--run", "a", "b", "--runs-dir", "runs", "--json"]
    start = ["-m", "scripts.reproduce", "--run"]
    assert arguments_of(recorder, "reproduce", RUN="a b") == [*start, "a b", "--runs-dir", "runs"]
    given = arguments_of(recorder, "reproduce", RUN="a", TO="b", MODEL="my model", DATA="x y.json", UNTIL="train")
    assert given == [*start, "a", "--runs-dir", "runs", "--to", "b", "--model", "my model", "--data", "x y.json",
                     "--until", "train"]  # fmt: skip


def test_make_eval_splits_its_tasks_and_passes_no_empty_word(recorder):
    start = ["-m", "scripts.eval.eval"]
    given = arguments_of(recorder, "eval", TASKS="a* b", RUN="my run", ALLOW="code", LIMIT_ROWS="5")
    assert given == [*start, "--tasks", "a*", "b", "--run", "my run", "--allow", "code", "--on", "here",
                     "--limit-rows", "5", "--runs-dir", "runs"]  # fmt: skip
    assert arguments_of(recorder, "eval") == [*start, "--allow", "", "--on", "here", "--runs-dir", "runs"]
    assert arguments_of(recorder, "eval-remove", RUN="a") == [*start, "--remove", "--run", "a", "--runs-dir", "runs"]
    assert arguments_of(recorder, "eval-remove", YES="1") == [*start, "--remove", "--runs-dir", "runs", "--yes"]
