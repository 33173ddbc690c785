"""Directories to S3 and back that are cut, killed, disturbed or kept waiting: they go on and end whole, or say so.

.venv/bin/python -m pytest tests/s3/test_s3_interrupted.py
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from s3_cases import MB, ROOT, check

from scripts.s3 import objects, receive, send
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.trouble import S3Failed
from train.files import hash_file

PULL = """
from pathlib import Path
from scripts.s3 import objects, receive
receive.RANGE = 1 << 20
objects.pull("{url}", Path("{directory}"))
"""


@pytest.fixture
def small_parts(monkeypatch):
    """Files of 12 MB go in parts of 5 MB, and come in ranges of 1 MB."""
    monkeypatch.setattr(send, "MULTIPART", 12 * MB)
    monkeypatch.setattr(send, "PART", 5 * MB)
    monkeypatch.setattr(receive, "RANGE", MB)


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
