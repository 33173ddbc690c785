"""Looks into the shared store; runs in the data-access pod, from standard input, with nothing but Python's own library.

Not imported: scripts/cluster/checks/store.py sends this file to `python - QUESTIONS`, where QUESTIONS is JSON:
{"root": "/store", "models": [[candidates…]], "data": [[candidates…]], "runs": true}. A candidate is a path, or a name's
directory and revision: {"home": "models/owner/name", "revision": null}. It prints one JSON object.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

NEWEST = 200  # runs that are read for what they measured
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def main() -> None:
    asked = json.loads(sys.argv[1])
    root = Path(asked["root"])
    usage, runs = shutil.disk_usage(root), root / "runs"
    told = {"free": usage.free, "size": usage.total, "writable": os.access(runs if runs.exists() else root, os.W_OK)}
    told["models"] = [look(root, candidates, model) for candidates in asked["models"]]
    told["data"] = [look(root, candidates, data) for candidates in asked["data"]]
    told["runs"] = [run for run in map(read_run, newest(runs)) if run] if asked.get("runs") else []
    print(json.dumps(told))


def look(root: Path, candidates: list, describe: Callable[[Path], dict]) -> dict:
    """The first of the candidates that is there, or what lies beside where they were looked for."""
    for candidate in candidates:
        path = find(root, candidate)
        if path:
            return {"path": str(path.relative_to(root)), "wrong_size": wrong_size(path), **describe(path)}
    homes = [root / one if isinstance(one, str) else root / one["home"] / "x" for one in candidates]
    beside = {path for home in homes for path in home.parent.glob("[!.]*") if path.name != "refs.json"}
    return {"path": None, "beside": [str(path.relative_to(root)) for path in sorted(beside)[:6]]}


def find(root: Path, candidate: str | dict) -> Path | None:
    """Where a candidate lies, None where it does not; the rule of train/in_store.py, with which a test compares it."""
    if isinstance(candidate, str):
        return root / candidate if (root / candidate).exists() else None
    home, revision = root / candidate["home"], candidate["revision"]
    for wanted in (revision, (read_json(home / "refs.json") or {}).get(revision or "main")):
        if wanted and (home / wanted / "tunefleet.json").is_file():
            return home / wanted
    by_hand = [home / revision, home] if revision else [home]
    return next((path for path in by_hand if path.is_dir() and any(map(is_own, path.iterdir()))), None)


def is_own(path: Path) -> bool:
    """Whether it is a file, and not the store's bookkeeping."""
    return path.is_file() and path.name != "refs.json" and not path.name.startswith(".")


def wrong_size(path: Path) -> list[str]:
    """The files that do not have the size that was fetched, or are gone."""
    files = (read_json(path / "tunefleet.json") or {}).get("files", {})
    there = {name: (path / name).stat().st_size if (path / name).is_file() else None for name in files}
    return [name for name, entry in files.items() if there[name] != entry["size"]]


def model(path: Path) -> dict:
    """What a model's directory holds."""
    names = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
    named = (read_json(path / "model.safetensors.index.json") or {}).get("weight_map", {}).values()
    return {
        "names": names[:40],
        "weights": sum(one.stat().st_size for one in path.glob("*.safetensors")),
        "tokenizer": any(name in names for name in TOKENIZERS),
        "missing": sorted(set(named) - set(names)),
        "config": read_json(path / "config.json"),
    }


def data(path: Path) -> dict:
    """How large the data is."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {"size": sum(one.stat().st_size for one in files), "files": len(files)}


def newest(runs: Path) -> list[Path]:
    """The directories of the newest runs."""
    records = sorted(runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in records[:NEWEST]]


def read_run(path: Path) -> dict | None:
    """What a finished run says of its speed; None for one that says nothing."""
    record = read_json(path / "run.json") or {}
    if not record.get("training"):
        return None
    check = read_json(path / "data" / "data_check.json") or {}
    told = {key: record.get(key) for key in ("name", "recipe", "layout", "training")}
    return told | {"tokens": check.get("tokens"), "rows": check.get("rows")}


def read_json(path: Path) -> dict | None:
    """A JSON file's object; None where there is none or it is broken."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


main()
