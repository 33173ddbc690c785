"""One file from the store to this machine: from the byte where it stopped, in its place only when its hash is right."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

from tqdm import tqdm

from scripts.cluster.store_client import PROGRAM, Store, refusal
from train.files import hash_file, write_json

BLOCK = 1 << 20


class Copies:
    """What was copied and verified here: a file that has not changed since is not hashed again."""

    NAME = ".copied.json"

    def __init__(self, directory: Path):
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.NAME
        self.known = json.loads(path.read_text()) if path.exists() else {}
        if not path.exists():
            write_json(path, self.known)

    def hash_of(self, name: str) -> str:
        """The hash of a file that is here, from memory where size and time of change are the remembered ones."""
        status = (self.directory / name).stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self.known.get(name)
        if not entry or entry["stamp"] != stamp:
            self.known[name] = entry = {"stamp": stamp, "sha256": hash_file(self.directory / name)}
            write_json(self.directory / self.NAME, self.known)
        return entry["sha256"]

    def keep(self, name: str, facts: dict) -> None:
        """Remember a file that has just been verified."""
        status = (self.directory / name).stat()
        self.known[name] = {"stamp": [status.st_size, status.st_mtime_ns], "sha256": facts["sha256"]}
        write_json(self.directory / self.NAME, self.known)


def sound(path: Path, facts: dict, copies: Copies) -> bool:
    """Whether the file is here with the right bytes."""
    name = str(path.relative_to(copies.directory))
    return path.is_file() and path.stat().st_size == facts["size"] and copies.hash_of(name) == facts["sha256"]


def fetch(store: Store, root: str, name: str, target: Path, facts: dict, bar: tqdm) -> bool:
    """Bring one file here; False where its bytes are wrong (they are not kept) or too few (they are).

    Raises Refused where the link is cut.

    The hash is in the unfinished file's name: what was begun of another version of the file is never gone on with.
    """
    partial = begin(target, facts)
    digest, have = hashlib.sha256(), 0
    if partial.exists():
        with partial.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                have += len(block)
    shown = bar.n
    bar.update(have)
    if have < facts["size"] or not partial.exists():
        receive(store, root, name, partial, have, digest, bar)
    size = partial.stat().st_size
    if size == facts["size"] and digest.hexdigest() == facts["sha256"]:
        partial.rename(target)
        return True
    bar.n = shown
    if size >= facts["size"]:  # what is shorter stays: kubectl may end well although its stream was cut
        partial.unlink()
    return False


def begin(target: Path, facts: dict) -> Path:
    """The unfinished file of a target in this version; its directory is made, other versions are removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target, facts)
    for old in target.parent.glob(f".{target.name}.*.partial"):
        if old != partial:
            old.unlink()
    return partial


def partial_of(target: Path, facts: dict) -> Path:
    """The unfinished file of a target in this version."""
    return target.with_name(f".{target.name}.{facts['sha256'][:12]}.partial")


def receive(store: Store, root: str, name: str, partial: Path, offset: int, digest, bar: tqdm) -> None:
    """Append what the store sends from the offset on. What came before a cut stays, and Refused is raised."""
    before = bar.n - offset
    with PROGRAM.open("rb") as program:
        process = subprocess.Popen(
            store.command("send", root, name, str(offset)),
            stdin=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    try:
        with partial.open("ab") as file:
            while block := process.stdout.read1(BLOCK):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
        said = process.stderr.read().decode(errors="replace")
        status = process.wait()
    finally:
        process.kill()
    if status:
        bar.n = before
        if "is shorter than" in said:
            partial.unlink()
        raise refusal(said.splitlines() or ["the connection was cut"], status) from None
