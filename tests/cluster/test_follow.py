"""What status, watch, logs and shell tell of runs on a real cluster: of all four kinds, whole, failing and disturbed.

The pods only play a run (tests/cluster/actor.py), so that each takes seconds.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.cluster.jobs import find_runs
from tests.cluster.actors import job, own_namespace, stage, start  # noqa: F401 (stage is asked for by name)

pytestmark = pytest.mark.cluster
PLACE = own_namespace("follow")

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = ("job", "pytorchjob", "mpijob", "trainjob")
ENDS = {"complete": "complete", "oom": "failed", "exit2": "failed"}


@pytest.fixture(scope="module")
def image(request) -> str:
    """The image that the namespace's pods have."""
    return request.getfixturevalue("stage")


@pytest.fixture(scope="module")
def imageless(image) -> subprocess.Popen:
    """The view of a run whose image nobody has; it takes its time, while other tests go on."""
    start(PLACE, *job("job", "imageless-1", "localhost/nobody-has-this:1", [1, 0, "complete"]))
    return watch("--run", "imageless-1")


@pytest.fixture(scope="module")
def played(image, imageless) -> dict:
    """Twelve runs, every runtime ending in every way; those that are over after a while."""
    for runtime in RUNTIMES:
        for ending in ENDS:
            start(PLACE, *job(runtime, f"{runtime}-{ending}", image, [6, 0.3, ending], nodes=2, restarts=0))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = {run.name: run for run in find_runs(PLACE)}
        if sum(run.ended for run in runs.values()) == 12:
            break
        time.sleep(2)
    del runs["imageless-1"]
    return runs


def program(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"scripts.cluster.{name}", "--namespace", PLACE.namespace, *words]


def told(name: str, *words: str, code: int = 0, seconds: float = 90) -> str:
    """What a program says; it must leave with this exit status."""
    done = subprocess.run(program(name, *words), cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def watch(*words: str) -> subprocess.Popen:
    return subprocess.Popen(program("watch", *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)  # fmt: skip


def until(process: subprocess.Popen, words: str) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"never said {words!r}:\n{said}")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_kind_of_job_tells_how_it_ended_and_why(played, runtime):
    for ending, state in ENDS.items():
        run = played[f"{runtime}-{ending}"]
        assert run.state == state, (run.name, run.object["status"], [pod["status"] for pod in run.pods])
    assert "needed more memory than its limit of 64Mi" in played[f"{runtime}-oom"].reason
    assert "exit code 2: train.yaml: lora_r: must be at least 1, is 0" in played[f"{runtime}-exit2"].reason


def test_status_lists_all_and_details_one(played):
    table = told("status")
    assert all(name in table for name in played)
    assert "6/6" in told("status", "--run", "job-complete")
    (one,) = json.loads(told("status", "--run", "mpijob-oom", "--json"))
    assert one["state"] == "failed" and one["progress"]["step"] == 2


def test_a_run_that_is_over_is_watched_from_its_beginning(played):
    said = told("watch", "--run", "trainjob-complete")
    assert "check-data done" in said and "trainjob-complete is complete, validation loss 1.5000" in said


def test_a_watched_failure_names_the_cause_and_shows_the_last_lines(played):
    said = told("watch", "--run", "mpijob-exit2", code=1)
    assert "RuntimeError: train.yaml: lora_r: must be at least 1, is 0" in said and "make logs" in said


def test_logs_name_the_pod_of_every_line(played):
    said = told("logs", "--run", "job-exit2", "--rank", "0")
    assert "[0] RuntimeError: train.yaml" in said and "tunefleet:" not in said
    assert "[0] tunefleet:" in told("logs", "--run", "job-exit2", "--rank", "0", "--events")
    assert "has no such pod" in told("logs", "--run", "job-exit2", "--rank", "7", code=2)


def test_a_shell_without_a_running_pod_is_in_the_data_access_pod(played):
    assert "job-complete" in told("shell", "--run", "job-complete", "--", "ls", "/store/runs")


def test_the_view_is_closed_and_opened_again_while_a_pod_is_replaced(image):
    start(PLACE, *job("pytorchjob", "replaced-1", image, [24, 0.5, "complete"], nodes=2))
    first = watch("--overlay", "replaced")
    until(first, "step 5: validation")
    first.send_signal(signal.SIGINT)
    assert "the run goes on" in first.communicate(timeout=30)[0] and first.returncode == 130
    second = watch("--run", "replaced-1")
    said = until(second, "step 5: validation")
    PLACE.run("delete", "pod", "replaced-1-worker-0", "--wait=false")
    said += second.communicate(timeout=90)[0]
    assert second.returncode == 0, said
    assert "goes on from step 12" in said and "start 2" in said and "make results RUN=replaced-1" in said
    assert said.count("step 5: validation") == 1, said


def test_a_missing_image_ends_the_view_and_names_node_and_image(imageless):
    said = imageless.communicate(timeout=90)[0]
    assert imageless.returncode == 1, said
    assert "lacks the image localhost/nobody-has-this:1" in said and "make push" in said


def test_too_large_a_request_is_told_with_what_is_short(image):
    (large,) = job("job", "large-1", image, [1, 0, "complete"])
    container = large["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {name: {"cpu": "4000", "memory": "64Mi"} for name in ("requests", "limits")}
    start(PLACE, large)
    deadline = time.monotonic() + 30
    while "too little cpu free" not in (said := told("status", "--run", "large-1")) and time.monotonic() < deadline:
        time.sleep(1)
    assert "(a pod asks cpu 4k, memory 64Mi)" in said and "too little cpu free" in said


def test_pods_that_the_namespace_refuses_are_told(image):
    (loose,) = job("job", "loose-1", image, [1, 0, "complete"])
    del loose["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    start(PLACE, loose)
    deadline = time.monotonic() + 30
    while "pod security" not in (said := told("status", "--run", "loose-1")) and time.monotonic() < deadline:
        time.sleep(1)
    assert "the namespace's pod security (restricted:latest) refuses its pods" in said
