"""Where a run's base model and rows come from: name, revision, licence; only what is recorded or lies beside them.

A run of a cluster, copied here by make results, names directories of the store there; those follow the store's layout,
so name and commit are read from them. What nobody recorded stays None, and the card says that it is unknown.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.publish.licence import licence_in, one_licence
from train import stored
from train.files import hash_file
from train.in_store import find_by_name

ROOT = Path(__file__).resolve().parents[2]
DEMO = "demo/model"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
STORED = re.compile(r"(?:^|/)(?:models|datasets)/([\w-][\w.-]*/[\w.-]+)/([0-9a-f]{40})/?$", re.ASCII)


@dataclass(frozen=True)
class Origin:
    """A model or data set: `name` as people know it, `hub` whether that is its name on the hub, the commit or None,
    the licence's identifier or None and where it is said, what a name is that is not the hub's, the directory here."""

    name: str
    hub: bool
    revision: str | None
    licence: str | None = None
    licence_from: str = ""
    place: str = ""
    directory: Path | None = None


def find_base(record: dict[str, Any], merged: Path) -> Origin:
    """The base model of a run's record. `merged` holds the base's small files too, its model card among them."""
    given = record["recipe"]["model_name_or_path"]
    known = (record.get("artifacts") or {}).get("model") or {}
    name, hub, revision = named(given, record["recipe"].get("model_revision"), known, record.get("model_path"))
    directory = base_here(record, name, revision)
    if directory and directory.resolve() == (ROOT / DEMO).resolve():
        name, hub, revision = DEMO, False, None
    manifest = stored.read_manifest(directory) if directory else {}
    fetched = "as the hub said when it was fetched"
    said = [(one_licence(manifest.get("licence"), manifest.get("licence_name")), fetched),
            (one_licence(known.get("licence"), known.get("licence_name")), fetched),
            (licence_in(directory / "README.md") if directory else None, "as the model card beside the base says"),
            (licence_in(merged / "README.md"), "as the base's model card says, which was merged along")]  # fmt: skip
    licence, source = next(((one, where) for one, where in said if one), (None, ""))
    place = "" if hub else "part of tunefleet's repository" if name == DEMO else "a directory of whoever trained it"
    return Origin(name, hub, revision, licence, source, place, directory)


def find_rows(record: dict[str, Any]) -> Origin:
    """The data set of a run's record: on the hub, or files."""
    recipe = record["recipe"]
    known = (record.get("artifacts") or {}).get("dataset") or {}
    given = recipe.get("dataset_name")
    files = list((record.get("data") or {}).get("sources") or {})
    if given and any(file.startswith(f"{given.rstrip('/')}/") for file in files) and not STORED.search(given):
        return Origin(local_name(given), False, None, one_licence(known.get("licence"), known.get("licence_name")))
    if not given and not known:
        return Origin(", ".join(local_name(file) for file in files) or "unknown", False, None)
    name, hub, revision = named(given or "", recipe.get("dataset_revision"), known, None)
    directory = find_by_name("dataset", name, revision) if hub else None
    manifest = stored.read_manifest(directory) if directory else {}
    licence = one_licence(known.get("licence"), known.get("licence_name")) or one_licence(
        manifest.get("licence"), manifest.get("licence_name")
    )
    return Origin(name, hub, revision, licence, "as the hub said when it was fetched" if licence else "")


def named(given: str, wanted: str | None, known: dict[str, Any], path: str | None) -> tuple[str, bool, str | None]:
    """Name, whether it is the hub's, and commit: from the run's record, the store's layout, or the recipe's words.

    `known` is what the run recorded of what was fetched, `path` the directory it found.
    """
    if known.get("name"):
        commit = known.get("revision")
        return known["name"], bool(commit and COMMIT.fullmatch(commit)), commit
    for text in (given, path or ""):
        if found := STORED.search(text):
            return found[1], True, found[2]
    is_name = HUB_NAME.fullmatch(given) and path != given and not Path(given).is_dir()
    if not is_name:
        return local_name(given), False, None
    snapshot = Path(path).name if path and COMMIT.fullmatch(Path(path).name) else None
    return given, True, snapshot or wanted


def local_name(given: str) -> str:
    """A directory's or file's name as it may stand in public: of a path on somebody's machine only its last part."""
    path = Path(given)
    return path.name if path.is_absolute() or given.startswith(("~", "..")) else given


def base_here(record: dict[str, Any], name: str, revision: str | None) -> Path | None:
    """The directory of the base on this machine, None where it is not here or is another model by now."""
    path = record.get("model_path")
    candidates = [Path(path) if path else None, find_by_name("model", name, revision), ROOT / DEMO]
    files = (record.get("base_model") or {}).get("files") or {}
    return next((one for one in candidates if one and one.is_dir() and is_base(one, files)), None)


def is_base(directory: Path, files: dict[str, dict[str, Any]]) -> bool:
    """Whether a directory has the files the run recorded: all sizes, and the hash of config.json.

    The weights are not read again: they were when the adapter was merged, and the run's own files are hashed.
    """
    same_size = all(
        (directory / name).is_file() and (directory / name).stat().st_size == entry["size"]
        for name, entry in files.items()
    )
    config = files.get("config.json")
    return bool(config and same_size and hash_file(directory / "config.json") == config["sha256"])
