"""One file of rows becomes a data set of the store: named by the file, its revision the hash of its bytes."""

import os
import re
import shutil
from pathlib import Path

from scripts.transfer_view import amount
from train import stored
from train.data_files import read_file
from train.errors import InputError, problem
from train.events import tell
from train.files import hash_file

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
DIGITS = 16  # of the hash, in a revision


def check_name(file: str) -> list[str]:
    """What keeps a file's name from being a data set's; an empty list for nothing."""
    stem, suffix = os.path.splitext(file)  # noqa: PTH122 (a part of a URL, not a path)
    if suffix.lower() not in SUFFIXES:
        what = f"ends in {suffix or 'nothing'}"
        return [problem("DATA", file or "(empty)", what, f"give a file that ends in one of {', '.join(SUFFIXES)}")]
    if not NAME.fullmatch(stem):
        fix = "rename it: letters, digits, dots, hyphens and underscores; the data set is called by it"
        return [problem("DATA", file, "cannot be the name of a data set", fix)]
    return []


def artifact_of(file: str, sha256: str) -> stored.Artifact:
    """The data set that a file with this name and hash becomes."""
    return stored.Artifact("dataset", Path(file).stem, f"sha256-{sha256[:DIGITS]}")


def already_there(artifact: stored.Artifact, store: Path) -> Path | None:
    """Its directory where it is published and undamaged; what is damaged is brought again."""
    directory = store / artifact.path
    if not stored.read_manifest(directory) or stored.damage(directory):
        return None
    stored.remember(artifact, store, "main")
    print(f"{artifact} is there already: {directory}")
    return directory


def publish(artifact: stored.Artifact, store: Path, file: Path, source: dict[str, str]) -> Path:
    """Publish a verified file in `incoming`; `source` says of what kind it comes, and from where.

    Raises InputError, and keeps nothing, where it has no rows.
    """
    try:
        rows = len(read_file(file))
    except InputError as error:
        shutil.rmtree(file.parent)
        raise InputError([message.replace(str(file), *source.values()) for message in error.problems]) from None
    entry = {"size": file.stat().st_size, "sha256": hash_file(file)}
    facts = {"source": source, "licence": None, "rows": rows}
    directory = stored.publish(artifact, store, {file.name: entry}, facts)
    stored.remember(artifact, store, "main")
    print(f"{artifact}: {rows:,} rows, {amount(entry['size'])}, sha256 {entry['sha256']}\nin {directory}")
    print(f"use it: make run DATA={artifact.name}")
    tell("fetched", name=artifact.name, revision=artifact.revision, bytes=entry["size"],
         manifest=hash_file(directory / stored.MANIFEST))  # fmt: skip
    return directory
