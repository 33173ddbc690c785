"""Runs beside each other, made from made-up run directories: the table, the page, what is refused.

.venv/bin/python -m pytest tests/unit/test_compare.py
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import compare_facts as facts
from scripts.compare import print_comparison, write_comparison
from tests.tiny import ROOT, environment
from tests.unit.test_report import EVIL, Page, evaluation, make_run


def runs_of(directory: Path, **recipes: dict) -> list[Path]:
    """Finished runs by name, each with other values in its recipe; "loss" is that of its result."""
    made = []
    for name, values in recipes.items():
        loss = values.pop("loss", 0.02)
        run = make_run(directory / name, **{"after.json": evaluation(loss, 194, f"said {EVIL}")})
        change(run, recipe=values)
        (run / "report.html").write_text("")
        made.append(run)
    return made


def change(run: Path, **parts: dict) -> None:
    """Lay values over parts of a run's record."""
    record = json.loads((run / "run.json").read_text())
    for part, values in parts.items():
        record[part] = {**record.get(part, {}), **values}
    (run / "run.json").write_text(json.dumps(record))


def page_of(runs: list[Path], directory: Path) -> Page:
    write_comparison(runs, directory / "page.html")
    return Page((directory / "page.html").read_text())


def compare(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.compare", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment() | {"COLUMNS": "120"}, capture_output=True, text=True, check=False
    )


# ---- what is said ----


def test_only_the_keys_that_differ_are_told_beside_model_data_and_processes(tmp_path):
    runs = facts.read_runs(runs_of(tmp_path, a={"lora_r": 8, "report_to": []}, b={"lora_r": 16}))
    rows = facts.settings(runs)
    assert [row["key"] for row in rows] == ["model", "data", "processes", "lora_r"]
    assert [row["key"] for row in rows if row["differs"]] == ["lora_r"]
    assert facts.common(rows) == [("model", "tiny ffffffff"), ("data", "dddddddd"), ("processes", "2 x 1")]


def test_the_best_of_each_figure_is_marked_and_equal_figures_are_not(tmp_path, capsys):
    runs = runs_of(tmp_path, a={"loss": 0.5}, b={"loss": 0.25}, c={"loss": 0.75})
    change(runs[2], training={"tokens_per_second": 2000.0})
    found = {
        metric["name"]: [cell["best"] for cell in metric["cells"]] for metric in facts.metrics(facts.read_runs(runs))
    }
    assert found["validation loss"] == [False, True, False]
    assert found["tokens/s"] == [False, False, True]
    assert found["memory"] == found["exact match"] == found["steps"] == [False] * 3
    print_comparison(runs)
    printed = capsys.readouterr().out
    assert "0.250*" in printed and "2,000*" in printed and printed.count("0.500 ") == 1


def test_losses_over_other_held_out_rows_are_never_the_best(tmp_path):
    runs = runs_of(tmp_path, a={"loss": 0.5}, b={"loss": 0.25})
    check = json.loads((runs[0] / "data" / "data_check.json").read_text())
    check["tokens"]["validation"]["total"] += 1
    (runs[0] / "data" / "data_check.json").write_text(json.dumps(check))
    found = facts.read_runs(runs)
    loss = next(metric for metric in facts.metrics(found) if metric["name"] == "validation loss")
    assert not any(cell["best"] for cell in loss["cells"])
    assert "held-out rows are not the same" in " ".join(facts.notes(found))


@pytest.mark.parametrize("missing", ["after.json", "before.json", "metrics.jsonl", "data/data_check.json",
                                     "merged/merge.json", "report.html"])  # fmt: skip
def test_a_run_that_is_not_whole_is_shown_as_such(tmp_path, missing, capsys):
    runs = runs_of(tmp_path, a={"lora_r": 8}, b={"lora_r": 16})
    (runs[0] / missing).unlink()
    page_of(runs, tmp_path)
    print_comparison(runs)
    assert re.search(r"^a .*", capsys.readouterr().out, re.MULTILINE)


def test_a_training_that_goes_on_is_shown_as_far_as_it_came_and_is_never_the_best(tmp_path, capsys):
    runs = runs_of(tmp_path, a={}, b={"loss": 0.3}, c={"loss": 0.4})
    record = json.loads((runs[0] / "run.json").read_text())
    del record["training"]
    (runs[0] / "run.json").write_text(json.dumps(record))
    (runs[0] / "after.json").unlink()
    found = facts.read_runs(runs)
    assert not any(metric["cells"][0]["best"] for metric in facts.metrics(found))
    page = page_of(runs, tmp_path)
    assert "incomplete, has merged" in page.text and "never the best: a" in page.text


def test_an_empty_run_beside_a_finished_one_is_no_error(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_text(json.dumps({"name": "new", "started": "2026-11-21T15:00:00+00:00"}))
    page = page_of([*runs_of(tmp_path, a={}), tmp_path / "new"], tmp_path)
    assert "empty" in page.text and "not prepared" in page.text


# ---- the page ----


def test_the_page_is_whole_and_loads_nothing_and_runs_nothing(tmp_path):
    page = page_of(runs_of(tmp_path, a={"lora_r": 8}, b={"lora_r": 16}), tmp_path)
    html = (tmp_path / "page.html").read_text()
    assert page.open == [] and page.loaded == []
    assert "<script" not in html.lower() and "default-src 'none'" in html
    assert f"Say it {EVIL}" in page.text
    assert not list(tmp_path.glob(".*.tmp"))


def test_each_run_has_a_curve_of_its_own_look_in_both_charts(tmp_path):
    runs = runs_of(tmp_path, **{f"r{number}": {} for number in range(20)})
    page_of(runs, tmp_path)
    html = (tmp_path / "page.html").read_text()
    looks = re.findall(r'<polyline class="line (hue\d dash\d) run\d+"', html)
    assert len(looks) == 40 and len(set(looks)) == 20


def test_an_answer_that_several_runs_gave_stands_there_once_with_all_of_them(tmp_path):
    runs = runs_of(tmp_path, a={}, b={}, c={})
    (runs[2] / "after.json").write_text(json.dumps(evaluation(0.02, 194, "something else")))
    (sample,) = facts.samples(facts.read_runs(runs))
    assert [[run["name"] for run in group["runs"]] for group in sample["after"]] == [["a", "b"], ["c"]]
    assert [group["mark"] for group in sample["after"]] == [True, False]
    assert len(sample["before"]) == 1


# ---- the program ----


def test_the_page_goes_where_it_is_said_or_among_the_runs(tmp_path):
    runs_of(tmp_path, a={}, b={})
    done = compare("--run", "a", "b", "--runs-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"page: {tmp_path / 'compare.html'}" in done.stdout and (tmp_path / "compare.html").is_file()
    assert compare("--run", "a", "b", "--runs-dir", tmp_path, "--to", tmp_path / "x.html").returncode == 0
    assert (tmp_path / "x.html").is_file()


def test_of_an_overlay_the_finished_runs_are_taken_oldest_first(tmp_path):
    runs = runs_of(tmp_path, **{"demo-2": {}, "demo-1": {}, "other-1": {}, "demo-3": {}})
    (runs[3] / "report.html").unlink()
    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(record | {"started": "2026-11-20T15:00:00+00:00"}))
    done = compare("--overlay", "demo", "--runs-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+-\d) ", done.stdout, re.MULTILINE) == ["demo-1", "demo-2"]
    assert (tmp_path / "compare-demo.html").is_file()


def test_everything_wrong_is_told_at_once(tmp_path):
    runs_of(tmp_path, a={})
    (tmp_path / "bare").mkdir()
    done = compare("--run", "a", "bare", "nowhere", "../a", "--runs-dir", tmp_path, "--to", tmp_path)
    assert done.returncode == 2
    for said in ("RUN: bare: has no record", "RUN: nowhere: is no run in", "RUN: ../a: is no run", "there are: a",
                 "is no name of a page", "4 problems"):  # fmt: skip
        assert said in done.stderr, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "a"], "RUN: a: is one run, and a comparison needs two"),
        (["--run", "a", "a"], "is one run"),
        ([], "RUN: (empty): names no runs"),
        (["--overlay", "demo"], "OVERLAY: demo: has no finished runs"),
        (["--run", "a", "b", "--to", "x.json"], "TO: x.json: is no name of a page"),
        (["--run", "a", "b", "--to", "nowhere/x.html"], "mkdir -p nowhere"),
        (["--run", "a", "torn"], "run.json: is not JSON"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_fix(tmp_path, words, said):
    runs_of(tmp_path, a={}, b={}, torn={})
    (tmp_path / "torn" / "run.json").write_text("{")
    if "--overlay" in words:
        (tmp_path / "torn" / "run.json").unlink()
    done = compare(*words, "--runs-dir", tmp_path)
    assert done.returncode == 2 and said in done.stderr and "fix: " in done.stderr
    assert not list(tmp_path.glob("*.html"))
