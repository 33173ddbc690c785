"""Fetch into a store that is an S3 bucket: by way of this disk, where every byte is verified before it goes up.

What has been sent is taken off this disk again; what a kill left of it in build/fetched is gone on with.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from scripts.deliver_parcel import from_store
from scripts.deliver_s3 import deliver_to_s3
from scripts.fetch import ask
from scripts.fetch.hub import Patience, check_beforehand
from scripts.fetch.messages import Asked, FetchFailed
from scripts.s3.address import parse
from scripts.s3.objects import exists, reached
from scripts.s3.trouble import S3Failed
from train import stored

STAGING = Path(__file__).resolve().parents[2] / "build" / "fetched"


def fetch_into_bucket(kind: str, name: str, revision: str | None, url: str, fetch: Callable) -> None:
    """Bring a hub's model or data set into a bucket, if that commit is not there. `fetch` is hub.fetch's like.

    Raises InputError for what the user gave, FetchFailed where hub or bucket stay away.
    """
    asked = Asked(kind, name, revision)
    check_beforehand(asked, STAGING)
    with told():
        reached(parse(url))  # a bucket that cannot be used is told before the first byte
    with alone(kind, name):
        with told():
            artifact = stored.Artifact(kind, name, ask.resolve(asked).commit)
            if exists(f"{url.rstrip('/')}/{artifact.path}"):
                print(f"{artifact} is there: {url.rstrip('/')}/{artifact.path}")
                return
        send(kind, fetch(kind, name, revision, STAGING), revision, url)


@contextlib.contextmanager
def alone(kind: str, name: str):
    """Be the only one on this machine who brings this into a bucket, from the first byte to the last.

    Not the lock of the fetch, which is its own: between the two somebody else would send the same, and remove it.
    """
    artifact = stored.Artifact(kind, name, "into-s3")
    with stored.lock(artifact, STAGING, Patience(artifact)):
        yield


def send(kind: str, directory: Path, revision: str | None, url: str) -> None:
    """Bring what was fetched to this disk into the bucket, and off this disk."""
    with told():
        deliver_to_s3(from_store(kind, directory, revision), url)
    stored.remove(directory)


@contextlib.contextmanager
def told():
    """A bucket that stays away is a fetch that failed."""
    try:
        yield
    except S3Failed as failed:
        raise FetchFailed(f"{failed}; the same command goes on where this one stopped") from failed
