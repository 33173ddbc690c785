"""Where models and data sets lie in a store, and how one comes to lie there: whole, listed with hashes, or not at all.

models/<owner>/<name>/<revision>/              a fetched model: its files, and tunefleet.json that lists them
models/<owner>/<name>/refs.json                {"main": <commit>}: what a branch or tag meant when it was last fetched
models/.incoming/<owner>--<name>@<revision>/   being fetched, or left by a kill: the next fetch goes on with it
models/.incoming/<owner>--<name>@<revision>.lock
datasets/…                                     the same
The same on this machine (STORE=), on the shared store of a cluster, and under a prefix of an S3 bucket.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.files import hash_file, sync, write_json

MANIFEST = "tunefleet.json"
REFS = "refs.json"
INCOMING = ".incoming"
VARIABLE = "STORE"  # in the environment: the store's directory; make exports it
DIRECTORIES = {"model": "models", "dataset": "datasets"}


@dataclass(frozen=True)
class Artifact:
    """A model or a data set in one revision: a commit of the hub, or sha256-<digest> of a file."""

    kind: str  # model or dataset
    name: str  # owner/name
    revision: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.revision[:12]}"

    @property
    def path(self) -> Path:
        """Where it lies, seen from the store."""
        return Path(DIRECTORIES[self.kind], self.name, self.revision)

    def incoming(self, store: Path) -> Path:
        """Where it is put together; on the same file system, so that one rename publishes it."""
        return store / DIRECTORIES[self.kind] / INCOMING / f"{self.name.replace('/', '--')}@{self.revision}"


def local_store() -> Path | None:
    """The store of this machine or pod, None where none is named or it is not a directory's name."""
    given = os.environ.get(VARIABLE, "")
    return Path(given).absolute() if given and "://" not in given else None


# ---- which there are ----


def find(store: Path | None, kind: str, name: str, revision: str | None) -> Path | None:
    """The directory of a published model or data set, None where there is none.

    A revision is a commit, a branch or a tag that was fetched; None is what was fetched without naming one.
    """
    if store is None or not name or name.startswith((".", "/", "~")) or ".." in Path(name).parts:
        return None
    home = store / DIRECTORIES[kind] / name
    for wanted in (revision, read_json(home / REFS).get(revision or "main")):
        if wanted and (home / wanted / MANIFEST).is_file():
            return home / wanted
    return None


def published(store: Path) -> list[Path]:
    """The directories of all that is published in the store, models first."""
    found = []
    for directory in DIRECTORIES.values():
        found += sorted(
            path.parent for path in (store / directory).glob(f"*/**/{MANIFEST}") if INCOMING not in path.parts
        )
    return found


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a published directory says of itself; empty where it says nothing."""
    return read_json(directory / MANIFEST)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there or torn."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ---- one at a time ----


@contextlib.contextmanager
def lock(artifact: Artifact, store: Path, wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Be the only one who puts this artifact into the store; `wait` hears twice a second who holds the lock.

    A kernel's lock: whoever is killed lets go of it, and another takes over.
    """
    path = Path(f"{artifact.incoming(store)}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(PermissionError):  # somebody else's; a store may be shared, and umask took the others'
            os.fchmod(descriptor, 0o666)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait(os.pread(descriptor, 200, 0).decode(errors="replace") or "another process")
                time.sleep(0.5)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


# ---- publish, verify, remove ----


def publish(artifact: Artifact, store: Path, files: dict[str, dict[str, Any]], facts: dict[str, Any]) -> Path:
    """Put what lies whole and verified in `incoming` where readers look, with its manifest; returns the directory.

    files: name -> {"size": bytes, "sha256": hex}; facts: source, licence and the like, kept in the manifest. Anything
    in `incoming` that `files` does not name is removed. Two readers never see two states: there is one rename.
    """
    incoming, final = artifact.incoming(store), store / artifact.path
    for path in sorted(incoming.rglob("*"), reverse=True):
        name = str(path.relative_to(incoming))
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in files:
            path.unlink()
    for name in files:
        sync(incoming / name)
    write_json(incoming / MANIFEST, manifest(artifact, files, facts))
    sync(incoming)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(f"{incoming}.replaced")
    shutil.rmtree(aside, ignore_errors=True)  # left by a kill between these two renames
    if final.exists():  # without a manifest, or damaged: what takes its place is verified
        final.rename(aside)
    incoming.rename(final)
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
    return final


def manifest(artifact: Artifact, files: dict[str, dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """The content of tunefleet.json."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"kind": artifact.kind, "name": artifact.name, "revision": artifact.revision, "fetched": now}
    return head | facts | {"files": {name: files[name] for name in sorted(files)}}


def remember(artifact: Artifact, store: Path, reference: str) -> None:
    """Note what a branch, a tag, or no revision at all ("main") meant now."""
    path = store / DIRECTORIES[artifact.kind] / artifact.name / REFS
    if reference != artifact.revision and read_json(path).get(reference) != artifact.revision:
        with lock(replace(artifact, revision="refs"), store):  # another revision may be noted at the same time
            write_json(path, read_json(path) | {reference: artifact.revision})


def damage(directory: Path, tell: Callable[[int], None] = lambda read: None) -> list[str]:
    """What is wrong with a published directory, file by file. `tell` hears the bytes that were read, as they are."""
    if not isinstance(read_manifest(directory).get("files"), dict):
        return [f"{directory / MANIFEST} is missing or broken"]
    wrong = [f"{name} {what}" for name, what in damaged_files(directory, tell).items()]
    known = set(read_manifest(directory)["files"]) | {MANIFEST}
    more = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    more = [name for name in more if not Path(name).name.startswith(".")]
    return wrong + [f"{name} was not fetched with it" for name in sorted(set(more) - known)]


def damaged_files(directory: Path, tell: Callable[[int], None] = lambda read: None) -> dict[str, str]:
    """Of each file that is not as the manifest says: its name, and what is wrong with it."""
    wrong = {}
    for name, entry in read_manifest(directory)["files"].items():
        path = directory / name
        if not path.is_file():
            wrong[name] = "is missing"
        elif path.stat().st_size != entry["size"]:
            wrong[name] = f"has {path.stat().st_size} bytes, fetched were {entry['size']}"
        elif hash_file(path, tell) != entry["sha256"]:
            wrong[name] = "is not what was fetched (sha256 differs)"
    return wrong


def remove(directory: Path) -> None:
    """Take a published directory away for good; renamed first, so that nobody sees half of it."""
    doomed = directory.with_name(f".{directory.name}.removed.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    shutil.rmtree(doomed)
