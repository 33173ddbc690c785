"""Data sets and damage, with the real client against the hub of the tests: fetched, trained on, verified, mended.

.venv/bin/python -m pytest tests/hub/test_hub_data.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.artifacts import Here, mend, verify
from tests.hub.cases import ROOT, add_model
from tests.hub.server import serve
from tests.hub.state import Hub
from train import stored
from train.data_hub import find_dataset, read_dataset
from train.in_store import fetch_command

ROWS = "".join(f'{{"instruction": "Say {n}.", "output": "{n}"}}\n' for n in range(100))


@pytest.fixture
def hub(tmp_path):
    rows = tmp_path / "repositories" / "datasets" / "o" / "rows" / "main"
    (rows / "data").mkdir(parents=True)
    (rows / "data" / "train.jsonl").write_text(ROWS)
    (rows / "data" / "test.jsonl").write_text(ROWS.partition("\n")[0] + "\n")
    (rows / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nRows.\n")
    (rows / "script.py").write_text("raise SystemExit('never run')")
    add_model(tmp_path / "repositories")
    with serve(tmp_path / "repositories") as running:
        yield running


def fetch(hub: Hub, store: Path, *words: str) -> str:
    """What a fetch that ends well says."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(store.parent / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", *words, "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_data_set_of_the_hub_is_fetched_found_and_read_by_its_split(hub, tmp_path, monkeypatch):
    store = tmp_path / "store"
    said = fetch(hub, store, "scripts.fetch.data", "--data", "o/rows")
    monkeypatch.setenv("STORE", str(store))
    directory = find_dataset("o/rows", None, "train.yaml")
    manifest = stored.read_manifest(directory)
    assert manifest["revision"] in said and manifest["licence"] == "cc-by-4.0"
    assert sorted(manifest["files"]) == ["README.md", "data/test.jsonl", "data/train.jsonl"]
    rows = read_dataset(directory, "o/rows", None, "train[:17]", "train.yaml")
    assert [row["output"] for _, row in rows] == [str(n) for n in range(17)]
    assert len(read_dataset(directory, "o/rows", None, "test", "train.yaml")) == 1
    asked = len(hub.log)
    assert "is there" in fetch(hub, store, "scripts.fetch.data", "--data", "o/rows", "--revision", manifest["revision"])
    assert len(hub.log) == asked, "a commit that is there is asked nobody"


def test_a_damaged_file_is_set_aside_by_verify_and_just_that_is_fetched_again(hub, tmp_path, capsys):
    store = tmp_path / "store"
    fetch(hub, store, "scripts.fetch.model", "--model", "o/m")
    directory = stored.find(store, "model", "o/m", None)
    shard = directory / "model-00002-of-00003.safetensors"
    right = shard.read_bytes()
    shard.write_bytes(right[:1000] + bytes([right[1000] ^ 1]) + right[1001:])
    place = Here(store, tmp_path)
    (entry,) = place.list()["artifacts"]
    assert verify(place, [entry]) == 1
    line = fetch_command("model", "o/m", entry["revision"])
    assert line in capsys.readouterr().out and mend(entry, "") == line
    before = hub.sent.copy()
    fetch(hub, store, "scripts.fetch.model", "--model", "o/m", "--revision", entry["revision"])
    assert shard.read_bytes() == right
    sent = {Path(name).name: count for name, count in (hub.sent - before).items() if name.endswith(".safetensors")}
    assert sent == {shard.name: len(right)}
    assert verify(place, place.list()["artifacts"]) == 0
    assert not list(directory.glob(".*"))
