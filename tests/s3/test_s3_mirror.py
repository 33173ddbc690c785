"""A run whose store is S3, without a cluster: filled before, mirrored meanwhile, taken up by a pod that has nothing.

.venv/bin/python -m pytest tests/s3/test_s3_mirror.py
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError
from urllib3.exceptions import HTTPError

from scripts import pod_s3
from scripts.pod_place import read_place
from scripts.pod_training import Ended
from scripts.runs import run_status
from scripts.s3 import bring, manifest, mirror, objects, send
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.mirror import Mirror, whole_steps
from scripts.s3.trouble import S3Failed
from train import checkpoint
from train.errors import InputError
from train.files import hash_file, write_json
from train.stored import MANIFEST, REFS, find

MB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that has been prepared."""
    made = tmp_path / "store" / "runs" / "r"
    made.mkdir(parents=True)
    (made / "train.yaml").write_text("lora_r: 8\n")
    write_json(made / "run.json", {"name": "r", "stages": {}})
    (made / "metrics.jsonl").write_text("")
    (made / "log.jsonl").write_text('{"event": "start"}\n')
    return made


@pytest.fixture
def address(bucket):
    return parse(f"{bucket}/team/runs/r")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(mirror, "PATIENCE", 1.0)


def hurry(monkeypatch) -> None:
    """Clients that give a silent server one second, once."""
    for name in ("CONNECT_SECONDS", "READ_SECONDS", "TRIES"):
        monkeypatch.setattr(f"scripts.s3.client.{name}", 1)


def mirror_of(run: Path, address, owner: str = "pod-0") -> Mirror:
    made = Mirror(connect(), run, address, owner)
    made.begin()
    return made


def save(run: Path, step: int, size: int = 100_000) -> None:
    """A checkpoint, and the curve up to it."""
    aside = run / "checkpoints" / f".checkpoint-{step}.tmp"
    aside.mkdir(parents=True)
    (aside / "weights").write_bytes(random.Random(step).randbytes(size))
    write_json(aside / "trainer_state.json", {"best_global_step": 2})
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {one}, "loss": 1}}\n' for one in range(1, step + 1)))
    checkpoint.seal(aside, run / "checkpoints" / f"checkpoint-{step}")


def drop(run: Path, step: int) -> None:
    shutil.rmtree((run / "checkpoints" / f"checkpoint-{step}").rename(run / "checkpoints" / ".gone.tmp"))


def finish_stage(run: Path, stage: str) -> None:
    record = json.loads((run / "run.json").read_text())
    record["stages"][stage] = {"seconds": 1}
    write_json(run / "run.json", record)


def steps_in(address) -> list[int]:
    return whole_steps(manifest.listing(connect(), address))


def until(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- mirroring ----


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


@pytest.mark.parametrize("error", [PermissionError("no right"), FileNotFoundError("gone"), HTTPError("cut"),
                                   EndpointConnectionError(endpoint_url="x")])  # fmt: skip
def test_whatever_fails_is_told_and_the_mirror_goes_on(run, address, quick, monkeypatch, capsys, error):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    looking, failures = Mirror.look, [error] * 3

    def look(self, everything):
        if failures:
            raise failures.pop()
        looking(self, everything)

    monkeypatch.setattr(Mirror, "look", look)
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
    looking, failures = Mirror.look, [KeyError("a mistake of ours")]

    def look(self, everything):
        if failures:
            raise failures.pop()
        looking(self, everything)

    monkeypatch.setattr(Mirror, "look", look)
    beside = mirror_of(run, address)
    until(lambda: beside.trouble)
    assert "ended by an error of its own" in mirror_events(capsys)[0]["reason"]
    save(run, 2)
    assert beside.finish(10) == "" and steps_in(address) == [2]


def test_a_checkpoint_that_is_rotated_away_while_it_is_read_is_not_worth_a_word(
    run, address, quick, monkeypatch, capsys
):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    looking, failures = Mirror.look, [FileNotFoundError("checkpoint-2/weights")]

    def look(self, everything):
        if failures:
            raise failures.pop()
        looking(self, everything)

    monkeypatch.setattr(Mirror, "look", look)
    assert mirror_of(run, address).finish(10) == "" and not failures
    assert mirror_events(capsys) == []


# ---- going on ----


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
