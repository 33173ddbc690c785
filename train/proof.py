"""Prove that a merged model is its base plus its adapter, from the three directories alone.

    python -m train.proof --base DIR --adapter DIR --merged DIR [--skip-logits]

Nothing computed by train.merge is used here: the adapter is read with the safetensors library, its scale computed from
its configuration, and W' = W + s*BA computed again in float64 for every element, the scale going in elsewhere.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.adapter import Adapter, read_pair
from train.base_model import INDEX, Base, read_json
from train.errors import InputError, problem, run_program
from train.files import hash_file
from train.proof_logits import check_memory, compare_logits
from train.proof_tensors import AGAIN, Compared, Seen, compare_shard
from train.safetensors_io import read_shard


def main() -> None:
    """Judge the three directories, compare them, print every check and the record."""
    parser = argparse.ArgumentParser(description="Prove that a merged model is its base plus its adapter.")
    for name in ("base", "adapter", "merged"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"directory of the {name} model")
    parser.add_argument("--skip-logits", action="store_true", help="do not load the models to compare their logits")
    arguments = parser.parse_args()
    record = prove(arguments.base, arguments.adapter, arguments.merged, check_logits=not arguments.skip_logits)
    print_checks(record)


def print_checks(record: dict[str, Any]) -> None:
    """One line per check."""
    for check in record["checks"]:
        print(f"{check['result']:>7}  {check['check']}: {check['figure']}")


def prove(
    base_path: Path, adapter_path: Path, merged: Path, *, prompts: list[str] | None = None, check_logits: bool = True
) -> dict[str, Any]:
    """Prove W' = W + s*BA for every target and W' = W for all else, and that the logits agree.

    Returns {"checks": [{"check", "result": "passed" or "skipped", "figure", numbers}], "files": {weight file: {"size",
    "sha256"}}}, the hashes being of the very bytes that were compared. Raises InputError naming everything that fails.
    """
    base, adapter = read_pair(base_path, adapter_path)
    if check_logits:
        check_memory(base, adapter)
    check_files(base, merged)
    compared = Compared()
    total = sum(shard.size for shard in base.shards.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="proof", disable=None) as bar:
        for name, shard in base.shards.items():
            compare_shard(shard, merged / name, adapter, compared, bar)
    return conclude(base, adapter, merged, compared, prompts=prompts, check_logits=check_logits)


def conclude(
    base: Base, adapter: Adapter, merged: Path, compared: Compared, *, prompts: list[str] | None, check_logits: bool
) -> dict[str, Any]:
    """The record of a proof, as `prove` returns it, once all weight files were compared."""
    files = check_files(base, merged)
    problems = list(compared.problems)
    for name, one in compared.seen.items():
        problems += one.problems(merged / base.tensors[name].file.name, name)
    problems += stale_record(merged, compared.files)
    if problems:
        raise InputError(problems)
    logits = compare_logits(base, adapter, merged, prompts, skip=not check_logits)
    return {"checks": [files, *summary(compared.seen, len(base.tensors)), logits], "files": compared.files}


def check_files(base: Base, merged: Path) -> dict[str, Any]:
    """The merged model has the base's weight files, index, configuration and headers."""
    problems = []
    held = {path.name for path in merged.glob("*.safetensors")}
    for name in sorted(held ^ base.shards.keys()):
        what = "is missing" if name in base.shards else "is no weight file of the base"
        problems.append(problem(merged / name, "", what, AGAIN))
    for name in ("config.json", INDEX):
        mine, theirs = merged / name, base.path / name
        if mine.is_file() != theirs.is_file() or (mine.is_file() and mine.read_bytes() != theirs.read_bytes()):
            problems.append(problem(mine, "", "differs from the base's", AGAIN))
    for name in sorted(held & base.shards.keys()):
        try:
            if read_shard(merged / name).header != base.shards[name].header:
                problems.append(problem(merged / name, "", "its header differs from the base's", AGAIN))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    figure = f"{len(base.shards)} weight files, {len(base.tensors)} tensors"
    return {"check": "files, index, shapes and dtypes are the base's", "result": "passed", "figure": figure}


def stale_record(merged: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Where a finished merge's own record (merge.json) does not fit its files any more."""
    if not (merged / "merge.json").is_file():
        return []
    problems = []
    for name, written in read_json(merged / "merge.json", AGAIN).get("files", {}).items():
        path = merged / name
        now = files[name]["sha256"] if name in files else hash_file(path) if path.is_file() else None
        if now != written["sha256"]:
            problems.append(problem(path, "", "is not the file that merge.json describes", AGAIN))
    return problems


def summary(seen: dict[str, Seen], tensors: int) -> list[dict[str, Any]]:
    """The checks over all targets, as entries of the record."""
    least = min(seen, key=lambda name: seen[name].changed / seen[name].sampled)
    share = seen[least].changed / seen[least].sampled
    worst = max(seen, key=lambda name: seen[name].worst)
    lost = max(math.sqrt(one.rounding / one.update) if one.update else 0.0 for one in seen.values())
    elements = sum(one.elements for one in seen.values())
    changed = f"{len(seen)} of {len(seen)}; least {share:.2%} of {least}; rounding is at most {lost:.2%} of an update"
    exact = f"{elements} elements, at most {seen[worst].worst:.4f} rounding steps off, in {worst} (0.5 is exact)"
    return [
        {"check": "every target changed", "result": "passed", "figure": changed, "targets": len(seen),
         "least_changed": least, "least_share": share, "rounding_to_update": lost},
        {"check": "everything else is bit-identical", "result": "passed",
         "figure": f"{tensors - len(seen)} tensors, 0 bytes differ", "tensors": tensors - len(seen)},
        {"check": "W' = W + s*BA", "result": "passed", "figure": exact, "elements": elements,
         "max_error_steps": seen[worst].worst},
        {"check": "no NaN or infinity", "result": "passed", "figure": f"{elements} elements, none"},
    ]  # fmt: skip


if __name__ == "__main__":
    run_program(main)
