"""scripts/store.py, the program that answers about the shared store from inside a pod, on a directory here.

.venv/bin/python -m pytest tests/unit/test_store.py
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "scripts" / "store.py"


@pytest.fixture
def store(tmp_path) -> Path:
    """A store with one run, a data set, and a secret beside it."""
    root = tmp_path / "store"
    run = root / "runs" / "medical-1"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "weights").write_bytes(b"0123456789")
    (run / "report.html").write_text("report")
    (run / ".lock").write_text("1")
    record = {"name": "medical-1", "status": "complete", "recipe": {"lora_r": 8}, "started": "2026-11-21T12:00:00"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "after.json").write_text(json.dumps({"exact_match": {"share": 0.75}}))
    (root / "datasets").mkdir()
    (tmp_path / "secret").write_text("secret")
    return root


def ask(store: Path, *words: str, code: int = 0):
    """What the program answers, given as the workstation gives it: on Python's standard input."""
    command = [sys.executable, "-I", "-", "--store", str(store), *words]
    done = subprocess.run(command, stdin=PROGRAM.open("rb"), capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    return done.stderr.decode() if code else done.stdout


def test_every_run_is_listed_with_its_size_and_what_it_has(store):
    (found,) = json.loads(ask(store, "runs"))
    assert found["name"] == "medical-1" and found["bytes"] > 10
    assert found["has"] == ["adapter", "after.json", "report.html"]
    assert found["exact_match"] == [None, 0.75]
    assert "recipe" not in found["record"] and found["record"]["status"] == "complete"


def test_a_torn_record_does_not_hide_the_other_runs(store):
    (store / "runs" / "torn").mkdir()
    (store / "runs" / "torn" / "run.json").write_text('{"name": ')
    assert [one["name"] for one in json.loads(ask(store, "runs"))] == ["medical-1", "torn"]


def test_a_manifest_names_every_result_and_nothing_hidden(store):
    found = json.loads(ask(store, "manifest", "runs/medical-1"))
    assert set(found) == {"adapter/weights", "report.html", "run.json", "after.json"}
    assert found["adapter/weights"] == {"size": 10, "sha256": hashlib.sha256(b"0123456789").hexdigest()}
    assert set(json.loads(ask(store, "manifest", "runs/medical-1", "adapter", "merged"))) == {"adapter/weights"}


def test_a_file_is_hashed_again_only_when_size_or_time_changed(store):
    weights = store / "runs" / "medical-1" / "adapter" / "weights"
    before = json.loads(ask(store, "manifest", "runs/medical-1", "adapter"))
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    weights.write_bytes(b"9876543210")
    os.utime(weights, ns=times)
    assert json.loads(ask(store, "manifest", "runs/medical-1", "adapter")) == before, "the remembered hash"
    fresh = json.loads(ask(store, "manifest", "runs/medical-1", "adapter", "--fresh"))
    assert fresh["adapter/weights"]["sha256"] == hashlib.sha256(b"9876543210").hexdigest()
    weights.write_bytes(b"longer than before")
    assert json.loads(ask(store, "manifest", "runs/medical-1", "adapter"))["adapter/weights"]["size"] == 18


def test_hashes_of_other_files_are_kept_when_only_some_are_asked_for(store):
    ask(store, "manifest", "runs/medical-1")
    ask(store, "manifest", "runs/medical-1", "adapter")
    assert "report.html" in json.loads((store / "runs" / "medical-1" / ".manifest.json").read_text())


def test_a_file_is_sent_from_the_byte_that_is_asked_for(store):
    assert ask(store, "send", "runs/medical-1", "adapter/weights", "4") == b"456789"
    assert ask(store, "send", "runs/medical-1", "adapter/weights", "10") == b""
    assert "is shorter than 11" in ask(store, "send", "runs/medical-1", "adapter/weights", "11", code=2)
    assert "is not on the store" in ask(store, "send", "runs/medical-1", "merged", "0", code=2)


def test_several_files_come_in_one_stream(store):
    sent = ask(store, "pack", "runs/medical-1", "report.html", "adapter", "absent", "adapter/weights")
    with tarfile.open(fileobj=io.BytesIO(sent)) as stream:
        found = {one.name: stream.extractfile(one).read() for one in stream}
    assert found == {"report.html": b"report", "adapter/weights": b"0123456789"}


@pytest.mark.parametrize(
    "words",
    [
        ("pack", "..", "secret"),
        ("pack", "runs/medical-1", "report.html", "../../../secret"),
        ("pack", "runs/medical-1", "link"),
        ("send", "..", "secret", "0"),
        ("send", "runs/medical-1", "../../../secret", "0"),
        ("send", "runs/medical-1", "link", "0"),
        ("manifest", "../"),
        ("manifest", "runs/medical-1", "../../.."),
        ("find", "/etc/passwd"),
        ("delete", "../datasets"),
        ("delete", "."),
        ("delete", ""),
    ],
)
def test_nothing_outside_the_store_is_read_or_removed(store, words):
    (store / "runs" / "medical-1" / "link").symlink_to(store.parent / "secret")
    said = ask(store, *words, code=2)
    assert "lies outside the store" in said or "is no run's name" in said
    assert (store / "datasets").is_dir()


def test_what_is_asked_for_is_found_or_said_to_be_missing(store):
    found = json.loads(ask(store, "find", "runs/medical-1/adapter", "models/nothing", str(store / "datasets")))
    assert found["runs/medical-1/adapter"] == {"exists": True, "kind": "directory", "size": 10}
    assert not found["models/nothing"]["exists"] and found[str(store / "datasets")]["exists"]


def test_a_run_is_deleted_whole_and_its_name_was_asked_for(store):
    assert json.loads(ask(store, "delete", "medical-1"))["deleted"] == "medical-1"
    assert list((store / "runs").iterdir()) == []
    assert "is not on the store" in ask(store, "delete", "medical-1", code=2)


def test_space_says_what_is_free_and_who_takes_the_rest(store):
    found = json.loads(ask(store, "space"))
    assert 0 < found["free"] < found["total"] and found["taken"]["runs"] > found["taken"]["datasets"] == 0


def test_the_program_needs_only_the_standard_library():
    names = {
        line.split()[1].split(".")[0]
        for line in PROGRAM.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert names and names <= sys.stdlib_module_names
