"""`make eval` but for the harness itself: what is asked, kept, shown, refused and taken away.

.venv/bin/python -m pytest tests/unit/test_eval.py
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import own_venv
from scripts.eval import eval as program
from scripts.eval import install, results
from scripts.eval.subject import find_subject
from tests.tiny import ROOT, environment, make_world
from tests.unit.test_eval_tasks import write
from train.errors import InputError
from train.report import read_run, write_report
from train.report_tasks import task_rows

VERSIONS = {"torch": "2.13.0", "lm-eval": "0.4.13"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    return make_world(tmp_path_factory.mktemp("world"), exact_match=True)


@pytest.fixture
def world(made, tmp_path, monkeypatch) -> SimpleNamespace:
    """A merged run of a tiny model, two tasks, and a harness that answers at once; `jobs` is what it was asked."""
    run = tmp_path / "runs" / "tiny-1"
    shutil.copytree(made.model, run / "merged")
    shutil.copy(made.recipe, run / "train.yaml")
    (run / "run.json").write_text(
        json.dumps({"name": "tiny-1", "model_path": str(made.model), "started": "2026-11-28T10:00:00+00:00"})
    )
    (run / "report.html").write_text("old")
    write(tmp_path / "tasks", "a.yaml", task="a")
    write(tmp_path / "tasks", "b.yaml", task="b")
    jobs: list[dict] = []

    def answer(work: Path) -> int:
        job = json.loads((work / "job.json").read_text())
        jobs.append(job)
        for task in job["tasks"]:
            assert (Path(job["tasks_dir"]) / task["name"] / "task.yaml").is_file()
            if task["name"] in broken:
                return 1
            value = {"base": 0.25, "tuned": 0.75}.get(job["side"], 0.5)
            metrics = {"exact_match": {"value": value, "stderr": 0.03, "higher_is_better": True}}
            found = {"metrics": metrics, "rows": 200}
            results.keep(Path(task["output"]), task["name"], job["side"], task["about"], found)
        return 0

    broken: set[str] = set()
    monkeypatch.setattr(program, "ask_harness", answer)
    monkeypatch.setattr(own_venv, "install", lambda venv: VERSIONS)
    monkeypatch.setattr("scripts.eval.subject.HOME", tmp_path / "home")
    monkeypatch.setattr(install, "HOME", tmp_path / "home")
    return SimpleNamespace(
        run=run, runs=run.parent, tasks=tmp_path / "tasks", jobs=jobs, base=made.model, broken=broken
    )


def make_eval(world, monkeypatch, *words: object) -> int:
    """The program with its words, in this process."""
    monkeypatch.setattr(sys, "argv", ["eval", *map(str, words), "--runs-dir", str(world.runs)])
    return program.main()


# ---- what is asked, and what is kept ----


def test_base_and_result_are_asked_as_they_were_trained_and_shown_beside_each_other(world, monkeypatch, capsys):
    assert make_eval(world, monkeypatch, "--tasks", world.tasks, "--run", "tiny-1", "--limit-rows", 50) == 0
    assert [job["side"] for job in world.jobs] == ["base", "tuned"]
    base, tuned = world.jobs
    assert (base["model"], tuned["model"]) == (str(world.base), str(world.run / "merged"))
    assert base["about"] == tuned["about"]
    assert {key: base["about"][key] for key in ("chat", "system", "bos", "dtype", "limit")} == {
        "chat": False, "system": None, "bos": False, "dtype": "float32", "limit": 50}  # fmt: skip
    assert (base["batch_size"], base["code"], base["adapter"]) == (4, False, None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["task", "metric", "base", "tuned", "difference", "stderr", "rows"] in lines
    for name in ("a", "b"):
        assert [name, "exact_match", "0.2500", "0.7500", "+0.5000", "0.0424", "200"] in lines


def test_the_same_again_asks_nothing_and_another_number_of_rows_asks_again(world, monkeypatch):
    words = ("--tasks", world.tasks, "--run", "tiny-1")
    make_eval(world, monkeypatch, *words)
    make_eval(world, monkeypatch, *words)
    assert len(world.jobs) == 2
    make_eval(world, monkeypatch, *words, "--limit-rows", 7)
    assert len(world.jobs) == 4
    assert len(list((world.run / "eval").glob("*.json"))) == 4


def test_after_a_failure_only_what_is_missing_is_asked(world, monkeypatch, capsys):
    words = ("--tasks", world.tasks, "--run", "tiny-1")
    world.broken.add("b")
    assert make_eval(world, monkeypatch, *words) == 1
    assert "the harness ended with status 1" in capsys.readouterr().err
    world.broken.clear()
    assert make_eval(world, monkeypatch, *words) == 0
    asked = [(job["side"], [task["name"] for task in job["tasks"]]) for job in world.jobs]
    assert asked == [("base", ["a", "b"]), ("base", ["b"]), ("tuned", ["a", "b"])]


def test_a_changed_result_is_asked_again(world, monkeypatch):
    words = ("--tasks", world.tasks, "--run", "tiny-1")
    make_eval(world, monkeypatch, *words)
    config = world.run / "merged" / "config.json"
    config.write_text(config.read_text().replace('"use_cache": true', '"use_cache": false') + "\n")
    make_eval(world, monkeypatch, *words)
    assert len(world.jobs) == 4


def test_an_adapter_that_was_not_merged_is_put_on_its_base(world, monkeypatch):
    shutil.rmtree(world.run / "merged")
    (world.run / "adapter").mkdir()
    (world.run / "adapter" / "adapter_config.json").write_text("{}")
    make_eval(world, monkeypatch, "--tasks", world.tasks, "--run", "tiny-1")
    assert (world.jobs[1]["model"], world.jobs[1]["adapter"]) == (str(world.base), str(world.run / "adapter"))


def test_a_model_is_asked_by_itself_and_its_results_lie_with_the_harness(world, monkeypatch, tmp_path, capsys):
    assert make_eval(world, monkeypatch, "--tasks", world.tasks / "a.yaml", "--model", world.base) == 0
    assert [job["side"] for job in world.jobs] == ["model"]
    assert ["a", "exact_match", "0.5000", "0.0300", "200"] in [s.split() for s in capsys.readouterr().out.splitlines()]
    assert len(list((tmp_path / "home" / "models").rglob("a-*.json"))) == 1


def test_a_model_with_a_chat_template_is_asked_in_it():
    found = find_subject("", "demo/model", Path("runs"))
    assert found.chat and not found.bos and found.way == "in the model's chat template"


# ---- what is shown ----


def test_the_report_has_a_section_of_the_tasks_and_each_change_has_its_tone(world, monkeypatch):
    make_eval(world, monkeypatch, "--tasks", world.tasks, "--run", "tiny-1")
    page = (world.run / "report.html").read_text()
    assert '<h2 id="tasks">Tasks</h2>' in page
    assert '<span class="badge good">+0.5000</span>' in page
    (row, _) = task_rows(read_run(world.run)["tasks"])
    assert (row["task"], row["tone"], row["stderr"]) == ("a", "good", "0.0424")


def test_a_side_that_is_missing_and_a_metric_without_an_error_are_no_zeros():
    metric = {"value": 1.5, "stderr": None, "higher_is_better": False}
    sides = {"base": {"rows": 9, "metrics": {"word_perplexity": metric}}}
    (row,) = task_rows([{"task": "t", "sides": sides}])
    assert (row["base"], row.get("tuned"), row["difference"], row["stderr"]) == ("1.5000", None, None, None)
    sides["tuned"] = {"rows": 9, "metrics": {"word_perplexity": metric | {"value": 1.25}}}
    (row,) = task_rows([{"task": "t", "sides": sides}])
    assert (row["difference"], row["tone"]) == ("-0.2500", "good")


def test_the_figures_are_taken_from_what_the_harness_returns():
    told = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict": 0.25,
                          "exact_match_stderr,strict": "N/A"}},
        "higher_is_better": {"t": {"acc": True, "exact_match": True}},
        "n-samples": {"t": {"original": 200, "effective": 50}},
    }  # fmt: skip
    found = results.figures(told, "t")
    assert found["rows"] == 50
    assert found["metrics"] == {
        "acc": {"value": 0.5, "stderr": 0.1, "higher_is_better": True},
        "exact_match (strict)": {"value": 0.25, "stderr": None, "higher_is_better": True},
    }


# ---- what is refused ----


def test_everything_wrong_with_the_command_is_told_at_once_before_anything_is_installed(tmp_path):
    words = ["--tasks", tmp_path / "none", "--run", "nowhere", "--limit-rows", "half", "--allow", "licence",
             "--on", "cluster", "--runs-dir", tmp_path]  # fmt: skip
    command = [sys.executable, "-m", "scripts.eval.eval", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for words in ("none: is no file and no directory", "RUN: nowhere: is no run in", "LIMIT_ROWS: half: is no number",
                  "ALLOW: licence: allows nothing here", "make results RUN=nowhere", "5 problems"):  # fmt: skip
        assert words in done.stderr, done.stderr


@pytest.mark.parametrize(("run", "model"), [("", ""), ("tiny-1", "demo/model")])
def test_a_run_or_a_model_is_needed_and_not_both(run, model):
    with pytest.raises(InputError, match="make eval TASKS"):
        find_subject(run, model, Path("runs"))


def test_a_run_whose_base_is_gone_is_refused_with_the_way_to_measure_it_alone(world):
    (world.run / "run.json").write_text(json.dumps({"model_path": "models/gone"}))
    with pytest.raises(InputError, match=r"its base models/gone is not here\n  fix: .*MODEL=.*tiny-1/merged"):
        find_subject("tiny-1", "", world.runs)


def test_a_damaged_result_is_named(world, monkeypatch):
    words = ("--tasks", world.tasks, "--run", "tiny-1")
    make_eval(world, monkeypatch, *words)
    path = next((world.run / "eval").glob("a-*.json"))
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        make_eval(world, monkeypatch, *words)
    with pytest.raises(InputError, match="make eval measures again"):
        write_report(world.run)


# ---- what is taken away ----


def test_results_go_after_a_yes_alone_and_the_report_forgets_them(world, monkeypatch, capsys):
    make_eval(world, monkeypatch, "--tasks", world.tasks, "--run", "tiny-1")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(InputError, match=r"removing needs a yes\n  fix: make eval-remove RUN=tiny-1 YES=1"):
        make_eval(world, monkeypatch, "--remove", "--run", "tiny-1")
    assert (world.run / "eval").is_dir()
    make_eval(world, monkeypatch, "--remove", "--run", "tiny-1", "--yes")
    assert not (world.run / "eval").exists()
    assert "Tasks</h2>" not in (world.run / "report.html").read_text()
    make_eval(world, monkeypatch, "--remove", "--run", "tiny-1", "--yes")
    assert "nothing to remove" in capsys.readouterr().out


def test_without_a_run_the_harness_goes_with_the_results_of_models(world, monkeypatch, tmp_path):
    make_eval(world, monkeypatch, "--tasks", world.tasks, "--model", world.base)
    make_eval(world, monkeypatch, "--tasks", world.tasks, "--run", "tiny-1")
    make_eval(world, monkeypatch, "--remove", "--yes")
    assert not (tmp_path / "home").exists() and (world.run / "eval").is_dir()


# ---- the environment ----


def test_it_is_made_again_where_a_pinned_version_is_another(tmp_path):
    venv = replace(install.environment(), place=tmp_path / "venv", packages=("lm-eval[hf]==0.4.13", "peft"))
    assert not own_venv.is_as_asked(venv)
    venv.place.mkdir()
    torch = own_venv.torch_pin().partition("==")[2]
    for torch_there, harness, asked in ((f"{torch}+cpu", "0.4.13", True), (torch, "0.4.12", False),
                                        ("1.0", "0.4.13", False)):  # fmt: skip
        venv.versions.write_text(json.dumps({"torch": torch_there, "lm-eval": harness}))
        assert own_venv.is_as_asked(venv) is asked


def test_a_disk_that_is_too_full_is_said_before_anything_is_installed(tmp_path):
    venv = replace(install.environment(), place=tmp_path / "a" / "venv", room=1 << 60)
    with pytest.raises(InputError, match=r"venv: needs .* GB, and .* GB are free"):
        own_venv.install(venv)
    assert not (tmp_path / "a").exists()
