"""A pod whose run lives in S3: its own volume is filled before it starts, and mirrored while it works (docs/s3.md)."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.pod_place import Place
from train.errors import InputError, problem

VARIABLE = "S3_URL"  # s3://bucket/prefix; not set: the store is a shared volume
SIZE = "S3_SIZE"  # of the pod's own volume, in Kubernetes' words
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CA = Path("/etc/s3-ca/ca.crt")
IMAGE = Path(__file__).resolve().parent.parent
SECONDS_AT_THE_END = 600.0  # for the results of a run that is done, while the server is away
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@contextmanager
def mirrored(place: Place, config: Path) -> Iterator[None]:
    """Fill the volume, mirror the run while the block works, and leave only when all is in S3.

    Nothing at all where the store is not S3. Raises InputError for what is wrong with bucket or credentials, Ended
    where S3 stays away: another start goes on with what is there.
    """
    url = os.environ.get(VARIABLE, "")
    if not url:
        yield
        return
    from scripts.pod_training import Ended
    from scripts.s3.trouble import S3Failed

    try:
        mirror = begin(place, config, url)
    except S3Failed as failed:
        raise Ended(143, str(failed)) from None
    try:
        yield
    except BaseException:  # failed, or asked to leave: what is there goes to S3 in the time that is left
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if trouble := mirror.finish(max(place.grace - 5, 5)):
            print(f"not all is in S3: {trouble}", flush=True)
        raise
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # being asked to leave now, it would still do just this
    if trouble := mirror.finish(SECONDS_AT_THE_END):
        raise Ended(143, f"the run is done, but its results are not all in S3: {trouble}")


def begin(place: Place, config: Path, url: str):
    """Connect, bring what the run needs, and start the mirror."""
    import yaml

    from scripts.s3 import bring
    from scripts.s3.address import parse
    from scripts.s3.manifest import read_text
    from scripts.s3.mirror import Mirror
    from scripts.s3.objects import reached

    if CA.is_file():
        os.environ["AWS_CA_BUNDLE"] = str(CA)
    store = parse(url)
    client = reached(store)
    for name in SECRETS:  # the client has read them; what a stage runs has no use for them
        os.environ.pop(name, None)
    run = store / "runs" / place.run
    recipe = yaml.safe_load((config / "train.yaml").read_text())
    before = json.loads(read_text(client, run, "run.json") or "{}").get("artifacts") or {}
    found = bring.plan(client, store, recipe if isinstance(recipe, dict) else {}, place.store, IMAGE, before)
    check_size(sum(what if isinstance(what, int) else what.size for _, what in found.values()))
    bring.fetch(client, store, found, place.store)
    bring.resume(client, run, place.directory)
    mirror = Mirror(client, place.directory, run, os.environ.get("POD_NAME", "here"))
    mirror.begin()
    return mirror


def check_size(needed: int) -> None:
    """Raise InputError where the volume is too small for model and rows: beyond its size the pod would be evicted."""
    match = re.fullmatch(r"([0-9.]+)([kMGT]i?|Ki)?", os.environ.get(SIZE, ""))
    if match and needed > float(match[1]) * UNITS[match[2] or ""]:
        what = f"is {os.environ[SIZE]}, and model and rows alone are {needed / 2**30:.1f} GiB"
        fix = "give room for them, the merged model and some checkpoints: PLACE=s3.size=…"
        raise InputError(problem("cluster.yaml", "s3.size", what, fix))
