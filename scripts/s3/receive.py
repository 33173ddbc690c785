"""Bring files down: in ranges, several at a time, into files that are renamed only when their sha256 is right.

NAME.part          the file as far as it has come; ranges land at their places
NAME.part.done     which ranges have: one number a line
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from scripts.s3.address import Address
from scripts.s3.trouble import patiently
from train.errors import InputError, problem
from train.files import hash_file, sync

RANGE = 16 << 20  # bytes of one request
BLOCK = 1 << 20


class Damaged(InputError):
    """What lies there is not what was pushed."""


class Receiver:
    """Fetches files of one address, `at_once` ranges at a time."""

    def __init__(
        self, client: Any, address: Address, at_once: int, add: Callable[[int], None], patience: dict[str, Any]
    ):
        self.client, self.address, self.add, self.patience = client, address, add, patience
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix="s3-range")
        self.lock = threading.Lock()

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.pool.shutdown(cancel_futures=True)

    def receive(self, name: str, path: Path, entry: dict[str, Any]) -> None:
        """Bring one file here, as its manifest's entry says. Raises Damaged where its bytes are others, twice."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size == entry["size"] and hash_file(path) == entry["sha256"]:
            self.add(entry["size"])
            return
        part, done = (path.with_name(f"{path.name}{end}") for end in (".part", ".part.done"))
        for last in (False, True):
            self.fill(name, part, done, entry["size"])
            found = hash_file(part)
            if found == entry["sha256"]:
                sync(part)
                part.rename(path)
                done.unlink()
                return
            part.unlink()
            done.unlink()
            if not last:
                self.add(-entry["size"])
        what = f"came with sha256 {found}, the manifest says {entry['sha256']}; nothing was published"
        raise Damaged(problem(self.address / name, "", what, "push it again from where it is right"))

    def fill(self, name: str, part: Path, done: Path, size: int) -> None:
        """Fetch the ranges that are not there yet."""
        have = ranges_of(done) if part.is_file() and part.stat().st_size == size else set()
        if not have:
            done.write_text("")
            with part.open("wb") as file:
                file.truncate(size)
        self.add(sum(min(RANGE, size - number * RANGE) for number in have))
        missing = [number for number in range(-(-size // RANGE)) if number not in have]
        with part.open("r+b") as file, done.open("a") as notes:
            work = partial(self.fetch, name, file.fileno(), notes, size)
            for _ in self.pool.map(work, missing):
                pass

    def fetch(self, name: str, descriptor: int, notes: Any, size: int, number: int) -> None:
        """One range, to its place in the file, and a note that it is there."""
        first, last = number * RANGE, min((number + 1) * RANGE, size) - 1
        where = {"Bucket": self.address.bucket, "Key": self.address.key(name), "Range": f"bytes={first}-{last}"}

        def once() -> None:
            at = first
            try:
                body = self.client.get_object(**where)["Body"]
                while block := body.read(BLOCK):
                    os.pwrite(descriptor, block, at)
                    at += len(block)
                    self.add(len(block))
            except self.client.exceptions.NoSuchKey:
                what = "is missing, and the manifest names it"
                raise Damaged(problem(self.address / name, "", what, "push it again from where it is right")) from None
            except BaseException:
                self.add(first - at)  # they come again
                raise

        patiently(once, self.address / name, **self.patience)
        with self.lock:
            notes.write(f"{number}\n")
            notes.flush()


def ranges_of(done: Path) -> set[int]:
    """The ranges that a file of notes names; a torn last line is none."""
    if not done.is_file():
        return set()
    return {
        int(line)
        for line in done.read_text().splitlines(keepends=True)
        if line.endswith("\n") and line.strip().isdigit()
    }


def bytes_here(path: Path, entry: dict[str, Any]) -> int:
    """How many bytes of a file need no more room: it is here, or its .part is, ranges still missing included."""
    for one in (path, path.with_name(f"{path.name}.part")):
        if one.is_file():
            return min(one.stat().st_blocks * 512, entry["size"])
    return 0
