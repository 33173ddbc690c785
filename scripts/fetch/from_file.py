"""A file of rows on this machine goes into the store as a data set."""

import hashlib
from pathlib import Path

from scripts.fetch import one_file
from scripts.fetch.hub import Patience, check_room
from scripts.fetch.messages import store_watched
from scripts.transfer_view import View
from train import stored
from train.data_files import unreadable
from train.errors import InputError, problem
from train.files import hash_file

BLOCK = 1 << 20


@store_watched()
def copy_file(given: Path, sha256: str, store: Path) -> Path:
    """Publish the file; `sha256` is empty, or what its hash must be. Returns the data set's directory.

    Raises InputError where it is no file of rows, or not the one that was meant.
    """
    if given.is_dir():
        what, fix = "is a directory", f"nothing needs to be fetched: make run DATA={given}; or give one file of rows"
        raise InputError(problem("DATA", str(given), what, fix))
    try:
        found = hash_file(given)
    except OSError as error:
        raise InputError(unreadable(given, error)) from None
    if sha256 and found != sha256:
        fix = "copy the file again, or correct SHA256="
        raise InputError(problem("SHA256", sha256, f"{given} has {found}", fix))
    artifact = one_file.artifact_of(given.name, found)
    with stored.lock(artifact, store, Patience(artifact)):
        there = one_file.already_there(artifact, store)
        if there:
            return there
        check_room(given.stat().st_size, store)
        incoming = artifact.incoming(store)
        incoming.mkdir(exist_ok=True)
        copied = copy(given, incoming / given.name)
        if copied != found:
            raise InputError(problem("DATA", str(given), "was changed while it was copied", "the same command again"))
        return one_file.publish(artifact, store, incoming / given.name, {"path": given.name})


def copy(source: Path, target: Path) -> str:
    """Copy a file; returns the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with View(source.name, source.stat().st_size) as view, source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK):
            digest.update(block)
            new.write(block)
            view.add(len(block))
    return digest.hexdigest()
