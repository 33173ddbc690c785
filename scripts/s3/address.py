"""Where something lies in S3: s3://bucket/prefix, and nothing secret in it."""

import re
from dataclasses import dataclass

from train.errors import InputError, problem

SCHEME = "s3://"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
EXAMPLE = "write s3://bucket/prefix"


@dataclass(frozen=True)
class Address:
    """A bucket, and a prefix in it without slashes at its ends; empty for the whole bucket."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def __truediv__(self, name: str) -> "Address":
        return Address(self.bucket, f"{self.prefix}/{name}".strip("/"))

    def key(self, name: str) -> str:
        """The key of an object below the prefix."""
        return f"{self.prefix}/{name}".lstrip("/")

    @property
    def below(self) -> str:
        """What the keys of all objects under this address begin with."""
        return f"{self.prefix}/" if self.prefix else ""


def parse(url: str) -> Address:
    """The address that a URL names. Raises InputError where it is none, or holds what belongs into the environment."""
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    shown = f"{SCHEME}…@{url.rpartition('@')[2]}" if "@" in bucket else url  # what stands before the @ may be a key
    if not url.startswith(SCHEME):
        raise InputError(problem("S3", shown, "is no address of S3", EXAMPLE))
    if "@" in bucket:
        fix = f"{EXAMPLE}; give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        raise InputError(problem("S3", shown, "holds credentials, which end up in logs and histories", fix))
    if not BUCKET.fullmatch(bucket) or ".." in bucket:
        what = f"names the bucket {bucket or '(none)'}, which is no bucket's name"
        raise InputError(problem("S3", shown, what, f"{EXAMPLE}; a bucket has 3 to 63 small letters, digits, dashes"))
    prefix = prefix.strip("/")
    if "?" in prefix or "#" in prefix or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        what = "has a prefix with ?, #, an empty part or dots alone"
        raise InputError(problem("S3", shown, what, "write names with single slashes between them"))
    return Address(bucket, prefix)
