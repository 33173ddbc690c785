"""A model or data set by its name: in the store, or in the hub's cache on this machine. Nothing is downloaded here.

The one rule for `make run` and for the pods of a cluster; what a store looks like stands in train/stored.py.
"""

import os
from pathlib import Path
from typing import Any

from train import stored
from train.errors import problem
from train.files import hash_file

VARIABLES = {"model": "MODEL", "dataset": "DATA"}  # of the make line
IN_A_RUNS_POD = "NODE_INDEX"  # in the environment of every pod of a run (scripts/pod_place.py)
SNAPSHOTS = "snapshots"  # the hub's cache: models--owner--name/snapshots/<commit>


def find_by_name(kind: str, name: str, revision: str | None, store: Path | None = None) -> Path | None:
    """The directory of a model or data set in `store`, or else of this machine's store; None where it is in neither.

    What was fetched goes before what was brought there by hand, as <kind>s/<name>/<revision> or <kind>s/<name>.
    """
    store = store or stored.local_store()
    found = stored.find(store, kind, name, revision)
    if found or store is None or not name or name.startswith(("/", "~", ".")) or ".." in Path(name).parts:
        return found
    home = store / stored.DIRECTORIES[kind] / name
    by_hand = [home / revision, home] if revision else [home]
    return next((path for path in by_hand if holds_files(path)), None)


def holds_files(path: Path) -> bool:
    """Whether a directory holds files of its own, the store's bookkeeping and hidden ones not counted."""
    if not path.is_dir():
        return False
    return any(one.is_file() and one.name != stored.REFS and not one.name.startswith(".") for one in path.iterdir())


def find_in_cache(kind: str, name: str, revision: str | None) -> Path | None:
    """The directory of a model or data set in the hub's cache; None where it is not there, or no name of a hub's."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


# ---- what is said of it ----


def fetch_command(kind: str, name: str, revision: str | None) -> str:
    """The make line that brings it to where this program runs."""
    target = "fetch-model" if kind == "model" else "fetch-data"
    where = " ON=cluster" if IN_A_RUNS_POD in os.environ else ""
    return f"make {target}{where} {VARIABLES[kind]}={name}" + (f" REVISION={revision}" if revision else "")


def describe(directory: Path) -> dict[str, Any] | None:
    """Name, revision, licence and the manifest's hash of what was fetched, for a run's record; None where unknown."""
    manifest = stored.read_manifest(directory)
    if manifest:
        known = {key: manifest.get(key) for key in ("name", "revision", "licence")}
        if manifest.get("licence_name"):  # of a licence that the hub lists as "other"
            known["licence_name"] = manifest["licence_name"]
        return known | {"manifest": hash_file(directory / stored.MANIFEST)}
    repository = directory.parent.parent.name
    if directory.parent.name == SNAPSHOTS and repository.startswith(("models--", "datasets--")):
        name = repository.partition("--")[2].replace("--", "/")
        return {"name": name, "revision": directory.name, "licence": None, "manifest": None}
    return None


def wrong_sizes(kind: str, directory: Path) -> list[str]:
    """Problems of a fetched directory that show without reading it: files that are gone or of another size."""
    manifest = stored.read_manifest(directory)
    files = manifest.get("files")
    if not isinstance(files, dict):
        return []
    fetch = fetch_command(kind, str(manifest.get("name")), manifest.get("revision"))
    fix = f"{fetch.replace('fetch', 'verify', 1)} says all that is damaged; {fetch} mends it"
    problems = []
    for file, entry in files.items():
        path = directory / file
        size = path.stat().st_size if path.is_file() else None
        if size != entry["size"]:
            what = f"{file} is missing" if size is None else f"{file} has {size} bytes, fetched were {entry['size']}"
            problems.append(problem(directory, "", what, fix))
    return problems
