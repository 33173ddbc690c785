"""Answers about the shared store, from inside a pod that has it mounted. Python's standard library only.

python -m scripts.store runs                          what every run left: record, size, what is there
python -m scripts.store space                         how much is free, and what takes the rest
python -m scripts.store manifest PATH [NAME …]        size and sha256 of every file (under these names only)
python -m scripts.store send PATH FILE OFFSET         the file's bytes from there on, to standard output
python -m scripts.store pack PATH FILE …              these files, as a tar, to standard output
python -m scripts.store find PATH …                   which of these exist, and how large they are
python -m scripts.store delete RUN                    remove a run's directory
The workstation gives this file to Python in the data-access pod by itself, so that both sides are of one version.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

CACHE = ".manifest.json"  # hashes by size and time of change: 13 GB are read once, not at every question
EVALUATIONS = ("before.json", "after.json")
WHAT_THERE_IS = ("data", "before.json", "adapter", "model", "merged", "after.json", "report.html")
BLOCK = 1 << 20
SECONDS_BETWEEN_WORDS = 2.0


class OutsideOrMissing(Exception):
    """A path that this program does not touch, or that is not there."""


def inside(store: Path, given: str) -> Path:
    """The path in the store; relative ones begin at its root. Raises where it leads out of it."""
    path = (store / given).resolve()
    if not path.is_relative_to(store):
        raise OutsideOrMissing(f"{given}: lies outside the store")
    return path


def present(store: Path, given: str) -> Path:
    """The path, which must exist."""
    path = inside(store, given)
    if not path.exists():
        raise OutsideOrMissing(f"{given}: is not on the store")
    return path


def files_under(path: Path) -> list[Path]:
    """The files that are somebody's result: no links, nothing hidden, nothing unfinished."""
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return [one for one in found if not one.is_symlink() and one.is_file()]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a directory, the hidden ones too; what vanishes meanwhile has none."""
    total = 0
    for folder, _, names in os.walk(path) if path.is_dir() else [(path.parent, (), [path.name])]:
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 a million files, each a Path, take long
            except FileNotFoundError:
                continue
    return total


def read_json(path: Path) -> dict:
    """A JSON object; empty where the file is not there or torn."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ---- the questions ----


def runs(store: Path) -> list[dict]:
    """What every run left on the store."""
    found = []
    for directory in sorted((store / "runs").glob("*")):
        if directory.name.startswith(".") or not directory.is_dir():
            continue
        record = read_json(directory / "run.json")
        for key in ("recipe", "base_model", "versions"):
            record.pop(key, None)
        evaluations = [read_json(directory / name) for name in EVALUATIONS]
        matches = [(one.get("exact_match") or {}).get("share") for one in evaluations]
        rouge = [(one.get("rouge") or {}).get("rougeL") for one in evaluations]
        has = [name for name in WHAT_THERE_IS if (directory / name).exists()]
        changed = max((directory / name).stat().st_mtime for name in (".", *has))
        found.append({"name": directory.name, "record": record, "bytes": size_of(directory), "exact_match": matches,
                      "rouge": rouge, "has": has, "changed": changed})  # fmt: skip
    return found


def space(store: Path) -> dict:
    """How much of the store is free, and what its directories take."""
    usage = shutil.disk_usage(store)
    taken = {one.name: size_of(one) for one in sorted(store.iterdir()) if one.is_dir() and not one.name.startswith(".")}
    return {"total": usage.total, "free": usage.free, "taken": taken}


def manifest(store: Path, given: str, names: list[str], fresh: bool) -> dict:
    """Every file's size and hash. What has the size and time of change that it had last time is not read again."""
    root = present(store, given)
    wanted = [inside(root, name) for name in names] if names else [root]
    paths = [path for one in wanted for path in ([one] if one.is_file() else files_under(one))]
    cache, found, told = {} if fresh else read_json(root / CACHE), {}, time.monotonic()
    total, done = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        name = str(path.relative_to(root))
        before = cache.get(name)
        now = path.stat()
        stamp = [now.st_size, now.st_mtime_ns]
        found[name] = before if before and before["stamp"] == stamp else {"stamp": stamp, "sha256": hash_file(path)}
        done += now.st_size
        if time.monotonic() - told > SECONDS_BETWEEN_WORDS:
            told = time.monotonic()
            print(f"hashed {done / 1e9:.1f} of {total / 1e9:.1f} GB", file=sys.stderr, flush=True)
    keep(root, {name: entry for name, entry in cache.items() if (root / name).exists()} | found)
    return {name: {"size": entry["stamp"][0], "sha256": entry["sha256"]} for name, entry in found.items()}


def keep(root: Path, cache: dict) -> None:
    """Remember the hashes; a store that cannot be written to just forgets them."""
    temporary = root / f"{CACHE}.{os.getpid()}.tmp"
    try:
        temporary.write_text(json.dumps(cache))
        temporary.rename(root / CACHE)
    except OSError as error:
        print(f"hashes are not kept: {error}", file=sys.stderr)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def send(store: Path, given: str, name: str, offset: int) -> None:
    """The bytes of a file from an offset on."""
    root = present(store, given)
    path = inside(root, name)
    if not path.is_file():
        raise OutsideOrMissing(f"{given}/{name}: is not on the store")
    with path.open("rb") as file:
        if offset > file.seek(0, os.SEEK_END):
            raise OutsideOrMissing(f"{given}/{name}: is shorter than {offset} bytes")
        file.seek(offset)
        shutil.copyfileobj(file, sys.stdout.buffer, BLOCK)
    sys.stdout.buffer.flush()


def pack(store: Path, given: str, names: list[str]) -> None:
    """Several files as a tar stream; what is no file is left out."""
    root = present(store, given)
    paths = {name: inside(root, name) for name in names}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as stream:
        for name, path in paths.items():
            if path.is_file():
                stream.add(path, arcname=name, recursive=False)
    sys.stdout.buffer.flush()


def find(store: Path, paths: list[str]) -> dict:
    """Whether each is there, what it is, and how large."""
    found = {}
    for given in paths:
        path = inside(store, given)
        kind = "directory" if path.is_dir() else "file" if path.is_file() else ""
        found[given] = {"exists": bool(kind), "kind": kind, "size": size_of(path) if kind else 0}
    return found


def delete(store: Path, run: str) -> dict:
    """Remove a run's directory; renamed first, so that a kill in the middle leaves no half of a run behind."""
    if not run or Path(run).name != run or run.startswith("."):
        raise OutsideOrMissing(f"{run or '(empty)'}: is no run's name")
    directory = present(store / "runs", run)
    size = size_of(directory)
    doomed = directory.rename(directory.with_name(f".{run}.deleted.tmp"))
    shutil.rmtree(doomed)
    return {"deleted": run, "bytes": size}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("/store"), help="where it is mounted")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("runs", "space", "manifest", "send", "pack", "find", "delete"):
        words = {"runs": (), "space": (), "send": ("path", "file"), "find": (), "delete": ("run",)}.get(name, ("path",))
        action = actions.add_parser(name)
        for word in words:
            action.add_argument(word)
        if name == "send":
            action.add_argument("offset", type=int)
        if name in ("manifest", "pack", "find"):
            action.add_argument("names", nargs="*")
        if name == "manifest":
            action.add_argument("--fresh", action="store_true", help="read every file again")
    given = parser.parse_args()
    store = given.store.resolve()
    try:
        if given.action == "send":
            send(store, given.path, given.file, given.offset)
            return 0
        if given.action == "pack":
            pack(store, given.path, given.names)
            return 0
        answer = {
            "runs": lambda: runs(store),
            "space": lambda: space(store),
            "manifest": lambda: manifest(store, given.path, given.names, given.fresh),
            "find": lambda: find(store, given.names),
            "delete": lambda: delete(store, given.run),
        }[given.action]()
    except OutsideOrMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
