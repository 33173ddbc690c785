"""Situations of docs/runbooks, made on a cluster: the page's commands show the trouble, and end it."""

import json
import time

import pytest

from tests.cluster.runbook_pages import PAGES, Desk, commands, until_told
from tests.cluster.runs import LASTING, deploy, events, kubectl, make, team, wait_for_end, wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.operations]
SPACE = "ft-runbooks"
SHORT = {"validation_size": "", "exact_match": ""}
LONG = (
    SHORT
    | LASTING
    | {
        "save_steps": 10,
        "eval_strategy": "'no'",
        "eval_steps": "",
        "load_best_model_at_end": "false",
    }
)

STOP = """
import os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        os.kill(int(name), signal.SIGSTOP)
"""


@pytest.fixture(scope="module", autouse=True)
def space(cluster):
    """A namespace for these runs."""
    with team(SPACE):
        yield SPACE


def running(run: str) -> list[str]:
    """The names of the run's pods that run."""
    found = kubectl(SPACE, "get", "pods", "--selector", f"tunefleet.io/run={run}", "--output", "json")
    pods = json.loads(found)["items"]
    return [one["metadata"]["name"] for one in pods if one["status"].get("phase") == "Running"]


def test_every_page_has_commands_to_look_and_to_mend():
    pages = [path.stem for path in PAGES.glob("*.md") if path.stem != "README"]
    assert pages
    for page in pages:
        assert commands(page, "Diagnosis") and commands(page, "Mitigation"), page


def test_job_pending():
    run = deploy(SPACE, "demo", SHORT, {"resources.requests.cpu": 500, "resources.limits.cpu": 500}, "FORCE=1")
    desk = Desk(SPACE, run, recipe=SHORT, place={"resources.requests.cpu": 500, "resources.limits.cpu": 500})
    until_told(desk, "cpu")
    seen = desk.type("job-pending", "Diagnosis", codes=(0, 1, 2))
    assert "does it fit on the nodes" in seen and "docs/runbooks/job-pending.md" in seen
    desk.place = {}
    seen = desk.type("job-pending", "Mitigation", only=["undeploy", "deploy"])
    mended = next(line.split("RUN=")[1] for line in seen.splitlines() if "make watch RUN=" in line).strip()
    assert mended != run
    wait_for_end(SPACE, mended)


def test_rank_killed_for_memory():
    little = {"resources.requests.memory": "512Mi", "resources.limits.memory": "512Mi"}
    run = deploy(SPACE, "demo", SHORT, little, "FORCE=1")
    desk = Desk(SPACE, run, recipe=SHORT, place=little)
    until_told(desk, "needs about")  # status cuts a long reason
    seen = desk.type("rank-killed-for-memory", "Diagnosis", codes=(0, 1, 2))
    assert "is the memory enough" in seen and "docs/runbooks/rank-killed-for-memory.md" in seen
    desk.type("rank-killed-for-memory", "Mitigation")
    wait_for_end(SPACE, run)


def test_workers_cannot_meet():
    policies = kubectl(SPACE, "get", "networkpolicies", "--output", "name").split()
    kubectl(SPACE, "delete", "networkpolicy", "dns")
    run = deploy(SPACE, "demo", SHORT, {"nodes": 2, "minNodes": 2}, "FORCE=1")
    desk = Desk(SPACE, run, recipe=SHORT)
    deadline = time.monotonic() + 180
    while "waiting for" not in make(SPACE, "logs", f"RUN={run}", code=None) and time.monotonic() < deadline:
        time.sleep(3)
    seen = desk.type("workers-cannot-meet", "Diagnosis")
    assert "waiting for the first pod" in seen and "docs/runbooks/workers-cannot-meet.md" in seen, seen
    seen = desk.type("workers-cannot-meet", "Mitigation", only=["cluster-check"], codes=(0, 1, 2))
    assert "dns" in seen, seen
    desk.type("workers-cannot-meet", "Mitigation", only=["cluster-setup"])
    assert set(policies) <= set(kubectl(SPACE, "get", "networkpolicies", "--output", "name").split())
    wait_for_end(SPACE, run)


def test_resume_takes_old_checkpoint():
    run = deploy(SPACE, "demo", LONG, {})
    wait_for_step(SPACE, run, 22)
    make(SPACE, "undeploy", f"RUN={run}")
    there = f"/store/runs/{run}/checkpoints"
    spoil = (
        f"cd {there} && set -- $(ls -d checkpoint-* | sort -t- -k2 -n | tail -n 1)/* && for f; do echo x >> $f; done"
    )
    kubectl(SPACE, "exec", "deploy/data-access", "--", "sh", "-c", spoil)
    before = time.time()
    assert deploy(SPACE, "demo", LONG, {}) == run
    desk = Desk(SPACE, run, recipe=SHORT)
    wait_for_step(SPACE, run, 1, after=before)
    seen = desk.type("resume-takes-old-checkpoint", "Diagnosis")
    assert "passed over, kept as damaged-checkpoint-" in seen and "damaged-checkpoint-" in seen.rpartition("$")[2], seen
    wait_for_end(SPACE, run)


def test_run_stalled():
    run = deploy(SPACE, "demo", LONG | {"max_steps": LASTING["max_steps"] + 1}, {})
    wait_for_step(SPACE, run, 12)
    (pod,) = running(run)
    kubectl(SPACE, "exec", pod, "--", "python", "-c", STOP, code=None)
    desk = Desk(SPACE, run, recipe=SHORT)
    seen = desk.type("run-stalled", "Diagnosis", only=["logs", "kubectl"])
    assert pod in seen
    before = time.time()
    desk.type("run-stalled", "Mitigation")
    wait_for_step(SPACE, run, 13, after=before)
    assert any(event["event"] == "resumed" and event["time"] > before for event in events(SPACE, run))
    wait_for_end(SPACE, run)


def test_store_full():
    run = deploy(SPACE, "demo", SHORT | {"seed": 7}, {})
    wait_for_end(SPACE, run)
    desk = Desk(SPACE, run, recipe=SHORT)
    seen = desk.type("store-full", "Diagnosis")
    assert "/store" in seen and run in seen
    delete = [line for line in commands("store-full", "Mitigation") if "delete-run" in line]
    make(SPACE, "undeploy", f"RUN={run}")
    seen = desk.one(f"{delete[0]} YES=1", codes=(0,))
    assert "deleted" in seen
    assert run not in kubectl(SPACE, "exec", "deploy/data-access", "--", "ls", "/store/runs")
    desk.type("store-full", "Mitigation", only=["storageclass"])
