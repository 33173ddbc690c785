"""`make fetch-model STORE=s3://…`: from a hub of the tests' own into a real S3 server's bucket."""

import json
import subprocess
import sys

import pytest

from scripts.fetch import into_s3, model
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.objects import pull
from tests.hub.cases import ROOT, add_model, weights
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


def test_two_at_once_fetch_and_send_it_once_and_both_succeed(hub, bucket, tmp_path, capfd):
    words = "import sys; from pathlib import Path; from scripts.fetch import into_s3, model; "
    words += f"into_s3.STAGING = Path({str(tmp_path / 'fetched')!r}); sys.exit(model.main())"
    command = [sys.executable, "-c", words, "--model", "o/m", "--store", f"{bucket}/team"]
    assert [one.wait(120) for one in [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]] == [0, 0, 0]
    out = capfd.readouterr().out
    assert out.count("is there: s3://") == 2 and out.count("lies at s3://") == 1, out
    assert all(hub.sent[weights(number)] == 200_000 for number in (1, 2, 3))


def test_a_name_that_is_none_is_told_before_anything_is_asked(hub, bucket, keys):
    keys.setattr("sys.argv", ["model", "--model", "o--m/x", "--store", f"{bucket}/team"])
    with pytest.raises(InputError, match="is no name of a hub"):
        model.main()
    assert not hub.log


def test_a_bucket_that_is_not_there_is_told_before_the_first_byte(hub, server, keys):
    with pytest.raises(InputError, match="no-such-bucket"):
        fetch("s3://no-such-bucket/team", keys)
    assert hub.total() == 0
