"""Checkpoints are whole or not there; a damaged one is named and passed over."""

import json

import pytest

from train.checkpoint import damage, newest_valid, remove_leftovers, rotate, seal, steps_of
from train.files import write_json


def make(root, step, content=b"weights", final=True):
    """A sealed checkpoint of one step, or (final=False) one that is still being written."""
    aside = root / f".checkpoint-{step}.tmp"
    (aside / "sub").mkdir(parents=True)
    (aside / "adapter_model.safetensors").write_bytes(content)
    (aside / "sub" / "shard").write_bytes(b"x" * 100)
    if final:
        seal(aside, root / f"checkpoint-{step}")
    return root / f"checkpoint-{step}"


def test_sealed_checkpoint_is_listed_with_size_and_hash_of_every_file(tmp_path):
    path = make(tmp_path, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest) == {"adapter_model.safetensors", "sub/shard"}
    assert manifest["sub/shard"]["size"] == 100
    assert damage(path) is None and newest_valid(tmp_path) == path


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "sub" / "shard").unlink(), "lacks sub/shard"),
        (lambda path: (path / "sub" / "shard").write_bytes(b"x"), "has 1 bytes, the manifest says 100"),
        (lambda path: (path / "sub" / "shard").write_bytes(b"y" * 100), "sha256 differs"),
        (lambda path: (path / "manifest.json").unlink(), "no readable manifest"),
        (lambda path: (path / "manifest.json").write_text('{"a'), "no readable manifest"),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, spoil, words):
    older, newer = make(tmp_path, 2), make(tmp_path, 10)
    spoil(newer)
    assert newest_valid(tmp_path) == older
    said = capsys.readouterr().err
    assert words in said and "checkpoint-10" in said
    assert (tmp_path / "damaged-checkpoint-10").is_dir(), "what a user has is set aside, not deleted"


def test_half_written_checkpoint_is_never_chosen_and_is_removed(tmp_path):
    whole = make(tmp_path, 2)
    make(tmp_path, 4, final=False)
    assert newest_valid(tmp_path) == whole
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    first = make(tmp_path, 2, b"first")
    first.rename(tmp_path / ".checkpoint-2.old")
    remove_leftovers(tmp_path)
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").read_bytes() == b"first"


def test_replacing_a_checkpoint_leaves_the_new_one_alone(tmp_path):
    make(tmp_path, 2, b"first")
    path = make(tmp_path, 2, b"second")
    assert (path / "adapter_model.safetensors").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_best_and_newest_checkpoints_outlive_the_others(tmp_path):
    for step in (2, 4, 6, 8, 10):
        make(tmp_path, step)
    rotate(tmp_path, keep=2, best=4)
    assert steps_of(tmp_path) == [4, 10]
    rotate(tmp_path, keep=1, best=4)
    assert steps_of(tmp_path) == [4, 10]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
