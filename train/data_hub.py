"""Find a hub data set that is already on this machine, and read its rows; nothing is ever downloaded here."""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from train.data_files import Numbered, read_file
from train.errors import InputError, problem
from train.in_store import fetch_command, find_by_name, find_in_cache
from train.stored import MANIFEST, read_manifest

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk writes
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
MEDIA = ("Image", "Audio", "Video", "Pdf")  # decoding these takes libraries and time, and no recipe reads them


def find_dataset(name: str, revision: str | None, where: object) -> Path:
    """The directory of a data set: by its name in the store, `name` itself, or in the hub's cache."""
    found = find_by_name("dataset", name, revision)
    if found or Path(name).is_dir():
        return found or Path(name)
    if not NAME.fullmatch(name):
        fix = "give a directory that exists, or a name on the hub such as owner/name"
        raise InputError(problem(where, "dataset_name", f"there is no directory {name}", fix))
    found = find_in_cache("dataset", name, revision)
    if found:
        return found
    what = f"{name} is not on this machine" + (f" in revision {revision}" if revision else "")
    fix = (
        f"fetch it: {fetch_command('dataset', name, revision)}   (a gated one needs its owner's consent and HF_TOKEN "
        "first); or give DATA=file on the make line"
    )
    raise InputError(problem(where, "dataset_name", what, fix))


def dataset_files(directory: Path) -> list[Path]:
    """The files that make up a data set's directory; hidden ones and the store's manifest are left out."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and path != directory / MANIFEST
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def read_dataset(directory: Path, name: str, config: str | None, split: str, where: object) -> list[Numbered]:
    """The rows of one split, numbered from 1 in the order of that split."""
    refuse_script(directory, name, where)
    file = only_file(directory)
    if file:
        return cut(read_file(file), name, split, where)
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # A cache of its own: the default lies in the home, which a pod cannot write, and would outlive a changed file.
    with tempfile.TemporaryDirectory(prefix="tunefleet-data-") as cache:
        try:
            table = open_split(datasets, without_manifest(directory, Path(cache)), config, split, cache)
            kept = [key for key, feature in table.features.items() if type(feature).__name__ not in MEDIA]
            rows = table.select_columns(kept).to_list()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise InputError(unreadable_dataset(error, name, config, split, where)) from None
    if not rows:
        raise InputError(problem(where, "dataset_split", f"{split} of {name} holds no rows", "name another split"))
    return list(enumerate(rows, start=1))


def only_file(directory: Path) -> Path | None:
    """The file of a data set that was made of one; its rows are all called train, whatever its name sounds like."""
    manifest = read_manifest(directory)
    files = list(manifest.get("files", {}))
    if len(files) != 1 or "hub" in (manifest.get("source") or {}):
        return None
    return directory / files[0] if Path(files[0]).suffix.lower() in SUFFIXES else None


def cut(rows: list[Numbered], name: str, split: str, where: object) -> list[Numbered]:
    """The rows that a split names, of rows that are all called train."""
    if split == "train":
        return rows
    import datasets

    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": len(rows)})
    except (ValueError, AssertionError) as error:
        raise InputError(unreadable_dataset(error, name, None, split, where)) from None
    return [row for part in parts for row in rows[part.from_ : part.to]]


def without_manifest(directory: Path, place: Path) -> Path:
    """The directory, or links in `place` to all but the store's manifest, which datasets would read as rows."""
    if not (directory / MANIFEST).is_file():
        return directory
    view = place / "files"
    for path in dataset_files(directory):
        link = view / path.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return view


def refuse_script(directory: Path, name: str, where: object) -> None:
    """Raise InputError for a data set that is a program: it would run with this user's rights."""
    script = directory / f"{name.rstrip('/').rsplit('/', 1)[-1]}.py"
    if script.is_file():
        fix = "take its Parquet conversion (on the hub: REVISION=refs/convert/parquet), or give DATA=file"
        what = f"{name} is read by a script of its own ({script.name}), and scripts of data sets are never run"
        raise InputError(problem(where, "dataset_name", what, fix))


def open_split(datasets: Any, directory: Path, config: str | None, split: str, cache: str) -> Any:
    """The split as a datasets.Dataset, from plain data files or from what save_to_disk wrote."""
    if not any((directory / name).is_file() for name in SAVED):
        return datasets.load_dataset(str(directory), name=config, split=split, cache_dir=cache)
    saved = datasets.load_from_disk(str(directory))
    splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    lengths = {key: len(part) for key, part in splits.items()}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    return datasets.concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])


def unreadable_dataset(error: Exception, name: str, config: str | None, split: str, where: object) -> str:
    """The message for what datasets says; which key it belongs to is told by its words."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    reason = " ".join(lines[:3]) or type(error).__name__
    if "split" in reason.lower() or "corresponds to no data" in reason:
        return problem(
            where, "dataset_split", f"{split} cannot be taken from {name}: {reason}", "name one of its splits"
        )
    if "config" in reason.lower():
        key = f"is {config}" if config else "is missing"
        return problem(where, "dataset_config_name", f"{key}: {reason}", "name one of its configurations")
    fix = "fetch it again, or give DATA=file on the make line"
    return problem(where, "dataset_name", f"{name} cannot be read: {reason}", fix)
