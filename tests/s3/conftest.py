"""The S3 server of these tests: their own from SHARED, since some tests stop it for a while."""

import random
from collections import Counter
from pathlib import Path

import pytest
import s3_server
from s3_cases import MB

from scripts.s3 import mirror, objects
from scripts.s3.address import parse
from scripts.s3.client import connect
from train.files import write_json


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The server's program."""
    if not s3_server.PACKED.exists():
        pytest.skip("there is no S3 server under SHARED (testbed/bin/versitygw.xz)")
    return s3_server.unpack(tmp_path_factory.mktemp("s3-program"))


@pytest.fixture(scope="session")
def shared_server(program, tmp_path_factory):
    with s3_server.serving(program, tmp_path_factory.mktemp("s3-data")) as server:
        yield server


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No credentials and no endpoint of this machine's user."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION",
                 "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "S3_ADDRESSING",
                 "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    return monkeypatch


@pytest.fixture
def keys(clean):
    """The tests' server's keys in the environment."""
    for name, value in s3_server.KEYS.items():
        clean.setenv(name, value)
    return clean


@pytest.fixture
def server(shared_server, keys):
    """The server, with the environment that leads to it."""
    keys.setenv("AWS_ENDPOINT_URL_S3", shared_server.endpoint)
    return shared_server


@pytest.fixture
def bucket(server, request):
    """The address of a bucket that is empty."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**12}"
    connect().create_bucket(Bucket=name)
    return f"s3://{name}"


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
def calls(monkeypatch) -> Counter:
    """Counts the operations of every client that is made."""
    counted = Counter()

    def counting():
        client = connect()
        client.meta.events.register("before-call.s3.*", lambda model, **_: counted.update([model.name]))
        return client

    monkeypatch.setattr(objects, "connect", counting)
    return counted
