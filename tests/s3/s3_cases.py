"""What the tests of directories on S3 share: the content of both sides, and the program that compares them."""

import subprocess
import sys
from pathlib import Path

from scripts.s3.address import parse
from scripts.s3.client import connect
from train.files import hash_file

ROOT = Path(__file__).resolve().parents[2]
MB = 1 << 20


def content(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): hash_file(path) for path in directory.rglob("*") if path.is_file()}


def keys_of(url: str) -> set[str]:
    address = parse(url)
    listed = connect().list_objects_v2(Bucket=address.bucket, Prefix=address.below).get("Contents", [])
    return {one["Key"][len(address.below) :] for one in listed}


def check(url: str) -> int:
    """The status of `objects check`."""
    words = [sys.executable, "-m", "scripts.s3.objects", "check", url]
    return subprocess.run(words, cwd=ROOT, check=False).returncode
