"""The store's bookkeeping: which models and data sets lie in it, which runs use them, verify one, remove one.

python -m scripts.store_artifacts list                 one JSON object: "artifacts", "incoming", "free"
python -m scripts.store_artifacts verify PATH          read every file; what is damaged is set aside, so that the next
                                                       fetch brings just that
python -m scripts.store_artifacts remove PATH          for good; whether a run uses it is for the caller to judge
Options: --store DIR (default /store), --runs DIR (default: runs/ of the store). PATH is as `list` says it.
The workstation sends this file with train/stored.py and train/files.py to the data-access pod: all three need Python's
own library only.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train.files import write_json
from train.stored import (
    DIRECTORIES,
    INCOMING,
    MANIFEST,
    REFS,
    Artifact,
    damaged_files,
    lock,
    published,
    read_json,
    read_manifest,
    remove,
)

SECONDS_BETWEEN_WORDS = 1.0
KINDS = {directory: kind for kind, directory in DIRECTORIES.items()}
RECORD = "run.json"
HELD = "is being fetched by"
DONE = ("after.json", "report.html")  # a run that has both is over


class Refusal(Exception):
    """What was asked for cannot be; the message is for people."""


# ---- what there is ----


def inventory(store: Path, runs: Path) -> dict:
    """All that lies in the store; each with the runs that use it."""
    users = [(run, read_json(run / RECORD)) for run in sorted(path.parent for path in runs.glob(f"*/{RECORD}"))]
    artifacts = [describe(store, path) for path in published(store)]
    artifacts += [by_hand(store, path) for path in brought_by_hand(store)]
    for entry in artifacts:
        entry["runs"] = [
            {"name": run.name, "state": state_of(run)} for run, record in users if uses(record, entry, store)
        ]
    return {"artifacts": artifacts, "incoming": half_fetched(store), "free": free(store)}


def free(store: Path) -> int:
    """Bytes that the store has left; 0 where it does not exist yet."""
    return shutil.disk_usage(store).free if store.is_dir() else 0


def describe(store: Path, directory: Path) -> dict:
    """What a published directory says of itself, and whether its files have the sizes that were fetched."""
    manifest, home = read_manifest(directory), directory.parent
    files = manifest.get("files", {})
    revision = str(manifest.get("revision", directory.name))
    wrong = [name for name, entry in files.items() if size_of(directory / name) != entry["size"]]
    hashes = [entry["sha256"] for entry in files.values()]
    return {
        "kind": KINDS[directory.relative_to(store).parts[0]],
        "name": str(manifest.get("name", home.relative_to(store / directory.relative_to(store).parts[0]))),
        "revision": revision,
        "references": sorted(name for name, commit in read_json(home / REFS).items() if commit == revision),
        "path": str(directory.relative_to(store)),
        "bytes": sum(entry["size"] for entry in files.values()),
        "files": len(files),
        "sha256": hashes[0] if len(hashes) == 1 else None,
        "licence": manifest.get("licence"),
        "source": manifest.get("source"),
        "fetched": manifest.get("fetched"),
        "wrong_size": wrong,
    }


def size_of(path: Path) -> int | None:
    """The bytes of a file, None where there is none."""
    return path.stat().st_size if path.is_file() else None


def brought_by_hand(store: Path) -> list[Path]:
    """Directories and files of models and data sets that nobody fetched: they have no manifest."""
    found, pending = [], [store / directory for directory in DIRECTORIES.values()]
    while pending:
        directory = pending.pop()
        inner = [path for path in sorted(directory.glob("*")) if not path.name.startswith(".") and path.name != REFS]
        if (directory / MANIFEST).exists():
            continue
        if directory.parent != store and any(path.is_file() for path in inner):
            found.append(directory)
            continue
        found += [path for path in inner if path.is_file()]
        pending += [path for path in inner if path.is_dir()]
    return sorted(found)


def by_hand(store: Path, path: Path) -> dict:
    """What can be said of a directory or file without manifest."""
    top = path.relative_to(store).parts[0]
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {
        "kind": KINDS[top], "name": str(path.relative_to(store / top)), "revision": "", "references": [],
        "path": str(path.relative_to(store)), "bytes": sum(size_of(one) or 0 for one in files), "files": len(files),
        "sha256": None, "licence": None, "source": None, "fetched": None, "wrong_size": [],
    }  # fmt: skip


def half_fetched(store: Path) -> list[dict]:
    """What is being fetched, or was left by a kill; `by` is who works on it, empty for nobody."""
    found = []
    for directory, kind in KINDS.items():
        for path in sorted((store / directory / INCOMING).glob("*@*")):
            if not path.is_dir():
                continue
            name, _, revision = path.name.partition("@")
            sizes = [allocated(one) for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
            found.append({
                "kind": kind, "name": name.replace("--", "/", 1), "revision": revision, "bytes": sum(sizes),
                "path": str(path.relative_to(store)), "by": holder(Path(f"{path}.lock")),
            })  # fmt: skip
    return found


def allocated(path: Path) -> int:
    """The bytes of a file that are there: one that was made long beforehand has holes."""
    try:
        status = path.stat()
    except FileNotFoundError:  # it has just been renamed
        return 0
    return min(status.st_size, status.st_blocks * 512)


def holder(path: Path) -> str:
    """Who holds a lock; empty for nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
    finally:
        os.close(descriptor)
    return ""


# ---- which runs use it ----


def uses(record: dict, entry: dict, store: Path) -> bool:
    """Whether a run's record names a model or data set, by name and revision or by its place."""
    known = [one for one in (record.get("artifacts") or {}).values() if isinstance(one, dict)]
    if entry["revision"] and any(
        (one.get("name"), one.get("revision")) == (entry["name"], entry["revision"]) for one in known
    ):
        return True
    place = store / entry["path"]
    paths = [record.get("model_path"), *((record.get("data") or {}).get("sources") or {})]
    return any(Path(path).absolute() == place or place in Path(path).absolute().parents for path in paths if path)


def state_of(run: Path) -> str:
    """running, complete or unfinished."""
    if holder(run / ".lock"):
        return "running"
    return "complete" if all((run / name).exists() for name in DONE) else "unfinished"


# ---- verify, remove ----


def verify(directory: Path, tell: Callable[[int], None]) -> dict[str, str]:
    """Of each damaged file its name and what is wrong; it is set aside, `tell` hears the bytes that were read."""
    wrong = damaged_files(directory, tell)
    for name in wrong:
        path = directory / name
        try:
            path.rename(path.with_name(f".{path.name}.damaged"))
        except FileNotFoundError:
            continue
        except OSError as error:
            wrong[name] += f", and cannot be set aside: {error.strerror}"
    return wrong


def take_away(store: Path, path: Path) -> int:
    """Remove a model or data set, whole or half fetched, and the references to it; returns the bytes that are freed.

    Raises Refusal while somebody fetches it.
    """
    entries = inventory(store, store / "nothing")
    entry = next((one for one in entries["artifacts"] + entries["incoming"] if store / one["path"] == path), None)
    if entry is None:
        raise Refusal(f"{path}: is no model or data set of the store")
    artifact = Artifact(entry["kind"], entry["name"], entry["revision"])
    with lock(artifact, store, refuse_held):
        if path.is_file():
            path.unlink()
        else:
            remove(path)
        home = path.parent
        if (home / REFS).exists():
            with lock(replace(artifact, revision="refs"), store):  # another revision may be noted at the same time
                kept = {name: commit for name, commit in read_json(home / REFS).items() if commit != entry["revision"]}
                write_json(home / REFS, kept) if kept else (home / REFS).unlink(missing_ok=True)
    top = store / DIRECTORIES[entry["kind"]]
    while home not in (top, top / INCOMING) and not any(home.iterdir()):
        home.rmdir()
        home = home.parent
    return entry["bytes"]


def refuse_held(who: str) -> None:
    """Given to train.stored.lock: nobody waits here."""
    raise Refusal(f"{HELD} {who}")


# ---- as a program ----


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("list", "verify", "remove"))
    parser.add_argument("path", nargs="?", default="")
    parser.add_argument("--store", type=Path, default=Path("/store"))
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    store = given.store.resolve()
    path = (store / given.path).resolve()
    try:
        if given.action == "list":
            answer: object = inventory(store, given.runs or store / "runs")
        elif not path.is_relative_to(store) or path == store or not path.exists():
            raise Refusal(f"{given.path}: is not on the store")
        elif given.action == "verify":
            answer = verify(path, spoken())
        else:
            answer = take_away(store, path)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


def spoken() -> Callable[[int], None]:
    """A function that hears bytes and says from time to time how many there were."""
    done, told = 0, time.monotonic()

    def hear(read: int) -> None:
        nonlocal done, told
        done += read
        if time.monotonic() - told > SECONDS_BETWEEN_WORDS:
            told = time.monotonic()
            print(f"read {done}", file=sys.stderr, flush=True)

    return hear


if __name__ == "__main__":
    sys.exit(main())
