"""Fetching from a hub: what is published, several at once, and killed at any moment; nothing is fetched twice.

.venv/bin/python -m pytest tests/hub/test_hub_fetch.py
"""

import signal
import subprocess
import sys

import pytest

from scripts.fetch.choose import INDEX
from scripts.fetch.hub import fetch
from tests.hub.cases import (
    ROOT,
    add_files,
    add_model,
    assert_same,
    end_of,
    kill,
    published,
    start_fetch,
    wait_until,
    weights,
)
from tests.hub.server import serve
from train import stored

# ---- what is published ----


def test_a_model_is_published_whole_with_what_is_known_of_it(hub, store, source):
    status, said = end_of(start_fetch(hub, store, "--revision", "main", TUNEFLEET_EVENTS="-"))
    assert status == 0, said
    assert_same(published(store), source)
    manifest = stored.read_manifest(published(store))
    assert manifest["name"] == "o/m"
    assert manifest["licence"] == "apache-2.0"
    assert manifest["base_model"] == "o/base"
    assert manifest["gated"] is False
    assert manifest["source"] == {
        "hub": hub.endpoint.removeprefix("http://"), "repository": "o/m", "commit": manifest["revision"],
        "reference": "main",
    }  # fmt: skip
    assert "7 files to fetch" in said
    assert '"event": "transfer"' in said
    assert manifest["revision"] in next(line for line in said.splitlines() if '"event": "fetched"' in line)
    assert all(hub.sent[path.name] == path.stat().st_size for path in source.iterdir() if path.suffix == ".safetensors")


def test_what_is_there_is_not_fetched_again_and_a_commit_asks_nobody(hub, store, fetched):
    fetched()
    sent = hub.total()
    assert "is there" in fetched()
    commit = published(store).name
    asked = len(hub.log)
    assert "is there" in fetched(commit)
    assert hub.total() == sent
    assert len(hub.log) == asked


def test_a_damaged_model_is_mended_without_fetching_what_is_whole(hub, store, source, fetched):
    fetched()
    (published(store) / weights(2)).write_bytes(b"short")
    sent = dict(hub.sent)
    assert "is damaged" in fetched()
    assert_same(published(store), source)
    assert hub.sent[weights(1)] == sent[weights(1)]
    assert hub.sent[weights(2)] == 2 * sent[weights(2)]


def test_a_data_set_is_fetched_by_the_same_means(tmp_path, store, ask):
    files = ("data/train.jsonl", "test.csv", "README.md", "default/0.parquet")
    source = add_files(tmp_path / "hub", "datasets", "o/d", *files, "loader.py", "picture.png")
    with serve(tmp_path / "hub") as hub:
        ask(hub)
        directory = fetch("dataset", "o/d", None, store)
    assert_same(directory, source, left_out=("loader.py", "picture.png"))
    assert directory.parent == store / "datasets" / "o" / "d"


# ---- several at once ----


def size_of(source) -> int:
    """Bytes of all files of a model."""
    return sum(path.stat().st_size for path in source.iterdir())


def test_eight_at_once_transfer_once_and_all_succeed(tmp_path, store):
    source = add_model(tmp_path / "hub", size=1_000_000)
    with serve(tmp_path / "hub", rate=2e6) as hub:
        endings = [end_of(process) for process in [start_fetch(hub, store) for _ in range(8)]]
        assert [status for status, _ in endings] == [0] * 8, endings
        assert hub.total() == size_of(source), "every file once"
    assert sum("files to fetch" in said for _, said in endings) == 1
    assert sum("is being fetched by process" in said for _, said in endings) >= 1
    assert_same(published(store), source)


def test_where_the_one_that_transfers_is_killed_another_takes_over(tmp_path, store):
    source = add_model(tmp_path / "hub", size=1_000_000)
    with serve(tmp_path / "hub", rate=2e6) as hub:
        processes = {process.pid: process for process in [start_fetch(hub, store) for _ in range(8)]}
        wait_until(lambda: hub.total() > 1_000_000, "a third of the bytes")
        (lock,) = (store / "models" / stored.INCOMING).glob("*.lock")
        victim = int(lock.read_text().split()[1])
        kill(victim)
        processes.pop(victim).communicate()
        endings = [end_of(process) for process in processes.values()]
        assert [status for status, _ in endings] == [0] * 7, endings
        assert hub.total() < size_of(source) + 250_000
    assert sum("of it are here from before" in said and " verified in " in said for _, said in endings) == 1
    assert_same(published(store), source)
    assert not [path for path in (store / "models" / stored.INCOMING).iterdir() if path.suffix != ".lock"]


# ---- killed at a certain moment ----

KILL = """
import os, signal, sys
from scripts.fetch import follow, hub, model, watchdog
from train import stored
place, name, calls = {place}, {name!r}, {calls}
whole = getattr(place, name)
def counted(*words, **more):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*words, **more)
setattr(place, name, counted)
sys.exit(model.main())
"""
MOMENTS = {
    "while the first bytes are hashed": ("follow.Growing", "follow", 20),
    "when the first file is judged": ("watchdog.Watch", "judge", 1),
    "when the last file is judged": ("watchdog.Watch", "judge", 7),
    "when publishing begins": ("stored", "publish", 1),
    "while files are flushed": ("stored", "sync", 3),
    "before the manifest": ("stored", "write_json", 1),
    "behind the manifest": ("stored", "sync", 8),
    "before its name is noted": ("stored", "remember", 1),
    "when all is done but said": ("hub", "tell", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fetch_that_is_killed_while_it_hashes_or_publishes_goes_on_and_fetches_nothing_twice(
    hub, store, source, fetched, moment
):
    place, name, calls = MOMENTS[moment]
    words = [sys.executable, "-c", KILL.format(place=place, name=name, calls=calls), "--model", "o/m"]
    process = subprocess.Popen([*words, "--store", str(store)], cwd=ROOT)
    assert process.wait(60) == -signal.SIGKILL
    if place != "hub" and name != "remember":
        assert published(store) is None and stored.published(store) == []
    fetched()
    assert_same(published(store), source)
    again = hub.total() - size_of(source) - (hub.sent[INDEX] - (source / INDEX).stat().st_size)
    assert again <= (250_000 if name in ("follow", "judge") else 0), "the index is read at each question"
    assert not [path for path in (store / "models" / stored.INCOMING).iterdir() if path.suffix != ".lock"]
