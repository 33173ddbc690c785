"""Directories to S3 and back, against a real server: whole or not there, verified.

.venv/bin/python -m pytest tests/s3/test_s3_objects.py
"""

import json
import shutil

import pytest
from s3_cases import MB, check, content, keys_of

from scripts.s3 import objects
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.trouble import S3Failed
from train import checkpoint, stored
from train.errors import InputError
from train.files import hash_file


def test_a_directory_comes_back_as_it_went(bucket, directory, tmp_path):
    objects.push(directory, f"{bucket}/models/one")
    objects.pull(f"{bucket}/models/one", tmp_path / "back")
    manifest = json.loads((tmp_path / "back" / stored.MANIFEST).read_text())
    (tmp_path / "back" / stored.MANIFEST).unlink()
    assert content(tmp_path / "back") == content(directory)
    assert manifest["files"]["folder/weights"]["sha256"] == hash_file(directory / "folder" / "weights")
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_published_model_keeps_its_own_manifest(bucket, directory, tmp_path):
    files = {
        name: {"size": (directory / name).stat().st_size, "sha256": sha} for name, sha in content(directory).items()
    }
    (directory / stored.MANIFEST).write_text(json.dumps({"kind": "model", "name": "a/b", "files": files}))
    objects.push(directory, f"{bucket}/models/a/b/1")
    assert objects.exists(f"{bucket}/models/a/b/1") and not objects.exists(f"{bucket}/models/a/b/2")
    objects.pull(f"{bucket}/models/a/b/1", tmp_path / "store/models/a/b/1")
    assert stored.damage(tmp_path / "store/models/a/b/1") == []


def test_a_checkpoint_keeps_its_seal(bucket, directory, tmp_path):
    sealed = tmp_path / "checkpoints" / "checkpoint-4"
    sealed.parent.mkdir()
    checkpoint.seal(directory, sealed)
    objects.push(sealed, f"{bucket}/runs/r/checkpoints/checkpoint-4")
    objects.pull(f"{bucket}/runs/r/checkpoints/checkpoint-4", tmp_path / "other" / "checkpoint-4")
    assert checkpoint.damage(tmp_path / "other" / "checkpoint-4") is None


def test_the_manifest_goes_last_and_nothing_is_there_without_it(bucket, directory, monkeypatch, tmp_path):
    seen = []

    def look(client, address, name, text, patience):
        seen.append((name, keys_of(f"{bucket}/m"), objects.exists(f"{bucket}/m")))
        raise KeyboardInterrupt

    monkeypatch.setattr(objects, "put_text", look)
    with pytest.raises(KeyboardInterrupt):
        objects.push(directory, f"{bucket}/m")
    assert seen == [(stored.MANIFEST, {"config.json", "folder/weights", "empty"}, False)]
    with pytest.raises(InputError, match=r"holds 3 objects but no tunefleet.json"):
        objects.pull(f"{bucket}/m", tmp_path / "back")


def test_what_is_there_is_not_sent_again(bucket, directory, calls):
    objects.push(directory, f"{bucket}/m")
    calls.clear()
    objects.push(directory, f"{bucket}/m")
    assert calls["PutObject"] == calls["DeleteObject"] == 0, "and it stays whole all the while"
    (directory / "config.json").write_text('{"model_type": "LLAMA"}')
    objects.push(directory, f"{bucket}/m")
    assert calls["PutObject"] == 2, "what has changed, and the manifest"


def test_every_put_has_its_md5(bucket, directory, calls, monkeypatch):
    objects.push(directory, f"{bucket}/m")
    monkeypatch.setattr(objects, "md5", lambda body: bytes(16))
    with pytest.raises((InputError, S3Failed), match=r"Digest|Content-MD5|Content-Md5"):
        objects.put_text(connect(), parse(f"{bucket}/m"), "note", "text", {"seconds": 0.0})


def test_a_push_of_other_content_replaces_all_of_it(bucket, directory, tmp_path):
    objects.push(directory, f"{bucket}/m")
    (directory / "config.json").write_text('{"model_type": "other"}')
    (directory / "empty").unlink()
    objects.push(directory, f"{bucket}/m")
    assert keys_of(f"{bucket}/m") == {"config.json", "folder/weights", stored.MANIFEST}
    objects.pull(f"{bucket}/m", tmp_path / "back")
    assert (tmp_path / "back/config.json").read_text() == '{"model_type": "other"}'


def test_wrong_bytes_of_the_right_length_are_never_published(bucket, server, directory, tmp_path, calls):
    objects.push(directory, f"{bucket}/m")
    path = server.data / parse(bucket).bucket / "m/folder/weights"
    path.write_bytes(bytes(3 * MB))
    with pytest.raises(InputError, match=r"folder/weights: came with sha256 .* nothing was published"):
        objects.pull(f"{bucket}/m", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert check(f"{bucket}/m") == 1


def test_a_file_that_is_not_what_its_manifest_says_is_not_pushed(bucket, directory):
    files = {
        name: {"size": (directory / name).stat().st_size, "sha256": sha} for name, sha in content(directory).items()
    }
    (directory / stored.MANIFEST).write_text(json.dumps({"files": files}))
    (directory / "config.json").write_text('{"model_type": "LLAMA"}')
    with pytest.raises(InputError, match=r"config.json: is not what its manifest says"):
        objects.push(directory, f"{bucket}/m")
    assert not objects.exists(f"{bucket}/m")


def test_a_manifest_that_names_files_outside_is_refused(bucket, tmp_path):
    evil = {"files": {"../../outside": {"size": 1, "sha256": "0" * 64}}}
    address = parse(bucket)
    connect().put_object(Bucket=address.bucket, Key="m/tunefleet.json", Body=json.dumps(evil).encode())
    with pytest.raises(InputError, match="is missing or broken"):
        objects.pull(f"{bucket}/m", tmp_path / "back")


def test_room_is_asked_for_before_the_first_byte(bucket, directory, tmp_path, monkeypatch, calls):
    objects.push(directory, f"{bucket}/m")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 65 * MB))
    calls.clear()
    with pytest.raises(InputError, match=r"back: 3.1 MB more are needed, and 68.2 MB are free"):
        objects.pull(f"{bucket}/m", tmp_path / "back")
    assert calls["GetObject"] == 1, "the manifest"


def test_a_directory_with_other_things_in_it_is_not_touched(bucket, directory, tmp_path):
    objects.push(directory, f"{bucket}/m")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine").touch()
    with pytest.raises(InputError, match="is there, and holds other things"):
        objects.pull(f"{bucket}/m", tmp_path / "back")
    objects.pull(f"{bucket}/m", tmp_path / "new")
    objects.pull(f"{bucket}/m", tmp_path / "new")


def test_list_tells_what_is_whole_and_what_is_not(bucket, directory, capsys):
    objects.push(directory, f"{bucket}/models/a/b/1")
    address = parse(bucket)
    connect().put_object(Bucket=address.bucket, Key="models/a/b/2/config.json", Body=b"{}")
    objects.show(connect(), address)
    printed = capsys.readouterr().out
    assert "3 files  models/a/b/1\n" in printed and "an object    models/a/b/2/config.json\n" in printed
    assert "1 whole directories, 1 other objects" in printed


def test_delete_takes_the_manifest_first(bucket, directory, monkeypatch):
    objects.push(directory, f"{bucket}/m")
    order, deleting = [], objects.delete_objects
    monkeypatch.setattr(
        objects, "delete_objects", lambda c, a, names, p: (order.extend(names), deleting(c, a, names, p))
    )
    objects.delete(f"{bucket}/m")
    assert order[0] == stored.MANIFEST and keys_of(f"{bucket}/m") == set()


def test_a_run_is_deleted_checkpoints_first_and_only_after_a_yes(bucket, directory):
    objects.push(directory, f"{bucket}/runs/r/adapter")
    objects.put_text(connect(), parse(f"{bucket}/runs/r"), "run.json", "{}", {})
    with pytest.raises(InputError, match=r"deleting needs a yes\n  fix: say --yes"):
        objects.delete(f"{bucket}/runs/r", yes=False)
    with pytest.raises(InputError, match="holds 5 objects but no"):
        objects.delete(f"{bucket}/runs")
    objects.delete(f"{bucket}/runs/r")
    assert keys_of(bucket) == set()
