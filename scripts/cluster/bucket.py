"""A run whose store is S3, seen from the workstation: which bucket, asked with the keys of whoever asks."""

import os
from collections.abc import Iterator
from typing import Any

from scripts.cluster.names import STORE
from scripts.s3.address import SCHEME, Address, parse
from train.errors import InputError

# The variable of a pod or a workstation: the placement's key below s3 (kustomize/components/store-s3)
VARIABLES = {"AWS_ENDPOINT_URL_S3": "endpoint", "AWS_REGION": "region", "S3_ADDRESSING": "addressing"}
COMPONENT = "store-s3"


def bucket_of(objects: dict[str, Any] | list[dict[str, Any]]) -> dict[str, str] | None:
    """Where a run lies, by its job, pods or all its objects: url, endpoint, region, addressing; None: not in S3."""
    for variables in environments(objects):
        values = {one["name"]: one.get("value", "") for one in variables}
        if values.get("S3_URL"):
            return {"url": values["S3_URL"]} | {key: values.get(name, "") for name, key in VARIABLES.items()}
    return None


def files_of(run: str, objects: list[dict[str, Any]]) -> str:
    """Where the files of a run lie, in words, by its job and pods (a TrainJob itself does not tell)."""
    bucket = bucket_of(objects)
    return f"{bucket['url'].rstrip('/')}/runs/{run}" if bucket else f"{STORE}/runs/{run} on the store"


def environments(value: Any) -> Iterator[list[dict[str, str]]]:
    """Every container's variables in an object, wherever its template stands."""
    if isinstance(value, dict):
        if isinstance(value.get("env"), list):
            yield value["env"]
        for inside in value.values():
            yield from environments(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from environments(inside)


def named_store() -> dict[str, str] | None:
    """The bucket that STORE names on the make line, None where it names none."""
    url = os.environ.get("STORE", "")
    return {"url": url} if url.startswith(SCHEME) else None


def reach(bucket: dict[str, str]) -> tuple[Any, Address]:
    """A client and the store's address. What the environment here says of endpoint and region goes before the run's.

    Raises InputError where the keys are missing or do not fit, S3Failed where nobody answers.
    """
    from scripts.s3.objects import reached  # half a second, which a view of a run need not wait for

    for name, key in VARIABLES.items():
        if bucket.get(key):
            os.environ.setdefault(name, bucket[key])
    address = parse(bucket["url"])
    return reached(address), address


def has_keys() -> bool:
    """Whether this workstation has credentials for S3, right or wrong."""
    from scripts.s3.client import connect

    try:
        connect()
    except InputError:
        return False
    return True
