"""A run whose store is S3 is taken up by a pod that has nothing.

.venv/bin/python -m pytest tests/s3/test_s3_resume.py
"""

from pathlib import Path

import pytest
from mirrored_run import finish_stage, mirror_of, save, steps_in

from scripts.runs import run_status
from scripts.s3 import bring, manifest, objects, send
from scripts.s3.client import connect
from scripts.s3.mirror import Mirror
from scripts.s3.trouble import S3Failed
from train import checkpoint
from train.files import write_json
from train.stored import MANIFEST


def test_a_pod_that_has_nothing_gets_the_files_the_results_and_the_newest_checkpoint(run, address, tmp_path):
    for step in (2, 4, 6):
        save(run, step)
    (run / "data").mkdir()
    (run / "data" / "train_ids.npy").write_bytes(b"1")
    finish_stage(run, "check-data")
    assert mirror_of(run, address).finish(10) == ""
    other = tmp_path / "other"
    other.mkdir()
    (other / "log.jsonl").write_text('{"event": "again"}\n')
    bring.resume(connect(), address, other)
    assert checkpoint.steps_of(other / "checkpoints") == [2, 6], "the newest, and the best, which the end asks for"
    assert checkpoint.damage(other / "checkpoints" / "checkpoint-6") is None
    assert (other / "data" / "train_ids.npy").read_bytes() == b"1" and not (other / "data" / MANIFEST).exists()
    assert (other / "log.jsonl").read_text() == '{"event": "start"}\n{"event": "again"}\n'
    assert (other / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    after = mirror_of(other, address, "pod-1")
    save(other, 8)
    assert after.finish(10) == "" and steps_in(address) == [2, 6, 8], "it is the run's own pod now"


RESULTS = ("data", "adapter", "merged")


@pytest.fixture
def done(run) -> Path:
    """The same run when all its stages are done, in a directory of its own."""
    for name in RESULTS:
        (run / name).mkdir()
        (run / name / "weights").write_bytes(name.encode() * 1000)
    for name in ("after.json", "report.html"):
        (run / name).write_text("{}")
    stages = {stage: {"seconds": 1} for stage in ("check-data", "train", "merge", "after", "report")}
    record = {"name": "r", "status": "complete", "recipe": {"method": "lora", "merge": True}, "stages": stages}
    write_json(run / "run.json", record)
    return run


def test_a_run_whose_merged_model_was_cut_on_its_way_is_not_complete_and_makes_it_again(
    done, address, tmp_path, monkeypatch
):
    beside = Mirror(connect(), done, address, "pod-0")
    sending = send.Sender.send

    def cut(self, path, *words):
        if path.parent.name == "merged":
            raise S3Failed("the node is lost")
        return sending(self, path, *words)

    monkeypatch.setattr(send.Sender, "send", cut)
    assert not beside.attempt(everything=True)
    objects.put_text(connect(), address, "run.json", (done / "run.json").read_text(), {})  # as a mirror once did it
    for name in ("after.json", "report.html"):
        assert name not in manifest.listing(connect(), address), "it would say that all is there"
        objects.put_text(connect(), address, name, "{}", {})
    bring.resume(connect(), address, other := tmp_path / "other")
    assert run_status(other) == "incomplete, has adapter" and (other / "run.json").exists()


def stamps(server, address) -> dict[str, int]:
    """When each object of the run was put, as the server's disk says."""
    root = server.data / address.bucket / address.prefix
    return {str(path.relative_to(root)): path.stat().st_ino for path in root.rglob("*") if path.is_file()}


def test_a_run_that_is_complete_in_the_bucket_is_complete_for_the_next_pod_without_its_merged_model(
    done, address, server, tmp_path
):
    assert mirror_of(done, address).finish(10) == ""
    assert {f"{name}/{MANIFEST}" for name in RESULTS} <= set(manifest.listing(connect(), address))
    bring.resume(connect(), address, other := tmp_path / "other")
    assert run_status(other) == "complete" and not (other / "merged").exists()
    before = stamps(server, address)
    assert mirror_of(other, address, "pod-1").finish(10) == ""
    after = stamps(server, address)
    assert [name for name in before if name.count("/") and before[name] != after[name]] == [], "whole all the while"


def test_a_start_that_was_cut_is_begun_again_and_the_log_stands_there_once(done, address, tmp_path, monkeypatch):
    assert mirror_of(done, address).finish(10) == ""
    fetching = bring.fetch_file

    def cut(client, where, name, path):
        if name == "report.html":
            raise S3Failed("away")
        fetching(client, where, name, path)

    monkeypatch.setattr(bring, "fetch_file", cut)
    other = tmp_path / "other"
    with pytest.raises(S3Failed):
        bring.resume(connect(), address, other)
    monkeypatch.setattr(bring, "fetch_file", fetching)
    bring.resume(connect(), address, other)
    assert run_status(other) == "complete" and (other / "log.jsonl").read_text() == '{"event": "start"}\n'


def test_a_damaged_checkpoint_is_passed_over_and_one_without_manifest_is_none(run, address, server, tmp_path, capsys):
    for step in (2, 4, 6):
        save(run, step)
    assert mirror_of(run, address).finish(10) == ""
    there = server.data / address.bucket / "team/runs/r/checkpoints"
    (there / "checkpoint-6/manifest.json").unlink()
    (there / "checkpoint-4/weights").write_bytes(bytes(100_000))
    bring.resume(connect(), address, tmp_path / "other")
    assert checkpoint.steps_of(tmp_path / "other" / "checkpoints") == [2]
    assert "checkpoint-4/weights: came with sha256" in capsys.readouterr().out


def test_a_volume_that_has_the_run_is_ahead_of_the_bucket(run, address, tmp_path):
    assert mirror_of(run, address).finish(10) == ""
    save(run, 8)
    bring.resume(connect(), address, run)
    assert checkpoint.steps_of(run / "checkpoints") == [8]
