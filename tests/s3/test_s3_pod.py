"""A pod whose store is S3: filled before its run, emptied into the bucket after it.

.venv/bin/python -m pytest tests/s3/test_s3_pod.py
"""

import os
import signal

import pytest
from mirrored_run import ROOT, hurry, save, steps_in

from scripts import pod_s3
from scripts.pod_place import read_place
from scripts.pod_training import Ended
from scripts.s3 import bring, manifest, objects
from scripts.s3.address import parse
from scripts.s3.client import connect
from train.errors import InputError
from train.files import hash_file, write_json
from train.stored import REFS, find

# ---- model and rows ----


@pytest.fixture
def store(bucket, tmp_path):
    """A bucket with a model of the hub, one of a path, and rows."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    for place in ("models/org/name/abc123", "models/base"):
        objects.push(model, f"{bucket}/team/{place}")
    address = parse(f"{bucket}/team")
    objects.put_text(connect(), address, f"models/org/name/{REFS}", '{"main": "abc123", "v2": "def"}', {})
    objects.put_text(connect(), address, "datasets/rows.jsonl", '{"a": 1}\n', {})
    return address


def test_names_are_found_as_a_path_or_at_their_revision(store, tmp_path):
    root, client = tmp_path / "pod", connect()
    for recipe in ({"model_name_or_path": "org/name", "model_revision": "abc123", "train_file": "datasets/rows.jsonl"},
                   {"model_name_or_path": "models/base", "train_file": f"{root}/datasets/rows.jsonl"},
                   {"model_name_or_path": "demo/model", "train_file": "demo/data/train.jsonl"}):  # fmt: skip
        bring.fetch(client, store, bring.plan(client, store, recipe, root, ROOT, {}), root)
    assert find(root, "model", "org/name", "abc123") == find(root, "model", "org/name", None)
    assert (root / "models/base/config.json").exists() and (root / "datasets/rows.jsonl").read_text() == '{"a": 1}\n'
    assert not (root / "demo").exists()


def test_a_model_and_a_data_set_of_one_name_are_both_brought(store, tmp_path):
    rows, client = tmp_path / "rows", connect()
    rows.mkdir()
    (rows / "rows.jsonl").write_text('{"a": 1}\n')
    objects.push(rows, f"{store}/datasets/org/name/v7")
    recipe = {"model_name_or_path": "org/name", "model_revision": "abc123", "dataset_name": "org/name",
              "dataset_revision": "v7"}  # fmt: skip
    bring.fetch(client, store, bring.plan(client, store, recipe, tmp_path / "pod", ROOT, {}), tmp_path / "pod")
    assert (tmp_path / "pod/models/org/name/abc123/config.json").exists()
    assert (tmp_path / "pod/datasets/org/name/v7/rows.jsonl").exists()


def test_a_branch_that_has_moved_is_not_followed_by_a_run_that_has_begun(store, tmp_path):
    client = connect()
    objects.push(tmp_path / "model", f"{store}/models/org/name/newer")
    objects.put_text(client, store, f"models/org/name/{REFS}", '{"main": "newer"}', {})
    recipe = {"model_name_or_path": "org/name"}
    for before, revision in (({}, "newer"), ({"model": {"name": "org/name", "revision": "abc123"}}, "abc123")):
        found = bring.plan(client, store, recipe, tmp_path / "pod", ROOT, before)
        assert found["model", "org/name"][0] == f"models/org/name/{revision}"


def test_all_that_is_not_in_the_bucket_is_told_at_once(store, tmp_path):
    recipe = {"model_name_or_path": "org/name", "model_revision": "v3", "dataset_name": "org/rows"}
    with pytest.raises(InputError) as caught:
        bring.plan(connect(), store, recipe, tmp_path, ROOT, {})
    told = str(caught.value)
    assert f"model_name_or_path: org/name at revision v3 is not under {store}" in told
    assert f"dataset_name: org/rows is not under {store}" in told and "fix: put it there" in told


def test_rows_of_another_size_than_was_listed_are_refused(store, tmp_path):
    with pytest.raises(InputError, match=r"rows.jsonl: came with 9 bytes, not 10"):
        bring.fetch_file(connect(), store, "datasets/rows.jsonl", tmp_path / "rows.jsonl", 10)
    assert not (tmp_path / "rows.jsonl").exists()


# ---- the pod around it ----


@pytest.fixture
def place(store, tmp_path, monkeypatch):
    """A pod of a run in that bucket, and the directory of its recipe."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/train.yaml").write_text("model_name_or_path: models/base\ntrain_file: datasets/rows.jsonl\n")
    monkeypatch.setenv("S3_URL", str(store))
    monkeypatch.setenv("POD_NAME", "r-0")
    words = {"RUN": "r", "IMAGE": "i", "RUNTIME": "job", "NODE_INDEX": "0", "NODES": "1", "MIN_NODES": "1",
             "PROCESSES": "1", "THREADS": "1", "RESTARTS": "1",
             "GRACE_SECONDS": "30", "STORE": str(tmp_path / "pod")}  # fmt: skip
    found = read_place(words)
    found.directory.mkdir(parents=True)
    yield found
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_pod_leaves_only_when_its_results_are_in_the_bucket(place, store, tmp_path):
    with pod_s3.mirrored(place, tmp_path / "config"):
        assert (place.store / "models/base/config.json").exists()
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ, "what a stage runs has no use for it"
        write_json(place.directory / "run.json", {"stages": {}})
    assert "run.json" in manifest.listing(place_client(place), store / "runs/r")


def place_client(place):
    from s3_server import KEYS

    os.environ.update(KEYS)
    return connect()


def test_a_pod_that_is_asked_to_leave_takes_its_last_checkpoint_there(place, store, tmp_path):
    with pytest.raises(Ended, match="left a checkpoint"), pod_s3.mirrored(place, tmp_path / "config"):
        write_json(place.directory / "run.json", {"stages": {}})
        save(place.directory, 5)
        raise Ended(143, "was asked to leave, and left a checkpoint")
    place_client(place)
    assert steps_in(store / "runs/r") == [5]


def test_a_pod_whose_results_cannot_be_put_asks_to_be_started_again(place, server, store, tmp_path, quick, monkeypatch):
    hurry(monkeypatch)
    monkeypatch.setattr(pod_s3, "SECONDS_AT_THE_END", 3)
    try:
        with (
            pytest.raises(Ended, match="results are not all in S3") as ended,
            pod_s3.mirrored(place, tmp_path / "config"),
        ):
            write_json(place.directory / "run.json", {"stages": {}})
            server.freeze()
    finally:
        server.thaw()
    assert ended.value.status == 143


def test_a_volume_that_is_too_small_for_the_model_is_told_before_anything_is_fetched(place, tmp_path, monkeypatch):
    monkeypatch.setenv("S3_SIZE", "0.001k")
    with pytest.raises(InputError, match=r"s3.size: is 0.001k, and model and rows alone are"):
        pod_s3.begin(place, tmp_path / "config", os.environ["S3_URL"])
    assert not (place.store / "models").exists()


def test_without_a_bucket_nothing_is_done(place, tmp_path, monkeypatch):
    monkeypatch.delenv("S3_URL")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pod_s3.mirrored(place, tmp_path / "nowhere"):
        pass
    assert hash_file(tmp_path / "config/train.yaml")
