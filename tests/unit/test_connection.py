"""Many questions over one kubectl: the API server's answers and refusals as kubectl tells them, nothing left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scripts.cluster.kubectl import Cluster, Refused, connected

ROOT = Path(__file__).resolve().parents[2]
ABSENT = {"kind": "Status", "code": 404, "reason": "NotFound", "message": 'namespaces "a" not found'}
PATHS = {
    "/there": [200, {"by": "server"}],
    "/absent": [404, ABSENT],
    "/no-such-api": [404, "404 page not found"],
    "/logged-out": [401, {"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"}],
    "/starting": [429, {"kind": "Status", "reason": "TooManyRequests", "message": "storage is (re)initializing"}],
    "/away": [502, "dial tcp: connection refused"],
    "/pods?dryRun=All&fieldValidation=Strict": [201, {"by": "server"}],
}

PROGRAM = """
import time
from scripts.cluster.kubectl import Cluster, connected
with connected(Cluster()) as cluster:
    cluster.raw("there")
    print("asked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """kubectl is tests/unit/proxy_kubectl.py; its directory."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "unit" / "proxy_kubectl.py"} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "paths.json").write_text(json.dumps(PATHS))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def calls(fake: Path) -> list[str]:
    """How kubectl was started, once a line."""
    path = fake / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_many_questions_start_one_kubectl_and_none_where_none_is_asked(fake):
    with connected(Cluster()) as cluster:
        assert calls(fake) == []
        assert [cluster.raw("there") for _ in range(5)] == [{"by": "server"}] * 5
        with connected(cluster) as same:
            assert same.raw("/there") == {"by": "server"}
    assert calls(fake) == ["proxy --unix-socket"]


def test_a_new_object_is_tried_with_its_body(fake):
    with connected(Cluster()) as cluster:
        assert cluster.try_post("pods", {"kind": "Pod"}) == {"by": "server"}
    assert (fake / "asked").read_text() == 'POST /pods?dryRun=All&fieldValidation=Strict {"kind": "Pod"}\n'


def test_a_refusal_is_told_in_kubectls_words(fake):
    with connected(Cluster()) as cluster, pytest.raises(Refused) as refused:
        cluster.raw("absent")
    assert str(refused.value) == 'Error from server (NotFound): namespaces "a" not found'
    assert calls(fake) == ["proxy --unix-socket"]


@pytest.mark.parametrize("path", ["no-such-api", "logged-out", "starting", "away"])
def test_what_is_no_plain_answer_is_asked_of_kubectl_itself(fake, path):
    with connected(Cluster()) as cluster:
        assert cluster.raw(path) == {"by": "kubectl"}
    assert calls(fake) == ["proxy --unix-socket", "get --raw"]


def test_without_a_proxy_kubectl_itself_is_asked(fake):
    (fake / "absent").touch()
    with connected(Cluster()) as cluster:
        assert [cluster.raw("there"), cluster.raw("there")] == [{"by": "kubectl"}] * 2
    assert calls(fake) == ["proxy --unix-socket", "get --raw", "get --raw"]


def test_a_proxy_that_dies_is_missed_by_nobody(fake):
    with connected(Cluster()) as cluster:
        cluster.raw("there")
        os.kill(int((fake / "pid").read_text()), signal.SIGKILL)
        assert cluster.raw("there") == {"by": "kubectl"}


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_asked(fake):
    with connected(Cluster()) as cluster, pytest.raises(Refused, match="no answer within 1 s"):
        cluster.raw("slow", seconds=1)


def test_nobody_else_reaches_the_socket_and_it_goes_with_kubectl(fake):
    with connected(Cluster()) as cluster:
        cluster.raw("there")
        place = Path(cluster.connection.directory)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        kubectl = psutil.Process(int((fake / "pid").read_text()))
    assert not place.exists()
    assert psutil.wait_procs([kubectl], timeout=10)[0]


def test_kubectl_ends_with_a_program_that_is_killed(fake):
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"asked\n"
        kubectl = psutil.Process(int((fake / "pid").read_text()))
        place = Path(kubectl.cmdline()[-1]).parent
        assert place.exists()
        process.kill()
    assert psutil.wait_procs([kubectl], timeout=10)[0]
    deadline = time.monotonic() + 10
    while place.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not place.exists()
