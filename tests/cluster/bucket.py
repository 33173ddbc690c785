"""An S3 server of a test's own on the testbed's bridge, so that stopping it disturbs nobody, with model and rows."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scripts.s3 import objects
from scripts.s3.address import parse
from scripts.s3.client import connect
from tests.cluster.runs import COLUMNS, rows_as
from tests.s3 import s3_server

WORDS = ["MODEL=models/base", "DATA=datasets/ranked.jsonl"]


@contextlib.contextmanager
def serving(cluster, place: Path, store: str) -> Iterator[s3_server.Server]:
    """The server, with this process's environment led to it, and the model and rows of WORDS under `store`.

    Skips the test where there is no testbed.
    """
    if cluster.testbed is None or not s3_server.PACKED.exists():
        pytest.skip("needs the testbed, whose S3 server these tests start and stop")
    host = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).hostname
    place.mkdir(exist_ok=True)
    program = s3_server.unpack(place)
    with s3_server.serving(program, place / "data", host=host) as running, pytest.MonkeyPatch().context() as changed:
        for name, value in (s3_server.KEYS | {"AWS_ENDPOINT_URL_S3": running.endpoint}).items():
            changed.setenv(name, value)
        connect().create_bucket(Bucket=urlsplit(store).netloc)
        objects.push(Path("demo/model"), f"{store}/models/base")
        objects.put_text(connect(), parse(store), "datasets/ranked.jsonl", rows_as(COLUMNS["ranked"]).decode(), {})
        yield running


def placed(server: s3_server.Server, store: str) -> dict:
    """The placement's words for this bucket."""
    return {"s3.url": store, "s3.endpoint": server.endpoint, "s3.size": "2Gi"}
