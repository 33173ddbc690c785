"""make fetch-model ON=cluster: its job is made once, followed to its end, and every bad input has its message.

.venv/bin/python -m pytest tests/unit/test_cluster_fetch.py
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.cluster import fetch
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "unit" / "job_kubectl.py"
MODEL = ("model", "--model", "owner/model", "--namespace", "team")
pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def pod(code: int | None = None, message: str = "", waiting: str = "") -> dict:
    """The fetch's pod: running, ended with a code, or waiting."""
    state = {"running": {}}
    if code is not None:
        state = {"terminated": {"exitCode": code, "message": message, "finishedAt": "2026-11-22T00:00:09Z"}}
    if waiting:
        state = {"waiting": {"reason": waiting}}
    labels = {"batch.kubernetes.io/job-completion-index": "0", "tunefleet.io/role": "fetch"}
    metadata = {"name": "fetch-0", "uid": "1", "labels": labels, "creationTimestamp": "2026-11-22T00:00:00Z"}
    phase = "Running" if code is None else "Failed" if code else "Succeeded"
    status = {"phase": phase, "containerStatuses": [{"name": "fetch", "image": "localhost/t:1", "state": state}]}
    return {"metadata": metadata, "spec": {"nodeName": "node1", "containers": [{"name": "fetch"}]}, "status": status}


class World:
    """A namespace with a store, and what happens in it."""

    def __init__(self, path: Path):
        self.path = path / "fake"
        self.started: list[subprocess.Popen] = []
        self.path.mkdir()
        (path / "bin").mkdir()
        (path / "bin" / "kubectl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" "$@"\n')
        (path / "bin" / "kubectl").chmod(0o755)
        self.own = {"FAKE": str(self.path), "KUBECTL": shutil.which("kubectl"),
               "PATH": f"{path / 'bin'}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment |= self.own
        (self.path / "claim").touch()

    def start(self, *words: str) -> subprocess.Popen:
        """The program, begun."""
        command = [sys.executable, "-m", "scripts.cluster.fetch", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        self.started.append(process)
        return process

    def ask(self, *words: str, code: int = 0) -> str:
        """What the program says in all."""
        process = self.start(*words)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == code, said
        return said

    def pods(self, *pods: dict, name: str = "pods.json") -> None:
        (self.path / name).write_text(json.dumps(list(pods)))

    def log(self, *lines: str) -> None:
        with (self.path / "log").open("a") as file:
            file.write("".join(line + "\n" for line in lines))

    def end(self, kind: str) -> None:
        """The job's condition: Complete or Failed."""
        job = json.loads((self.path / "job.json").read_text())
        job["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        (self.path / "job.json").write_text(json.dumps(job))

    def calls(self, word: str) -> int:
        return sum(line.startswith(word) for line in (self.path / "calls").read_text().splitlines())


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    before = set((ROOT / "build" / "cluster").glob("fetch-*"))
    yield made
    for process in made.started:
        with contextlib.suppress(ProcessLookupError):  # the program and the kubectl that it started
            os.killpg(process.pid, signal.SIGKILL)
    for path in set((ROOT / "build" / "cluster").glob("fetch-*")) - before:
        shutil.rmtree(path)


def until(process: subprocess.Popen, words: str) -> str:
    """What it says until these words, within a minute."""
    said = ""
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    try:
        while words not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
    finally:
        alarm.cancel()
    return said


def transfer(done: int) -> str:
    return "tunefleet: " + json.dumps({"event": "transfer", "what": "owner/model", "bytes": done, "total": 1000})


def test_a_fetch_is_started_followed_and_ends_with_the_pods_words(world):
    world.pods(pod(), name="then-pods.json")
    world.log(
        "owner/model is commit 0123",
        transfer(0),
        transfer(500),
        "owner/model: 1.2 GB of 2.0 GB (60%), 9 MB/s, 3 s left",
    )
    process = world.start(*MODEL)
    until(process, "owner/model is commit 0123")
    world.log("models/owner/model/0123 is there", "END")
    world.pods(pod(0))
    world.end("Complete")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert "models/owner/model/0123 is there" in said and "tunefleet:" not in said and "60%" not in said
    made = json.loads((world.path / "created.json").read_text())
    assert made["spec"]["template"]["spec"]["containers"][0]["args"][3:7] == [
        "--model",
        "owner/model",
        "--store",
        "/store",
    ]


def test_who_asks_while_it_runs_follows_the_same_job(world):
    world.pods(pod(), name="then-pods.json")
    first, second = world.start(*MODEL), None
    until(first, "started")
    second = world.start(*MODEL)
    until(second, "runs already")
    world.log("END")
    world.pods(pod(0))
    world.end("Complete")
    assert first.wait(30) == 0 and second.wait(30) == 0
    assert world.calls("delete") == 0


def test_a_fetch_that_is_over_is_asked_for_again_by_a_new_job(world):
    world.pods(pod(0), name="then-pods.json")
    process = world.start(*MODEL)
    until(process, "started")
    world.log("END")
    world.end("Complete")
    assert process.wait(30) == 0
    process = world.start(*MODEL)
    until(process, "started")
    world.end("Complete")
    assert process.wait(30) == 0
    assert world.calls("create") == 2 and world.calls("delete job") == 1


def test_bad_input_there_is_bad_input_here_and_a_missing_token_is_explained(world):
    world.pods(pod(2, "error: model owner/model: is gated: accept its licence"), name="then-pods.json")
    world.log("error: model owner/model: is gated: accept its licence", "  fix: set HF_TOKEN", "END")
    process = world.start(*MODEL)
    until(process, "started")
    world.end("Failed")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert "is gated" in said and "Secret hub-token, key HF_TOKEN" in said and "--token-from" in said


def test_a_crash_there_is_exit_status_1_here_and_says_that_it_goes_on(world):
    world.pods(pod(1, "failed: the hub is still busy"), name="then-pods.json")
    world.log("failed: the hub is still busy", "END")
    process = world.start(*MODEL)
    until(process, "started")
    world.end("Failed")
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert "ended with exit code 1" in said and "the same command goes on" in said and "hub-token" not in said


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(world):
    world.pods(pod(), name="then-pods.json")
    world.log("half of it")
    process = world.start(*MODEL)
    until(process, "half of it")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert "make fetch-model ON=cluster MODEL=owner/model shows it again, make fetch-stop ends it" in said
    assert world.calls("delete") == 0


def test_a_cluster_that_is_away_for_a_while_is_waited_for(world):
    world.pods(pod(), name="then-pods.json")
    world.log("begun")
    process = world.start(*MODEL)
    until(process, "begun")
    (world.path / "refuse").write_text("The connection to the server was refused")
    until(process, "does not answer, trying again: The connection to the server was refused")
    (world.path / "refuse").unlink()
    until(process, "the cluster answers again")
    world.log("END")
    world.end("Complete")
    assert process.wait(30) == 0


def test_a_fetch_is_stopped_and_what_came_stays(world):
    world.pods(pod(), name="then-pods.json")
    process = world.start(*MODEL)
    until(process, "started")
    said = world.ask("stop", *MODEL[1:])
    assert "stopped; make fetch-model ON=cluster MODEL=owner/model goes on" in said
    assert process.wait(30) == 1
    assert "taken away before it was done" in process.stdout.read()
    assert "no such job" in world.ask("stop", *MODEL[1:])


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (
            ("model",),
            {},
            ("OVERLAY=demo: model_name_or_path: demo/model is a path of this machine", "make deliver MODEL="),
        ),
        (("data",), {}, ("OVERLAY=demo: dataset_name: the recipe names none", "make deliver DATA=file")),
        (("model", "--overlay", "nothing"), {}, ("OVERLAY", "nothing")),
        (("data", "--data", "./rows.jsonl"), {}, ("DATA: ./rows.jsonl is a path of this machine",)),
        (("data", "--data", "https://host/rows.jsonl"), {}, ("SHA256: is missing",)),
        (
            ("data", "--data", "https://me:secret@host/rows.jsonl", "--sha256", "0" * 64),
            {},
            ("holds a user or password",),
        ),
        (
            ("data", "--data", "https://host/rows.jsonl?Signature=secret@", "--sha256", "0" * 64),
            {},
            ("DATA: https://host/rows.jsonl: has a query", "make deliver DATA=NAME"),
        ),
        (MODEL, {"HF_ENDPOINT": "https://me:secret@mirror"}, ("HF_ENDPOINT: holds a user or password",)),
        (
            (*MODEL, "--overlay", "argilla", "--place", "s3.url=s3://b/p"),
            {},
            ("ON: cluster: fetches into", "in s3://b/p", "make fetch-model MODEL=owner/model STORE=s3://b/p"),
        ),
        (
            ("data", "--data", "o/d", "--revision", "v1"),
            {"STORE": "s3://b/p"},
            ("where no run looks: STORE=s3://b/p", "make fetch-data DATA=o/d REVISION=v1 STORE=s3://b/p"),
        ),
        ((*MODEL, "--with", "porxy"), {}, ("WITH: porxy: is no component",)),
        ((*MODEL, "--with", "proxy"), {}, ("proxy: is missing, and component proxy uses it",)),
    ],
)
def test_what_cannot_be_fetched_there_is_said_before_anything_is_made(world, monkeypatch, words, environment, expected):
    said = refused(world, monkeypatch, words, environment)
    assert all(text in said for text in expected), said
    assert "secret@" not in said
    assert not (world.path / "created.json").exists()


def refused(world: World, monkeypatch, words: tuple, environment: dict | None = None) -> str:
    """What the program, in this process, finds wrong with these words."""
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name, value in (world.own | (environment or {})).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["fetch", *words])
    with pytest.raises(InputError) as error:
        fetch.main()
    return str(error.value)


def test_a_namespace_without_a_store_is_told_what_makes_one(world, monkeypatch):
    (world.path / "claim").unlink()
    said = refused(world, monkeypatch, MODEL)
    assert "namespace team: store: there is no claim" in said and "make cluster-setup NAMESPACE=team" in said
    (world.path / "refuse").write_text('Error from server (NotFound): namespaces "team" not found')
    assert "NAMESPACE: team: is not on the cluster" in refused(world, monkeypatch, MODEL)
    (world.path / "refuse").write_text("error: You must be logged in to the server (Unauthorized)")
    assert "failed: error: You must be logged in" in world.ask(*MODEL, code=1)


def test_an_image_that_no_node_has_ends_the_view_with_what_to_do(world):
    world.pods(pod(waiting="ErrImageNeverPull"), name="then-pods.json")
    process = world.start(*MODEL)
    began = time.monotonic()
    said = until(process, "lacks the image")
    assert time.monotonic() - began < 20 and "make push brings it to the nodes" in said
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)
