"""`make fetch-model STORE=s3://…`: from a hub of the tests' own into a real S3 server's bucket."""

import json

import pytest

from scripts.fetch import into_s3, model
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.objects import pull
from tests.hub.cases import add_model
from tests.hub.server import serve
from train import stored
from train.errors import InputError


@pytest.fixture
def hub(tmp_path, keys):
    add_model(tmp_path / "repositories")
    with serve(tmp_path / "repositories") as hub:
        keys.setenv("HF_ENDPOINT", hub.endpoint)
        keys.setenv("HF_HOME", str(tmp_path / "home"))
        keys.setenv("HF_HUB_DISABLE_XET", "1")
        keys.setattr(into_s3, "STAGING", tmp_path / "fetched")
        yield hub


def fetch(url: str, monkeypatch) -> int:
    monkeypatch.setattr("sys.argv", ["model", "--model", "o/m", "--store", url])
    return model.main()


def test_a_model_lies_in_the_bucket_as_in_a_store_and_no_longer_on_this_disk(hub, bucket, tmp_path, keys):
    assert fetch(f"{bucket}/team", keys) == 0
    refs = json.loads(manifests.read_text(connect(), parse(f"{bucket}/team/models/o/m"), stored.REFS))
    pull(f"{bucket}/team/models/o/m/{refs['main']}", tmp_path / "back")
    assert stored.damage(tmp_path / "back") == []
    assert stored.read_manifest(tmp_path / "back")["licence"] == "apache-2.0"
    assert not list((tmp_path / "fetched").rglob("*.safetensors"))


def test_what_is_in_the_bucket_is_not_fetched_again(hub, bucket, keys, capsys):
    fetch(f"{bucket}/team", keys)
    before = hub.total()
    assert fetch(f"{bucket}/team", keys) == 0
    assert hub.total() == before
    assert "is there: s3://" in capsys.readouterr().out


def test_a_bucket_that_is_not_there_is_told_before_the_first_byte(hub, server, keys):
    with pytest.raises(InputError, match="no-such-bucket"):
        fetch("s3://no-such-bucket/team", keys)
    assert hub.total() == 0
