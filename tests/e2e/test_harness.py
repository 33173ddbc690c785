"""`make eval` with the harness itself: a run of the demo, an adapter, a plain model, and what it refuses.

.venv/bin/python -m pytest -m faults tests/e2e/test_harness.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import own_venv
from scripts.eval import install, task_rules
from tests.e2e.chain import read, run_chain
from tests.tiny import ROOT, environment, make_world
from tests.unit.test_eval_tasks import write

pytestmark = pytest.mark.faults  # minutes: the harness is installed first, where it is not there
TASKS = "kustomize/overlays/demo/tasks"


def make_eval(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.eval.eval", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def results(directory: Path) -> dict[str, dict]:
    """Each task's sides."""
    found = [json.loads(path.read_text()) for path in directory.rglob("*.json")]
    return {one["task"]: one["sides"] for one in found}


@pytest.fixture(scope="module")
def harness() -> None:
    own_venv.install(install.environment())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, harness) -> Path:
    """A run of the demo, as `make run` makes it."""
    run, _ = run_chain(tmp_path_factory.mktemp("runs"), "demo")
    return run


def test_the_demo_answers_its_tasks_better_than_its_base_and_as_its_own_evaluation_says(trained):
    done = make_eval("--tasks", TASKS, "--run", trained.name, "--runs-dir", trained.parent)
    assert done.returncode == 0, done.stderr
    found = results(trained / "eval")
    record = {side: found["ticket_record"][side]["metrics"]["exact_match"]["value"] for side in ("base", "tuned")}
    own = {name: read(trained, f"{name}.json")["exact_match"]["share"] for name in ("before", "after")}
    assert record["base"] == pytest.approx(own["before"], abs=0.011), "the same prompts: at most two rows of 200 apart"
    assert record["tuned"] == pytest.approx(own["after"], abs=0.011)
    assert record["tuned"] > record["base"] + 0.5
    urgency = {side: found["ticket_urgency"][side]["metrics"]["acc"]["value"] for side in ("base", "tuned")}
    assert urgency["tuned"] > urgency["base"] + 0.2
    assert '<h2 id="tasks">Tasks</h2>' in (trained / "report.html").read_text()
    again = make_eval("--tasks", TASKS, "--run", trained.name, "--runs-dir", trained.parent)
    assert again.stdout.count("done before") == 2


def test_an_adapter_on_its_base_is_measured_too(trained, tmp_path):
    adapter = tmp_path / "runs" / "unmerged"
    adapter.mkdir(parents=True)
    for name in ("run.json", "train.yaml", "adapter"):
        (adapter / name).symlink_to((trained / name).resolve())
    words = ("--tasks", f"{TASKS}/ticket_record.yaml", "--limit-rows", 20)
    done = make_eval(*words, "--run", "unmerged", "--runs-dir", adapter.parent)
    assert done.returncode == 0, done.stderr
    tuned = results(adapter / "eval")["ticket_record"]["tuned"]
    assert tuned["rows"] == 20 and tuned["metrics"]["exact_match"]["value"] > 0.9


def test_a_plain_model_is_measured_and_code_runs_where_it_is_allowed_alone(harness, tmp_path):
    world = make_world(tmp_path / "world")
    rows = [json.loads(line) for line in (tmp_path / "world" / "rows.jsonl").read_text().splitlines()]
    path = write(tmp_path / "tasks", doc_to_text="{{prompt}}", doc_to_target="{{completion}}",
                 generation_kwargs={"max_gen_toks": 4, "until": ["\n"]})  # fmt: skip
    (path.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:8]))
    done = make_eval("--tasks", path, "--model", world.model, "--runs-dir", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "tickets  exact_match" in done.stdout
    (path.parent / "ask.py").write_text("def last(row):\n    return 'w1 w2'\n")
    path.write_text(path.read_text().replace("'{{prompt}}'", "!function ask.last"))
    assert make_eval("--tasks", path, "--model", world.model).returncode == 2
    done = make_eval("--tasks", path, "--model", world.model, "--allow", "code", "--runs-dir", tmp_path / "runs")
    assert done.returncode == 0, done.stderr


def test_a_template_reaches_nothing_of_python(harness, tmp_path):
    world = make_world(tmp_path / "world")
    path = write(tmp_path / "tasks", doc_to_text="{{question.__class__.__mro__}}")
    done = make_eval("--tasks", path, "--model", world.model, "--runs-dir", tmp_path / "runs")
    assert done.returncode == 1
    assert "SecurityError" in done.stderr and "access to attribute '__class__'" in done.stderr


def test_the_keys_and_metrics_that_are_known_here_are_the_harness_own(harness):
    words = (
        "import json, dataclasses; from lm_eval.api.task import TaskConfig; from lm_eval.api import registry, metrics;"
        "print(json.dumps([[f.name for f in dataclasses.fields(TaskConfig)], sorted(registry.METRIC_REGISTRY),"
        " sorted(registry.AGGREGATION_REGISTRY)]))"
    )
    command = [install.environment().python, "-c", words]
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    keys, metrics, aggregations = json.loads(told.splitlines()[-1])
    assert set(task_rules.KEYS) - set(keys) == set()
    assert {name for names in task_rules.METRICS.values() for name in names} - set(metrics) == set()
    assert set(task_rules.AGGREGATIONS) - set(aggregations) == set()
