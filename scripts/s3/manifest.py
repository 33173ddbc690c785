"""What a directory in S3 consists of: names, sizes and sha256 of its files, in an object that is uploaded last.

tunefleet.json, as train/stored.py writes it: {…, "files": {name: {"size", "sha256"}}}
manifest.json, a checkpoint's, as train/checkpoint.py seals it: {name: {"size", "sha256"}}
Where neither is there, nothing counts as there.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.s3.address import Address
from scripts.s3.trouble import patiently
from train import checkpoint, stored
from train.errors import InputError, problem

NAMES = (stored.MANIFEST, checkpoint.MANIFEST)
LARGEST = 64 << 20  # bytes; a manifest of a million files


@dataclass(frozen=True)
class Manifest:
    """The files of a directory; `text` is what is written as `name`, None as long as nobody has written it."""

    name: str
    files: dict[str, dict[str, Any]]
    text: str | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.files.values())


def of_directory(directory: Path) -> Manifest | None:
    """The manifest that lies in a directory, None where none does. Raises InputError where it is broken."""
    for name in NAMES:
        path = directory / name
        if path.is_file():
            text = path.read_text()
            files = entries(name, text)
            if files is not None:
                return Manifest(name, files, text)
            if name == stored.MANIFEST:
                fix = "fetch it again, or remove the file, and a new one is made"
                raise InputError(problem(path, "files", "is missing or broken", fix))
    return None


def make(directory: Path) -> Manifest:
    """A manifest of a directory that has none; hashes are filled in as the files are read.

    Raises InputError where it holds nothing.
    """
    names = sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    if not names:
        raise InputError(problem(directory, "", "holds no files", "give a directory with files"))
    return Manifest(stored.MANIFEST, {name: {"size": (directory / name).stat().st_size} for name in names}, None)


def entries(name: str, text: str) -> dict[str, dict[str, Any]] | None:
    """The files that a manifest of this name lists; None where it is not one, or names files outside."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    files = content.get("files") if name == stored.MANIFEST and isinstance(content, dict) else content
    if not isinstance(files, dict) or not files:
        return None
    for file, entry in files.items():
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or not isinstance(entry, dict):
            return None
        if not isinstance(entry.get("size"), int) or not isinstance(entry.get("sha256"), str):
            return None
    return files


def in_bucket(client: Any, address: Address, **patience: Any) -> Manifest | None:
    """The manifest under an address, None where nothing whole lies there. Raises InputError where it is broken."""
    for name in NAMES:
        text = read_text(client, address, name, **patience)
        if text is None:
            continue
        files = entries(name, text)
        if files is not None:
            return Manifest(name, files, text)
        if name == stored.MANIFEST:
            raise InputError(problem(address / name, "files", "is missing or broken", "push the directory again"))
    return None


def read_text(client: Any, address: Address, name: str, **patience: Any) -> str | None:
    """A small text object, None where there is none."""

    def get() -> str | None:
        try:
            return client.get_object(Bucket=address.bucket, Key=address.key(name))["Body"].read(LARGEST).decode()
        except client.exceptions.NoSuchKey:
            return None

    return patiently(get, address / name, **patience)


def listing(client: Any, address: Address, **patience: Any) -> dict[str, tuple[int, str]]:
    """Every object below an address: its key without what they all begin with, its size and its ETag."""
    found: dict[str, tuple[int, str]] = {}
    asked = {"Bucket": address.bucket, "Prefix": address.below}
    while True:
        answer = patiently(lambda: client.list_objects_v2(**asked), address, **patience)
        for one in answer.get("Contents", []):
            found[one["Key"][len(address.below) :]] = (one["Size"], one["ETag"].strip('"'))
        if not answer.get("IsTruncated"):
            return found
        asked["ContinuationToken"] = answer["NextContinuationToken"]


def nothing_whole(client: Any, address: Address) -> str:
    """The message for an address where no manifest lies."""
    there = listing(client, address)
    if there:
        what = f"holds {len(there)} objects but no {NAMES[0]}: not whole, or not pushed by this program"
        return problem(address, "", what, f"push it (again): python -m scripts.s3.objects push DIRECTORY {address}")
    return problem(address, "", "holds nothing", "list what there is: python -m scripts.s3.objects list s3://bucket")
