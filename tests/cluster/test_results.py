"""Results from a real cluster's store: the exec stream is cut, the program is killed, runs are listed and deleted.

What comes is compared with the bytes that were written there.
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scripts.cluster.names import DATA_ACCESS
from tests.cluster.actors import job, own_namespace, stage, start  # noqa: F401 (stage is asked for by name)

pytestmark = pytest.mark.cluster
PLACE = own_namespace("results")

ROOT = Path(__file__).resolve().parents[2]
LARGE = 200_000_000
WRITE = f"""
import random, pathlib
run = pathlib.Path("/store/runs/medical-1")
for name in ("adapter", "merged"):
    (run / name).mkdir(parents=True, exist_ok=True)
(run / "adapter" / "weights").write_bytes(random.Random(1).randbytes(100_000))
with (run / "merged" / "weights").open("wb") as file:
    block = random.Random(2).randbytes(1_000_000)
    for number in range({LARGE} // len(block)):
        file.write(number.to_bytes(8, "big") + block[8:])
(run / "report.html").write_text("report")
(run / "run.json").write_text('{{"name": "medical-1", "status": "complete", "started": "2026-11-21T12:00:00"}}')
"""


@pytest.fixture(scope="module")
def place(request) -> str:
    """A store that holds one run with a large file; the image that the namespace's pods have."""
    image = request.getfixturevalue("stage")
    PLACE.run("exec", "-i", f"deployment/{DATA_ACCESS}", "--", "python", "-", given=WRITE, seconds=120)
    return image


def program(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"scripts.cluster.{name}", *words, "--namespace", PLACE.namespace]


def told(name: str, *words: str, code: int = 0) -> str:
    done = subprocess.run(program(name, *words), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def begin(to: Path) -> tuple[subprocess.Popen, Path]:
    """Results being copied, and the large file's unfinished copy, which has begun to grow."""
    process = subprocess.Popen(program("results", "--run", "medical-1", "--to", str(to)), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in (to / "merged").glob(".weights.*.partial"):
            if path.stat().st_size > 20_000_000:
                return process, path
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def right() -> str:
    """The hash of the large file as it was written."""
    found, block = hashlib.sha256(), random.Random(2).randbytes(1_000_000)
    for number in range(LARGE // len(block)):
        found.update(number.to_bytes(8, "big") + block[8:])
    return found.hexdigest()


def test_a_copy_whose_stream_is_cut_goes_on_by_itself(place, tmp_path):
    process, partial = begin(tmp_path)
    inode = partial.stat().st_ino
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "merged/weights: " in said and "going on" in said
    assert (tmp_path / "merged" / "weights").stat().st_ino == inode, f"another file was begun: {said}"
    assert digest(tmp_path / "merged" / "weights") == right()


def test_a_copy_that_was_killed_goes_on_where_it_stopped_and_a_third_call_copies_nothing(place, tmp_path):
    process, partial = begin(tmp_path)
    inode = partial.stat().st_ino
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "merged" / "weights").exists()
    told("results", "--overlay", "medical", "--to", str(tmp_path))
    assert (tmp_path / "merged" / "weights").stat().st_ino == inode
    assert digest(tmp_path / "merged" / "weights") == right()
    assert (tmp_path / "adapter" / "weights").read_bytes() == random.Random(1).randbytes(100_000)
    said = told("results", "--run", "medical-1", "--to", str(tmp_path))
    assert "are here already" in said and "copied (" not in said


def test_the_logs_of_pods_that_still_exist_are_saved(place, tmp_path):
    start(PLACE, *job("job", "quotes-1", place, [4, 0.1, "complete"], nodes=2))
    PLACE.run("wait", "job/quotes-1", "--for=condition=complete", "--timeout=60s", seconds=70)
    told("results", "--run", "quotes-1", "--to", str(tmp_path))
    saved = sorted(path.name[:10] for path in (tmp_path / "logs").iterdir())
    assert saved == ["quotes-1-0", "quotes-1-1"]
    assert (tmp_path / "log.jsonl").exists() and (tmp_path / "merged" / "model.safetensors").stat().st_size > 1e7


def test_runs_lists_jobs_and_what_only_the_store_remembers(place):
    start(PLACE, *job("job", "listed-1", place, [2, 0, "complete"]))
    PLACE.run("wait", "job/listed-1", "--for=condition=complete", "--timeout=60s", seconds=70)
    listed = {entry["name"]: entry for entry in json.loads(told("cluster_runs", "list", "--json"))}
    assert listed["medical-1"]["job"] == "" and listed["medical-1"]["bytes"] > LARGE
    assert (listed["listed-1"]["job"], listed["listed-1"]["state"]) == ("job", "complete")
    table = told("cluster_runs", "list")
    assert "/store/runs/medical-1" in table and "11.2500 -> 1.5000" in table


def test_a_run_is_deleted_only_when_it_is_over_and_was_named(place):
    start(PLACE, *job("job", "doomed-1", place, [100, 1, "complete"]))
    assert "stop it first: make undeploy" in told("cluster_runs", "delete", "--run", "doomed-1", "--yes", code=2)
    PLACE.run("delete", "job/doomed-1", "--cascade=foreground", "--timeout=60s", seconds=70)
    start(PLACE, *job("job", "doomed-1", place, [1, 0, "complete"]))
    PLACE.run("wait", "job/doomed-1", "--for=condition=complete", "--timeout=60s", seconds=70)
    assert "deleting needs a yes" in told("cluster_runs", "delete", "--run", "doomed-1", code=2)
    told("cluster_runs", "delete", "--run", "doomed-1", "--yes")
    assert "doomed-1" not in told("cluster_runs", "list") and PLACE.get("job", "doomed-1") is None
    assert "no such run" in told("cluster_runs", "delete", "--run", "doomed-1", "--yes", code=2)
