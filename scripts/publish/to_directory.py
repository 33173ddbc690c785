"""A publication into a directory: written aside, hashed as it is written, renamed into its place."""

import glob
import hashlib
import os
import shutil
from pathlib import Path

from scripts.publish.contents import Contents
from scripts.publish.objections import Objection, objection
from scripts.transfer_view import View, amount
from train import stored
from train.errors import InputError, problem
from train.files import sync

BLOCK = 1 << 20


def check(place: str, run: Path) -> list[str]:
    """What is wrong with the directory, as far as it can be known before anything is put together."""
    path, fix = Path(place), "give another directory: TO=…"
    if path.exists() and not path.is_dir():
        return [problem("TO", place, "is a file", fix)]
    inside, around = path.resolve(), run.resolve()
    if inside == around or around in inside.parents or inside in around.parents:
        return [problem("TO", place, f"is the run's own directory, lies in it or holds it ({run})", fix)]
    parent = next(one for one in path.resolve().parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return [problem("TO", place, f"cannot be made: {parent} cannot be written to", fix)]
    return []


def look(place: str, contents: Contents) -> tuple[bool, list[Objection]]:
    """Whether just this publication is there already, whole; and what is there instead.

    Raises InputError for a directory that no publication made: nothing allows to replace that.
    """
    path = Path(place)
    if not path.exists() or not any(path.iterdir()):
        return False, []
    there = stored.read_manifest(path)
    if "published" not in there:
        names = sorted(one.name for one in path.iterdir())
        what = f"is not empty, and no publication lies there ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        raise InputError(problem("TO", place, what, "give another directory"))
    wrong = stored.damage(path)
    if there.get("files") == contents.files and not wrong:
        return True, []
    what = "holds this publication, damaged" if there.get("files") == contents.files else "holds another publication"
    what += f": {'; '.join(wrong[:3])}" if wrong else f", {there.get('name')} {there.get('revision')}"
    return False, [objection("replace", f"TO: {place}", what, "give another directory")]


def put(place: str, contents: Contents) -> str:
    """Write everything and return what to tell of it. Raises InputError where there is no room."""
    path = Path(place).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < contents.size:
        what = f"{amount(contents.size)} are needed and {amount(free)} are free"
        raise InputError(problem(path.parent, "", what, "free space there, or give another TO"))
    own = f"{os.uname().nodename}-{os.getpid()}"  # two runs may be published to one place at once
    aside, old = (
        path.with_name(f".{path.name}.publishing-{own}.tmp"),
        path.with_name(f".{path.name}.replaced-{own}.tmp"),
    )
    for leftover in leftovers(path):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    try:
        with View(f"publish {path.name}", contents.size) as view:
            for name, source in contents.sources.items():
                write(source, aside / name, contents.files[name]["sha256"], view)
    except BaseException:
        shutil.rmtree(aside)
        raise
    (aside / stored.MANIFEST).write_bytes(contents.manifest_bytes())
    for one in (aside / stored.MANIFEST, aside):
        sync(one)
    if path.exists():
        path.rename(old)
    aside.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return str(path)


def leftovers(path: Path) -> list[Path]:
    """What publications to this place left on this machine when they were killed."""
    left = []
    for one in path.parent.glob(f".{glob.escape(path.name)}.*-{os.uname().nodename}-*.tmp"):
        try:
            os.kill(int(one.name.removesuffix(".tmp").rpartition("-")[2]), 0)
        except ProcessLookupError:
            left.append(one)
        except (ValueError, PermissionError):  # none of ours, or somebody's who works
            continue
    return left


def write(source: Path | bytes, target: Path, wanted: str, view: View) -> None:
    """One file, brought to the disk. Raises InputError where its bytes are no longer those that were hashed before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for block in blocks(source):
            digest.update(block)
            file.write(block)
            view.add(len(block))
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != wanted:
        raise InputError(
            problem(source, "", "changed while it was published", "publish again when nothing writes there")
        )


def blocks(source: Path | bytes):
    """The bytes of a source, block by block."""
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
