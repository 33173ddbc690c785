"""A run whose store is S3 is mirrored while it goes on, without a cluster.

.venv/bin/python -m pytest tests/s3/test_s3_mirror.py
"""

import json
import subprocess
import time

import pytest
from botocore.exceptions import EndpointConnectionError
from mirrored_run import MB, drop, finish_stage, hurry, mirror_of, save, steps_in, until
from urllib3.exceptions import HTTPError

from scripts.s3 import bring, manifest, mirror, objects, send
from scripts.s3.client import connect
from scripts.s3.mirror import Mirror
from train import checkpoint
from train.stored import MANIFEST


def test_checkpoints_go_up_while_the_run_goes_on_and_old_ones_go(run, address, quick):
    beside = mirror_of(run, address)
    save(run, 2)
    until(lambda: steps_in(address) == [2])
    save(run, 4)
    drop(run, 2)
    until(lambda: steps_in(address) == [4])
    assert not [name for name in manifest.listing(connect(), address) if "checkpoint-2/" in name]
    assert beside.finish(10) == ""


def test_what_an_abandoned_checkpoint_left_goes_when_a_newer_one_is_whole(run, address, quick):
    client = connect()
    left = "checkpoints/checkpoint-1/weights"
    objects.put_text(client, address, left, "half", {})
    client.create_multipart_upload(Bucket=address.bucket, Key=address.key("checkpoints/checkpoint-1/optimizer"))
    beside = mirror_of(run, address)
    assert left in manifest.listing(client, address)
    save(run, 2)
    until(lambda: left not in manifest.listing(client, address))
    assert beside.finish(10) == "" and steps_in(address) == [2]
    assert client.list_multipart_uploads(Bucket=address.bucket).get("Uploads", []) == []


def test_the_curve_is_there_before_the_checkpoint_counts(run, address, monkeypatch):
    beside = mirror_of(run, address)
    beside.over.set(), beside.thread.join()
    save(run, 3)
    seen = []

    def look(client, where, name, text, patience):
        seen.append((name, bring.fetch_file(connect(), address, "metrics.jsonl", run / ".curve")))

    monkeypatch.setattr(objects, "put_text", look)
    beside.look(everything=False)
    assert [name for name, _ in seen] == ["manifest.json"]
    assert len((run / ".curve").read_text().splitlines()) == 3


def test_a_result_is_put_when_the_record_says_that_its_stage_is_done(run, address, quick):
    beside = mirror_of(run, address)
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"w" * 1000)
    (run / "before.json").write_text("{}")
    until(lambda: "metrics.jsonl" in manifest.listing(connect(), address))
    assert beside.finish(5) == ""
    assert not {"before.json", f"adapter/{MANIFEST}"} & set(manifest.listing(connect(), address))
    finish_stage(run, "before"), finish_stage(run, "train")
    assert mirror_of(run, address).finish(5) == ""
    there = manifest.listing(connect(), address)
    assert {"before.json", f"adapter/{MANIFEST}", "adapter/adapter_model.safetensors"} <= set(there)


def test_a_server_that_is_away_stops_nothing_and_nothing_is_half_complete(
    run, address, server, quick, capsys, monkeypatch
):
    hurry(monkeypatch)
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_WORDS", 1.0)
    monkeypatch.setattr(send, "MULTIPART", 6 * MB)
    monkeypatch.setattr(send, "PART", 5 * MB)
    beside = mirror_of(run, address)
    save(run, 2)
    until(lambda: steps_in(address) == [2])
    sending = send.Sender.put_part

    def freeze_in_the_middle(self, *words):
        if words[-1] == 3:
            server.freeze()
        return sending(self, *words)

    monkeypatch.setattr(send.Sender, "put_part", freeze_in_the_middle)
    save(run, 4, size=23 * MB)
    until(lambda: "does not answer" in beside.trouble)
    monkeypatch.setattr(send.Sender, "put_part", sending)
    whole = server.data / address.bucket / "team/runs/r/checkpoints"
    assert not (whole / "checkpoint-4/manifest.json").exists() and (whole / "checkpoint-2/manifest.json").exists()
    save(run, 6)  # the training goes on
    time.sleep(2)
    server.thaw()
    until(lambda: steps_in(address) == [2, 4, 6])
    assert beside.finish(10) == ""
    told = [json.loads(line.partition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "mirror" in line]
    assert next(one["state"] for one in told if one["event"] == "mirror") == "waiting"
    assert next(one for one in told if one.get("state") == "goes on")["seconds"] > 1
    for step in (2, 4, 6):
        objects.pull(f"{address}/checkpoints/checkpoint-{step}", run.parent / f"back-{step}")
        assert checkpoint.damage(run.parent / f"back-{step}") is None


def test_the_end_waits_for_a_server_that_is_away_and_says_when_it_gives_up(run, address, server, quick, monkeypatch):
    hurry(monkeypatch)
    beside = mirror_of(run, address)
    until(lambda: beside.put)
    server.freeze()
    save(run, 2)
    began = time.monotonic()
    try:
        assert "does not answer" in beside.finish(4)
        assert 3 < time.monotonic() - began < 12
        subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {server.process.pid}"])
        assert beside.finish(20) == ""
    finally:
        server.thaw()
    assert steps_in(address) == [2]


def test_a_pod_whose_run_was_taken_over_puts_no_more_checkpoints(run, address, quick):
    first = mirror_of(run, address, "pod-a")
    second = mirror_of(run.parent, address, "pod-b")
    save(run, 2)
    assert "another pod has taken this run over" in first.finish(5)
    assert steps_in(address) == []
    second.over.set()


def mirror_events(capsys) -> list[dict]:
    """What the mirror has told."""
    lines = [line for line in capsys.readouterr().out.splitlines() if '"mirror"' in line]
    return [json.loads(line.partition(" ")[2]) for line in lines]


def fail_at_first(monkeypatch, failures: list[Exception]) -> None:
    """Have the first looks of a mirror fail with these, which leave the list, and the later ones look."""
    looking = Mirror.look

    def look(self, everything):
        if failures:
            raise failures.pop()
        looking(self, everything)

    monkeypatch.setattr(Mirror, "look", look)


@pytest.mark.parametrize("error", [PermissionError("no right"), FileNotFoundError("gone"), HTTPError("cut"),
                                   EndpointConnectionError(endpoint_url="x")])  # fmt: skip
def test_whatever_fails_is_told_and_the_mirror_goes_on(run, address, quick, monkeypatch, capsys, error):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    fail_at_first(monkeypatch, [error] * 3)
    beside = mirror_of(run, address)
    until(lambda: beside.put)
    assert beside.finish(5) == ""
    told = mirror_events(capsys)
    assert [one["state"] for one in told] == ["waiting", "goes on"] and str(error) in told[0]["reason"]


@pytest.mark.parametrize("error", [PermissionError("no right"), FileNotFoundError("gone")])
def test_the_end_says_what_failed_to_the_last(run, address, quick, monkeypatch, error):
    def look(self, everything):
        raise error

    monkeypatch.setattr(Mirror, "look", look)
    assert mirror_of(run, address).finish(0.3) == str(error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mirror_that_ends_by_an_error_of_its_own_says_so_at_once_and_the_end_puts_all(
    run, address, quick, monkeypatch, capsys
):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    fail_at_first(monkeypatch, [KeyError("a mistake of ours")])
    beside = mirror_of(run, address)
    until(lambda: beside.trouble)
    assert "ended by an error of its own" in mirror_events(capsys)[0]["reason"]
    save(run, 2)
    assert beside.finish(10) == "" and steps_in(address) == [2]


def test_a_checkpoint_that_is_rotated_away_while_it_is_read_is_not_worth_a_word(
    run, address, quick, monkeypatch, capsys
):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    failures = [FileNotFoundError("checkpoint-2/weights")]
    fail_at_first(monkeypatch, failures)
    assert mirror_of(run, address).finish(10) == "" and not failures
    assert mirror_events(capsys) == []
