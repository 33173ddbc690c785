"""What a run in S3 learned, to this machine, every byte verified; behind `make results` where the store is a bucket."""

import json
import sys
from pathlib import Path
from typing import Any

from scripts.cluster.bucket import reach
from scripts.cluster.fetch_file import Copies, sound
from scripts.s3 import bring
from scripts.s3 import manifest as manifests
from scripts.s3.address import Address
from scripts.s3.receive import Damaged, Receiver
from scripts.s3.send import read
from scripts.transfer_view import View, amount
from train.errors import InputError, problem
from train.files import hash_file

AT_ONCE = 8
RECORD = "run.json"


def find_run(bucket: dict[str, str], wanted: str, overlay: str) -> tuple[Any, Address, str]:
    """A client, the run's address, and its name: the one that is asked for, else the overlay's newest.

    Raises InputError naming those there are.
    """
    client, store = reach(bucket)
    there = manifests.listing(client, store / "runs")
    names = sorted({name.split("/")[0] for name in there if name.endswith(f"/{RECORD}") and name.count("/") == 1})
    fits = [name for name in names if name == wanted or (not wanted and overlay in ("", name.rpartition("-")[0]))]
    if not fits:
        what = f"is no run under {store}/runs"
        raise InputError(problem("RUN", wanted or overlay, what, f"there are: {', '.join(names) or 'none'}"))
    started = {name: json.loads(manifests.read_text(client, store / "runs" / name, RECORD) or "{}") for name in fits}
    newest = max(fits, key=lambda name: started[name].get("started", ""))
    return client, store / "runs" / newest, newest


def copy(client: Any, run: Address, to: Path, names: list[str]) -> list[str]:
    """Copy what lies under these names; returns what could not be brought here whole."""
    copies, wrong, files = Copies(to), [], {}
    there = manifests.listing(client, run)
    for name in names:
        files |= listed(client, run, name, there)
    total = sum(entry["size"] for entry in files.values())
    fresh = 0
    with View(f"from {run}", total) as view, Receiver(client, run, AT_ONCE, view.add, {"tell": view.say}) as receiver:
        for name, entry in sorted(files.items(), key=lambda item: item[1]["size"]):
            if is_here(to / name, entry, copies):
                view.add(entry["size"])
                continue
            try:
                if entry.get("sha256"):
                    receiver.receive(name, to / name, entry)
                else:
                    bring.fetch_file(client, run, name, to / name)
                    entry["sha256"] = hash_file(to / name)
                    view.add(entry["size"])
                copies.keep(name, entry)
                fresh += entry["size"]
            except Damaged as damaged:
                wrong.append(damaged.problems[0].splitlines()[0])
    print(f"{len(files) - len(wrong)} files are here, {amount(fresh)} of them came now", file=sys.stderr)
    return wrong


def is_here(path: Path, entry: dict[str, Any], copies: Copies) -> bool:
    """Whether a file was brought before: by its sha256, or for a single file of the run by the ETag of its bytes."""
    if "sha256" in entry:
        return sound(path, entry, copies)
    return path.is_file() and path.stat().st_size == entry["size"] and read(path).etag == entry["etag"]


def single(listed: tuple[int, str]) -> dict[str, Any]:
    """What is known of an object that no manifest names."""
    return {"size": listed[0], "etag": listed[1]}


def listed(client: Any, run: Address, name: str, there: dict[str, tuple[int, str]]) -> dict[str, dict[str, Any]]:
    """The files under one name of a run: a single file, or those of the whole directories there."""
    if name in there:
        return {name: single(there[name])}
    found: dict[str, dict[str, Any]] = {}
    for key in there:
        folder, _, last = key.rpartition("/")
        if last not in manifests.NAMES or not (folder == name or folder.startswith(f"{name}/")):
            continue
        if whole := manifests.in_bucket(client, run / folder):
            found |= {f"{folder}/{file}": dict(entry) for file, entry in whole.files.items()}
            if whole.name != manifests.NAMES[0]:  # a checkpoint's manifest is part of it
                found[key] = single(there[key])
    loose = {key: single(there[key]) for key in there if key.startswith("tensorboard/") and name == "tensorboard"}
    return found | loose
