"""What the workstation does with a run whose store is S3: preflight asks the bucket, results come out of it.

.venv/bin/python -m pytest tests/s3/test_s3_workstation.py
"""

import argparse
import json
from types import SimpleNamespace

import pytest

from scripts.cluster import results, results_bucket
from scripts.cluster.bucket import bucket_of
from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN
from scripts.cluster.checks.bucket import judge_bucket, look
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.results import chosen_names
from scripts.s3 import objects
from scripts.s3.address import parse
from scripts.s3.client import connect
from train import checkpoint
from train.errors import InputError
from train.files import hash_file
from train.recipe import with_defaults


@pytest.fixture
def placement(bucket, server) -> dict:
    """A placement in this bucket."""
    values = {"url": f"{bucket}/team", "endpoint": server.endpoint, "region": "us-east-1", "addressing": "auto"}
    return {"s3": values | {"size": "1Gi"}}


def recipe(**values: object) -> SimpleNamespace:
    """A recipe of a model and rows in the bucket."""
    return with_defaults({"model_name_or_path": "models/base", "train_file": "datasets/rows.jsonl", **values})


@pytest.fixture
def filled(placement, tmp_path) -> dict:
    """The placement, with model and rows in its bucket."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"w" * 5000)
    objects.push(model, f"{placement['s3']['url']}/models/base")
    objects.put_text(connect(), parse(placement["s3"]["url"]), "datasets/rows.jsonl", "{}\n", {})
    return placement


def judged(placement: dict, **values: object) -> list[tuple[str, str]]:
    """What preflight says of the bucket."""
    try:
        inside = look(placement, recipe(**values))
    except Refused as refused:
        inside = refused
    return [(answer.status, answer.found) for answer in judge_bucket(placement, {"inside": inside})]


def test_model_and_rows_that_lie_in_the_bucket_pass_and_the_models_configuration_is_known(filled):
    assert [status for status, _ in judged(filled)] == [PASSED, PASSED]
    told = look(filled, recipe())["models"][0]
    assert told["config"] == {"model_type": "llama"} and told["weights"] == 5000


def test_what_is_not_in_the_bucket_fails_and_a_volume_that_is_too_small_too(filled):
    ((status, found),) = judged(filled, model_name_or_path="org/absent")
    assert status == FAILED and "org/absent is not under s3://" in found
    filled["s3"]["size"] = "1k"
    assert judged(filled)[1][0] == FAILED


def test_without_keys_or_with_wrong_ones_nothing_is_known_and_nothing_fails(filled, keys):
    keys.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert judged(filled)[0][0] == UNKNOWN
    keys.delenv("AWS_SECRET_ACCESS_KEY")
    keys.delenv("AWS_ACCESS_KEY_ID")
    ((status, found),) = judged(filled)
    assert status == UNKNOWN and "has no credentials for S3" in found


def test_a_bucket_that_is_not_there_fails(placement):
    placement["s3"]["url"] = "s3://not-there/team"
    ((status, found),) = judged(placement)
    assert status == FAILED and "no such bucket" in found


def test_a_jobs_bucket_is_found_wherever_its_template_stands():
    variables = [{"name": "S3_URL", "value": "s3://b/p"}, {"name": "AWS_ENDPOINT_URL_S3", "value": "https://s3"},
                 {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {}}]  # fmt: skip
    pod = {"spec": {"containers": [{"name": "x", "env": variables}]}}
    for job in ({"spec": {"template": pod}}, {"spec": {"pytorchReplicaSpecs": {"Worker": {"template": pod}}}}):
        assert bucket_of(job) == {"url": "s3://b/p", "endpoint": "https://s3", "region": "", "addressing": ""}
    assert bucket_of({"spec": {"template": {"spec": {"containers": [{"env": []}]}}}}) is None


@pytest.fixture
def run(filled, tmp_path):
    """A run in the bucket, as its pod left it."""
    made = tmp_path / "made"
    (made / "adapter").mkdir(parents=True)
    (made / "adapter" / "weights").write_bytes(b"a" * 1000)
    (made / "aside").mkdir()
    (made / "aside" / "optimizer").write_bytes(b"o" * 1000)
    checkpoint.seal(made / "aside", made / "checkpoint-4")
    where = f"{filled['s3']['url']}/runs/argilla-1"
    objects.push(made / "adapter", f"{where}/adapter")
    objects.push(made / "checkpoint-4", f"{where}/checkpoints/checkpoint-4")
    for name, text in {"run.json": '{"started": "2"}', "log.jsonl": "{}\n", "report.html": "<html>"}.items():
        objects.put_text(connect(), parse(where), name, text, {})
    objects.put_text(connect(), parse(filled["s3"]["url"]), "runs/argilla-0/run.json", '{"started": "1"}', {})
    return filled["s3"]


def copy(bucket: dict, to, what: str = "") -> list[str]:
    """Copy the newest run of the overlay."""
    client, address, _ = results_bucket.find_run(bucket, "", "argilla")
    return results_bucket.copy(client, address, to, chosen_names(what))


def test_results_come_out_of_the_bucket_and_no_second_time(run, tmp_path, capsys):
    assert copy(run, tmp_path / "to") == []
    there = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert there - {".copied.json"} == {"run.json", "adapter/weights", "report.html", "log.jsonl"}
    before = (tmp_path / "to/adapter/weights").stat().st_mtime_ns
    capsys.readouterr()
    assert copy(run, tmp_path / "to") == []
    assert "4 files are here, 0 B of them came now" in capsys.readouterr().err
    assert copy(run, tmp_path / "to", "adapter checkpoints") == []
    assert (tmp_path / "to/adapter/weights").stat().st_mtime_ns == before
    assert checkpoint.damage(tmp_path / "to/checkpoints/checkpoint-4") is None


def test_wrong_bytes_in_the_bucket_are_named_and_not_kept(run, server, tmp_path):
    address = parse(run["url"])
    (server.data / address.bucket / "team/runs/argilla-1/adapter/weights").write_bytes(b"b" * 1000)
    (wrong,) = copy(run, tmp_path / "to")
    assert "adapter/weights: came with sha256" in wrong and not (tmp_path / "to/adapter/weights").exists()


def test_a_run_that_is_not_in_the_bucket_is_told_with_those_that_are(run):
    with pytest.raises(InputError, match=r"RUN: medical-1: is no run under .*\n  fix: there are: argilla-0, argilla-1"):
        results_bucket.find_run(run, "medical-1", "")


def test_store_on_the_make_line_leads_to_a_run_that_the_cluster_has_forgotten(run, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE", run["url"])
    given = argparse.Namespace(run="argilla-1", overlay="", to=str(tmp_path / "to"), what="")
    assert results.from_bucket(Cluster(), given, results.named_store(), chosen_names("")) == 0
    assert json.loads((tmp_path / "to/run.json").read_text()) == {"started": "2"}
    assert hash_file(tmp_path / "to/adapter/weights")
