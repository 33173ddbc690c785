"""What a run needs from S3 before it starts: model, rows, and what an earlier pod of the same run left there."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from scripts.s3 import manifest as manifests
from scripts.s3.address import Address
from scripts.s3.manifest import Manifest
from scripts.s3.mirror import LAST, OWNER, RESULTS, results_of, whole_steps
from scripts.s3.objects import pull_files
from scripts.s3.receive import Damaged
from scripts.s3.trouble import patiently
from scripts.transfer_view import View
from train.errors import InputError, problem
from train.events import tell
from train.files import write_json
from train.stored import DIRECTORIES, REFS, read_json

NAMES = {  # key of a recipe: kind, and the key of its revision
    "model_name_or_path": ("model", "model_revision"),
    "dataset_name": ("dataset", "dataset_revision"),
    "train_file": ("", ""),
    "validation_file": ("", ""),
}
LOG = "log.jsonl"
Found = dict[tuple[str, str], tuple[str, Manifest | int]]  # a model and a data set may have one name


# ---- model and rows ----


def find(client: Any, store: Address, name: str, kind: str, revision: str | None) -> tuple[str, Manifest | int] | None:
    """Where a recipe's name lies below the store, and its manifest; for a single file its size. None for nowhere.

    As a pod finds it on its own store (train/in_store.py): a name of the hub at its revision, else the name as a path;
    `kind` is empty for what can be a path only.
    """
    places = [name]
    if kind:
        home = f"{DIRECTORIES[kind]}/{name}"
        refs = json.loads(manifests.read_text(client, store / home, REFS) or "{}")
        known = [one for one in (revision, refs.get(revision or "main")) if one]
        places = [*(f"{home}/{one}" for one in dict.fromkeys(known)), home, name]
    for place in places:
        if found := manifests.in_bucket(client, store / place):
            return place, found
    size = size_of(client, store, name)
    return None if size is None else (name, size)


def size_of(client: Any, store: Address, name: str) -> int | None:
    """Bytes of a single object, None where there is none."""
    listed = {"Bucket": store.bucket, "Prefix": store.key(name), "MaxKeys": 1}
    found = patiently(lambda: client.list_objects_v2(**listed), store / name).get("Contents", [])
    return next((one["Size"] for one in found if one["Key"] == store.key(name)), None)


def plan(client: Any, store: Address, recipe: dict[str, Any], root: Path, image: Path, before: dict[str, Any]) -> Found:
    """What of the recipe lies in the bucket: kind and name -> path below the store, manifest or size.

    `root` is where the pod has its store, `image` where the demo's files are in the image, `before` what an earlier pod
    of the run found: a branch that has moved since is not followed. Raises InputError naming all that is nowhere.
    """
    found, problems = {}, []
    for key, (kind, revision_key) in NAMES.items():
        given = recipe.get(key)
        if not isinstance(given, str) or not given:
            continue
        name = given.removeprefix(f"{root}/").strip("/") if given.startswith(f"{root}/") else given
        revision = recipe.get(revision_key)
        known = before.get(kind) or {}
        pinned = known.get("revision") if known.get("name") == name else None
        lies = None if name.startswith(("/", ".")) else find(client, store, name, kind, pinned or revision)
        if lies:
            found[kind, name] = lies
        elif not (image / given).exists():
            called = f"{given} at revision {revision}" if revision else given
            fix = f"put it there: make deliver TO={store}, or python -m scripts.s3.objects push DIRECTORY {store}/…"
            problems.append(problem("train.yaml", key, f"{called} is not under {store}", fix))
    if problems:
        raise InputError(problems)
    return found


def fetch(client: Any, store: Address, found: Found, root: Path) -> None:
    """Bring them to the pod's store; what is there whole already is left as it is."""
    for (_, name), (path, what) in found.items():
        total = what if isinstance(what, int) else what.size
        with View(name, total) as view:
            if isinstance(what, int):
                fetch_file(client, store, path, root / path, what)
                view.add(total)
                continue
            pull_files(client, store / path, what, root / path, view.add, {"tell": view.say})
        home = path.rpartition("/")[0]
        refs = manifests.read_text(client, store / home, REFS) if home.endswith(f"/{name}") else None
        if refs:
            write_json(root / home / REFS, json.loads(refs) | read_json(root / home / REFS))
        print(f"{name}: {root / path}, every sha256 verified", flush=True)


def fetch_file(client: Any, address: Address, name: str, path: Path, size: int | None = None) -> None:
    """A single object, whole or not at all; compared with its listed size, if given, and its MD5 where its ETag is one.

    Raises Damaged where it is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")

    def once() -> None:
        answer = client.get_object(Bucket=address.bucket, Key=address.key(name))
        digest, read = hashlib.md5(usedforsecurity=False), 0
        with temporary.open("wb") as file:
            for block in answer["Body"].iter_chunks(1 << 20):
                file.write(block)
                digest.update(block)
                read += len(block)
        if size not in (None, read):
            raise Damaged(
                problem(address / name, "", f"came with {read} bytes, not {size}", "start again; or put it again")
            )
        etag = answer["ETag"].strip('"')
        encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")
        if re.fullmatch("[0-9a-f]{32}", etag) and not encrypted and etag != digest.hexdigest():
            raise Damaged(
                problem(address / name, "", f"came with MD5 {digest.hexdigest()}, not {etag}", "put it again")
            )

    patiently(once, address / name)
    temporary.rename(path)


# ---- what an earlier pod left ----


def resume(client: Any, address: Address, run: Path) -> None:
    """Bring a run's files here, finished results, and the newest checkpoint that is whole.

    Nothing where this volume has the run already: then it is ahead of the bucket. Its record comes last, so that a
    start that was cut is one that never was.
    """
    there = manifests.listing(client, address)
    if (run / "run.json").exists() or "run.json" not in there:
        return
    for name in sorted(there):
        if ("/" not in name and name not in (LOG, OWNER, *LAST)) or name.startswith("tensorboard/"):
            fetch_file(client, address, name, run / name)
    record = json.loads(manifests.read_text(client, address, "run.json") or "{}")
    made = results_of(record)
    whole_ones = {name for name in RESULTS if any(f"{name}/{one}" in there for one in manifests.NAMES)}
    complete = record.get("status") == "complete" and {"after.json", "report.html"} <= set(there) and made <= whole_ones
    wanted = ["data", "adapter"] if complete else list(RESULTS)
    brought = [name for name in wanted if whole(client, address / name, run / name, keep_manifest=False)]
    # Without these two a run is not done, and makes again what is missing.
    ends = ["after.json", "report.html"] if complete else ["after.json"] if made <= set(brought) else []
    if not {"adapter", "model"} & set(brought):
        step = newest_checkpoint(client, address, run, whole_steps(there))
        brought += [f"checkpoint {step}"] if step else []
    for name in set(ends) & set(there):
        fetch_file(client, address, name, run / name)
    if LOG in there:  # this pod has begun its own: it goes behind
        own = (run / LOG).read_bytes() if (run / LOG).exists() else b""
        fetch_file(client, address, LOG, run / LOG)
        with (run / LOG).open("ab") as file:
            file.write(own)
    fetch_file(client, address, "run.json", run / "run.json")
    print(f"from {address}: {', '.join(brought) or 'nothing that is finished'}", flush=True)


def newest_checkpoint(client: Any, address: Address, run: Path, steps: list[int]) -> int | None:
    """Bring the newest whole checkpoint, and the best one, which the end of the training asks for; returns the step."""
    root = run / "checkpoints"
    for step in reversed(steps):
        name = f"checkpoint-{step}"
        if not whole(client, address / "checkpoints" / name, root / name):
            continue
        best = read_json(root / name / "trainer_state.json").get("best_global_step")
        if best in steps and best != step:
            whole(client, address / "checkpoints" / f"checkpoint-{best}", root / f"checkpoint-{best}")
        return step
    return None


def whole(client: Any, address: Address, directory: Path, keep_manifest: bool = True) -> bool:
    """Bring a directory that is whole there; False where it is not, or where its bytes are not what was put."""
    found = manifests.in_bucket(client, address)
    if found is None:
        return False
    if directory.is_dir() and not keep_manifest:  # a start before this one was cut behind it
        return True
    try:
        with View(f"{address.prefix.rpartition('/')[2]}", found.size) as view:
            pull_files(client, address, found, directory, view.add, {"tell": view.say}, keep_manifest)
    except Damaged as damaged:
        print(f"{damaged.problems[0].splitlines()[0]}; passed over", flush=True)
        tell("mirror", state="damaged", reason=f"{address} is not what was put there; passed over")
        shutil.rmtree(directory.with_name(f".{directory.name}.incoming"), ignore_errors=True)
        return False
    return True
