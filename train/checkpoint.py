"""Checkpoints that are whole or not there: written aside, listed with sizes and hashes, renamed into place.

checkpoints/checkpoint-40/                 complete: manifest.json holds size and sha256 of every other file
checkpoints/.checkpoint-60.tmp/            being written, or left by a kill: never read, removed at the next start
"""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train.errors import see
from train.files import hash_file, sync, write_json

MANIFEST = "manifest.json"


def seal(directory: Path, final: Path) -> None:
    """Give a finished directory its manifest, bring it to the disk and rename it to `final`, replacing an older one."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = list(pool.map(hash_file, files))
    entries = {
        str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(files, hashes, strict=True)
    }
    for path in files:
        sync(path)
    write_json(directory / MANIFEST, entries)
    sync(directory)
    if final.exists():
        # Two renames, so that at no moment the only whole copy is under a name that a cleaner removes.
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        directory.rename(final)
        shutil.rmtree(old)
    else:
        directory.rename(final)
    sync(final.parent)


def damage(directory: Path) -> str | None:
    """What is wrong with a sealed directory: no manifest, a file missing, of another size or with other bytes."""
    try:
        entries = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"has no readable {MANIFEST}"
    for name, entry in entries.items():
        path = directory / name
        if not path.is_file():
            return f"lacks {name}"
        if path.stat().st_size != entry["size"]:
            return f"{name} has {path.stat().st_size} bytes, the manifest says {entry['size']}"
        if hash_file(path) != entry["sha256"]:
            return f"{name} is not what was written (sha256 differs)"
    return None


def steps_of(root: Path) -> list[int]:
    """The steps that have a checkpoint under `root`, in order."""
    names = [path.name.removeprefix("checkpoint-") for path in root.glob("checkpoint-*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def newest_valid(root: Path) -> Path | None:
    """The newest checkpoint that is what was written; a damaged one is named on stderr, set aside and passed over."""
    for step in reversed(steps_of(root)):
        path = root / f"checkpoint-{step}"
        wrong = damage(path)
        if wrong is None:
            return path
        aside = root / f"damaged-{path.name}"
        print(
            f"checkpoint {path}: {wrong}; passed over, kept as {aside.name}{see('resume-takes-old-checkpoint')}",
            file=sys.stderr,
        )
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return None


def remove_leftovers(root: Path) -> None:
    """Remove what a kill left half-written or half-removed, and bring back what it left renamed aside."""
    for path in root.glob(".*.old"):
        final = path.with_name(path.name[1:].removesuffix(".old"))
        if final.exists():
            shutil.rmtree(path)
        else:
            path.rename(final)
    for path in root.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def rotate(root: Path, keep: int, best: int | None) -> None:
    """Remove the oldest checkpoints but `keep`; the best one and the newest stay whatever their age."""
    steps = steps_of(root)
    for step in [step for step in steps[:-1] if step != best]:
        if len(steps) <= keep:
            return
        # Renamed first: a kill in the middle of the removal must not leave a checkpoint that looks whole.
        doomed = (root / f"checkpoint-{step}").rename(root / f".checkpoint-{step}.removed.tmp")
        shutil.rmtree(doomed)
        steps.remove(step)
