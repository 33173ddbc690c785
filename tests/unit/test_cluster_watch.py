"""The view of a run that goes on: its events, its lines, and that no trouble of cluster or view ends it wrongly.

.venv/bin/python -m pytest tests/unit/test_cluster_watch.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.cluster import watch
from scripts.cluster.progress import Progress, read_event, replay, step_line, take
from scripts.cluster.watch_view import View, state_lines
from tests.clock import set_time
from tests.unit.test_cluster_jobs import RUNNING, ended, pod
from tests.unit.test_cluster_jobs import job as a_job

ROOT = Path(__file__).resolve().parents[2]


def line(event: str, **values) -> str:
    """A line of the log that machines read."""
    return "tunefleet: " + json.dumps({"event": event, **values})


def step(number: int, total: int = 10) -> str:
    return line("step", step=number, total=total, loss=10 / number, tokens_per_second=400.0, seconds_left=60.0)


# ---- events ----


def test_a_log_tells_where_the_run_stands():
    text = "\n".join([
        line("start", run="r", index=0, nodes=2, processes=1, node="node1", attempt=0),
        "a line for people",
        line("stage", stage="check-data", state="done", seconds=61.0),
        line("stage", stage="train", state="started"),
        step(4),
        line("validation", step=4, total=10, eval_loss=2.5, perplexity=12.2),
        line("checkpoint", step=4),
        step(5),
    ])  # fmt: skip
    progress, told, events = replay(text)
    assert (progress.step, progress.total, progress.eval_loss, progress.checkpoint) == (5, 10, 2.5, 4)
    assert progress.stage == "train" and len(events) == 7
    expected = ["started on node1", "check-data done in 1:01 min", "train …", "step 4: validation loss 2.5000"]
    assert [text.removeprefix("earlier   ") for text in told] == expected
    assert step_line(progress) == "step 5/10 (50%)  loss 2.0000  400 tokens/s  1:00 min left  checkpoint at 4"


@pytest.mark.parametrize(
    "text",
    ["tunefleet: {", 'tunefleet: {"step": 1', "tunefleet: [1]", '{"a": 1}', "loss 3", "", 'tunefleet: {"other": 1}'],
)
def test_torn_and_foreign_lines_are_no_events(text):
    assert read_event(text) is None


def test_a_launchers_prefix_does_not_hide_an_event():
    assert read_event("[1,0]<stdout>: " + step(3))["step"] == 3


def test_an_event_nobody_knows_yet_does_no_harm():
    assert take(Progress(), {"event": "new", "value": 1}) == ""


def test_a_wait_that_goes_on_is_said_once():
    progress, told, _ = replay("\n".join(line("waiting", seconds=s, **{"for": "node2"}) for s in range(5)))
    assert told == ["earlier   waits for node2"] and progress.waiting == "node2"


def test_what_the_store_remembers_has_its_time():
    (told,) = replay(json.dumps({"time": 0.0, "event": "resumed", "step": 3}))[1]
    assert told.startswith(("1970-01-01 ", "1969-12-31 ")) and told.endswith("goes on from step 3")


def test_another_ranks_start_is_not_the_leaders():
    progress = Progress()
    assert take(progress, {"event": "start", "index": 1, "node": "node2"}) == "" and progress.nodes is None


# ---- the view ----


def test_the_view_shows_pods_stages_bar_and_figures():
    progress = replay("\n".join([line("stage", stage="train", state="started"), step(5)]))[0]
    shown = "\n".join(state_lines(a_job("job", pods=(pod(states=(RUNNING,)),)), progress, "", heard=10.0))
    assert "[###############...............] 5/10   50%   50 s left" in shown
    assert "silent" not in shown
    long_ago = state_lines(a_job("job", pods=(pod(states=(RUNNING,)),)), progress, "", heard=1200.0)
    assert "silent    nothing was told for 20:00 min (docs/runbooks/run-stalled.md)" in long_ago
    assert "0 running node1" in shown and "loss 2.0000   400 tokens/s" in shown and "train …" in shown


def test_the_view_says_why_a_run_waits_and_that_the_cluster_is_away():
    waits = a_job("job", pods=(pod(phase="Pending"),))
    waits.reason = "the queue is full"
    shown = "\n".join(state_lines(waits, Progress(), "refused", 0.0))
    assert "because   the queue is full" in shown and "trying again: refused" in shown


def test_a_job_that_nothing_ends_is_said_once(tmp_path, monkeypatch):
    path, now = tmp_path / "seen", [1000.0]
    set_time(monkeypatch, watch, monotonic=lambda: now[0])
    with path.open("w") as out:
        follower = watch.Watch(None, "r", View(out, live=False))
        follower.listener = SimpleNamespace(attend=lambda _: None)
        done, works = pod(phase="Succeeded"), pod(states=(RUNNING,))
        for pods in [(done, works), (done,), (done,), (done,)]:
            now[0] += 40
            follower.see(a_job("pytorchjob", pods=pods))
    (said,) = [line for line in path.read_text().splitlines() if "controller" in line]
    assert said.endswith(
        "every pod is done, but nothing ends the pytorchjob: is its controller down? make cluster-check"
    )


def test_a_terminal_is_redrawn_and_a_file_gets_plain_lines(tmp_path):
    for live in (True, False):
        path = tmp_path / f"{live}"
        with path.open("w") as out:
            view = View(out, live)
            progress = replay(step(5))[0]
            view.show(a_job("job"), progress, "", 0.0)
            view.say("something happened")
            view.show(a_job("job"), progress, "", 0.0)
        assert ("\x1b[" in path.read_text()) is live
        assert "something happened\n" in path.read_text()


def test_a_long_story_is_shortened_in_the_middle(tmp_path):
    with (tmp_path / "out").open("w") as out:
        View(out, False).say_all([f"line {number}" for number in range(1000)])
    shown = (tmp_path / "out").read_text().splitlines()
    assert len(shown) < 40 and shown[0].endswith("line 0") and shown[-1].endswith("line 999")


# ---- a run, followed through a kubectl that answers from files ----


class World:
    """A cluster of files, and `make watch` on it."""

    def __init__(self, path: Path):
        self.path = path
        program = path / "bin" / "kubectl"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "unit" / "fake_kubectl.py"} "$@"\n')
        program.chmod(0o755)
        self.environment = {**os.environ, "FAKE": str(path), "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def job(self, *conditions: tuple, pods: list[dict]) -> None:
        """What the API server tells from now on."""
        for name, content in (("jobs.json", [a_job("job", conditions=conditions).object]), ("pods.json", pods)):
            (self.path / f".{name}").write_text(json.dumps(content))
            (self.path / f".{name}").rename(self.path / name)

    def log(self, name: str, *lines: str) -> None:
        """More lines in a pod's log."""
        path = self.path / f"log-{name}"
        count = len(path.read_text().splitlines()) if path.exists() else 0
        with path.open("a") as file:
            for number, text in enumerate(lines):
                file.write("END\n" if text == "END" else f"2026-11-21T12:{count + number:02}:00Z {text}\n")

    def watch(self, *words: str) -> subprocess.Popen:
        """The program, running."""
        command = [sys.executable, "-m", "scripts.cluster.watch", *(words or ("--run", "r"))]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def until(self, process: subprocess.Popen, words: str) -> str:
        """What it says until these words come."""
        said = ""
        for text in process.stdout:
            said += text
            if words in text:
                return said
        raise AssertionError(f"never said {words!r}:\n{said}")


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


DONE = ("Complete", "", "")


def test_a_run_is_followed_to_its_end(world):
    world.job(pods=[pod(states=(RUNNING,))])
    world.log("r-0-x0", line("start", index=0, node="node1"), step(1))
    process = world.watch()
    world.until(process, "step 1/10")
    world.log("r-0-x0", line("validation", step=2, eval_loss=2.0), line("end", status="complete", code=0), "END")
    world.job(DONE, pods=[pod(states=({"state": {"terminated": {"exitCode": 0}}},), phase="Succeeded")])
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0, said
    assert "r is complete, validation loss 2.0000" in said and "make results RUN=r" in said


def test_a_cluster_that_is_away_for_a_while_is_waited_for(world):
    world.job(pods=[pod(states=(RUNNING,))])
    world.log("r-0-x0", step(1))
    process = world.watch()
    world.until(process, "step 1/10")
    (world.path / "down").touch()
    assert "refused" in world.until(process, "the cluster does not answer, trying again")
    world.log("r-0-x0", line("stage", stage="merge", state="started"), "END")
    world.job(DONE, pods=[pod(states=({"state": {"terminated": {"exitCode": 0}}},), phase="Succeeded")])
    (world.path / "down").unlink()
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0 and "the cluster answers again" in said and said.count("merge …") == 1, said


def test_a_replaced_pod_is_followed_and_what_it_told_before_is_said_once(world):
    before = [line("start", index=0, node="node1"), line("stage", stage="train", state="started")]
    (world.path / "log.jsonl").write_text("".join(text.removeprefix("tunefleet: ") + "\n" for text in before))
    world.job(pods=[pod(states=(RUNNING,))])
    world.log("r-0-x0", *before, step(1))
    process = world.watch()
    said = world.until(process, "step 1/10")
    world.log("r-0-x0", "END")
    world.job(pods=[pod(states=(ended(143),), phase="Failed"), pod(states=(RUNNING,), made=5)])
    world.log("r-0-x5", line("start", index=0, node="node2", attempt=1), line("resumed", step=1))
    said += world.until(process, "goes on from step 1")
    assert "started on node2, start 2" in said and said.count("started on node1") == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_ctrl_c_leaves_the_run_alone_and_says_so(world):
    world.job(pods=[pod(states=(RUNNING,))])
    world.log("r-0-x0", step(1))
    process = world.watch()
    world.until(process, "step 1/10")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "the view is closed, the run goes on: make watch RUN=r shows it again"
    assert "delete" not in (world.path / "calls").read_text()


def test_a_failed_run_ends_with_the_cause_the_last_lines_and_exit_status_1(world):
    world.log("r-0-x0", "END")
    world.log("r-1-x0", "reading rows", "RuntimeError: the disk is full", "END")
    pods = [pod(states=(ended(143, 9),), phase="Failed"), pod(1, (ended(1, 5, message="the disk is full"),), "Failed")]
    world.job(("Failed", "BackoffLimitExceeded", "too often"), pods=pods)
    process = world.watch()
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert "failed: r: pod r-1-x0 on node1 ended with exit code 1: the disk is full" in said
    assert "  2026-11-21T12:01:00Z RuntimeError: the disk is full" in said


def test_a_run_that_is_taken_away_meanwhile_ends_the_view(world):
    world.job(pods=[pod(states=(RUNNING,))])
    process = world.watch()
    world.until(process, "running")
    (world.path / "jobs.json").write_text("[]")
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 1 and "taken away before it was done" in said


def test_a_cluster_that_never_answered_is_told_at_once(world):
    (world.path / "down").touch()
    begun = time.monotonic()
    process = world.watch()
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 1 and "was refused" in said and time.monotonic() - begun < 10


def test_a_refusal_is_told_as_what_it_is_with_a_fix(world):
    said = 'Error from server (Forbidden): jobs.batch is forbidden: User "joe" cannot list resource "jobs"'
    (world.path / "refuse").write_text(said)
    for program in ("watch", "status", "shell"):
        command = [sys.executable, "-m", f"scripts.cluster.{program}", "--run", "r"]
        done = subprocess.run(command, cwd=ROOT, env=world.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "does not answer" not in done.stderr + done.stdout
        assert f"this login may not do that (kubectl says: {said})" in done.stderr
        assert "fix: ask the namespace's administrator" in done.stderr


def test_a_store_that_cannot_be_asked_is_not_taken_for_one_that_does_not_know_the_run(world):
    process = world.watch("--run", "nothing")
    said = process.communicate(timeout=20)[0]
    assert "no such run" not in said and process.returncode == 2
    assert "nothing: has no job on the cluster, and what the store knows cannot be told" in said
    assert "no pod answers for the store" in said and "make cluster-setup" in said


def test_a_run_that_nobody_knows_is_bad_input(world):
    (world.path / "log.jsonl").write_text("[]")
    process = world.watch("--run", "nothing")
    assert "nothing: no such run" in process.communicate(timeout=20)[0] and process.returncode == 2
