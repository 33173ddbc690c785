"""Directories to S3 and back, against a real server: whole or not there, verified, going on after a cut.

.venv/bin/python -m pytest tests/s3/test_s3_objects.py
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from scripts.s3 import objects, receive, send
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.trouble import S3Failed
from train import checkpoint, stored
from train.errors import InputError
from train.files import hash_file

ROOT = Path(__file__).resolve().parents[2]
MB = 1 << 20
PULL = """
from pathlib import Path
from scripts.s3 import objects, receive
receive.RANGE = 1 << 20
objects.pull("{url}", Path("{directory}"))
"""


@pytest.fixture
def directory(tmp_path) -> Path:
    """A small model with a folder in it."""
    made = tmp_path / "model"
    (made / "folder").mkdir(parents=True)
    (made / "config.json").write_text('{"model_type": "llama"}')
    (made / "folder" / "weights").write_bytes(random.Random(1).randbytes(3 * MB))
    (made / "empty").touch()
    return made


@pytest.fixture
def small_parts(monkeypatch):
    """Files of 12 MB go in parts of 5 MB, and come in ranges of 1 MB."""
    monkeypatch.setattr(send, "MULTIPART", 12 * MB)
    monkeypatch.setattr(send, "PART", 5 * MB)
    monkeypatch.setattr(receive, "RANGE", MB)


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """Counts the operations of every client that is made."""
    counted = Counter()

    def counting():
        client = connect()
        client.meta.events.register("before-call.s3.*", lambda model, **_: counted.update([model.name]))
        return client

    monkeypatch.setattr(objects, "connect", counting)
    return counted


def content(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): hash_file(path) for path in directory.rglob("*") if path.is_file()}


def keys_of(url: str) -> set[str]:
    address = parse(url)
    listed = connect().list_objects_v2(Bucket=address.bucket, Prefix=address.below).get("Contents", [])
    return {one["Key"][len(address.below) :] for one in listed}


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


def test_a_large_file_goes_on_with_the_parts_that_a_cut_upload_left(bucket, directory, small_parts, calls, monkeypatch):
    (directory / "large").write_bytes(random.Random(2).randbytes(23 * MB))
    complete = send.Sender.put_part

    def cut(self, *words):
        if words[-1] == 4:
            raise KeyboardInterrupt
        return complete(self, *words)

    monkeypatch.setattr(send.Sender, "put_part", cut)
    with pytest.raises(KeyboardInterrupt):
        objects.push(directory, f"{bucket}/m")
    assert not objects.exists(f"{bucket}/m")
    first = calls["UploadPart"]
    monkeypatch.setattr(send.Sender, "put_part", complete)
    calls.clear()
    objects.push(directory, f"{bucket}/m")
    assert first >= 1 and calls["UploadPart"] == 5 - first and calls["CreateMultipartUpload"] == 0
    assert connect().list_multipart_uploads(Bucket=parse(bucket).bucket).get("Uploads", []) == []
    assert check(f"{bucket}/m") == 0


@pytest.mark.parametrize("end", ["abort", "complete", "replace"])
def test_an_upload_that_somebody_else_ends_is_begun_anew_or_is_what_was_meant(
    bucket, directory, small_parts, monkeypatch, tmp_path, calls, end
):
    """Two pushes of one thing share an upload, and one of them completes it."""
    content_of_large = random.Random(2).randbytes(13 * MB)
    (directory / "large").write_bytes(content_of_large)
    client, sending, ended = connect(), send.Sender.put_part, []

    def ended_by_another(self, path, upload, *words):
        etag = sending(self, path, upload, *words)
        if words[-1] == 3 and not ended:
            ended.append(upload)
            if end == "abort":
                client.abort_multipart_upload(**upload)
            elif end == "complete":
                objects.push(path.parent, f"{bucket}/m")
            else:
                client.abort_multipart_upload(**upload)
                client.put_object(Bucket=upload["Bucket"], Key=upload["Key"], Body=bytes(13 * MB))
        return etag

    monkeypatch.setattr(send.Sender, "put_part", ended_by_another)
    objects.push(directory, f"{bucket}/m")
    assert ended
    objects.pull(f"{bucket}/m", tmp_path / "back")
    assert hash_file(tmp_path / "back/large") == hash_file(directory / "large")


def check(url: str) -> int:
    """The status of `objects check`."""
    words = [sys.executable, "-m", "scripts.s3.objects", "check", url]
    return subprocess.run(words, cwd=ROOT, check=False).returncode


def test_parts_of_another_file_are_not_taken_for_this_ones(bucket, directory, small_parts, tmp_path):
    address = parse(f"{bucket}/m")
    client = connect()
    upload = client.create_multipart_upload(Bucket=address.bucket, Key="m/large")["UploadId"]
    client.upload_part(Bucket=address.bucket, Key="m/large", UploadId=upload, PartNumber=1, Body=bytes(5 * MB))
    (directory / "large").write_bytes(random.Random(3).randbytes(13 * MB))
    objects.push(directory, f"{bucket}/m")
    objects.pull(f"{bucket}/m", tmp_path / "back")
    assert hash_file(tmp_path / "back/large") == hash_file(directory / "large")


def test_a_pull_that_is_killed_anywhere_goes_on_and_fetches_little_twice(bucket, tmp_path, calls, monkeypatch):
    made = tmp_path / "made"
    made.mkdir()
    (made / "large").write_bytes(random.Random(4).randbytes(100 * MB))
    objects.push(made, f"{bucket}/m")
    words = [sys.executable, "-c", PULL.format(url=f"{bucket}/m", directory=tmp_path / "back")]
    notes = tmp_path / ".back.incoming" / "large.part.done"
    for least in (10, 40, 70):
        process = subprocess.Popen(
            words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        wait_until(lambda least=least: notes.is_file() and len(notes.read_text().splitlines()) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "back").exists()
    kept = len(notes.read_text().splitlines())
    monkeypatch.setattr(receive, "RANGE", MB)
    calls.clear()
    objects.pull(f"{bucket}/m", tmp_path / "back")
    assert hash_file(tmp_path / "back/large") == hash_file(made / "large")
    assert calls["GetObject"] <= 100 - kept + 4, "ranges that were there, and manifests"


def wait_until(true, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


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


def test_a_server_that_is_silent_for_a_while_is_waited_for(bucket, server, directory, tmp_path, monkeypatch):
    objects.push(directory, f"{bucket}/m")
    said, pulling = [], objects.pull_files
    monkeypatch.setattr("scripts.s3.client.READ_SECONDS", 1)
    monkeypatch.setattr("scripts.s3.client.TRIES", 1)

    def frozen(*words, **more):
        server.freeze()
        subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {server.process.pid}"])
        return pulling(*words, **more)

    monkeypatch.setattr(objects, "pull_files", frozen)
    monkeypatch.setattr("scripts.transfer_view.View.say", lambda self, text: said.append(text))
    objects.pull(f"{bucket}/m", tmp_path / "back")
    assert (tmp_path / "back/folder/weights").stat().st_size == 3 * MB
    assert any("does not answer" in text for text in said)


def test_waiting_has_an_end(bucket, server, directory, monkeypatch):
    monkeypatch.setattr("scripts.s3.client.READ_SECONDS", 1)
    monkeypatch.setattr(objects, "FIRST_SECONDS", 1)
    server.freeze()
    try:
        with pytest.raises(S3Failed, match="does not answer; waited"):
            objects.push(directory, f"{bucket}/m")
    finally:
        server.thaw()


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
