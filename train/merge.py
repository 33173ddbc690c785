"""Merge a LoRA adapter into its base, tensor by tensor, prove the result and only then put it in its place.

    python -m train.merge --base DIR --adapter DIR --output DIR [--skip-logits]

The output has the base's shards, index, dtypes and configuration; `merge.json` in it holds the proof and all hashes.
Memory is a few blocks and the adapter, whatever the model's size (the comparison of logits apart).
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from train.adapter import CONFIG, WEIGHTS, Adapter, read_pair
from train.base_hashes import BaseHashes
from train.base_model import Base
from train.errors import InputError, attempt, problem, run_program
from train.files import hash_file
from train.merge_output import FIXES, MADE_BY, MARK, carry, check_output, check_space, put_in_place, workplace
from train.merge_weights import write_weights
from train.proof import conclude, print_checks
from train.proof_logits import check_memory

PROMPTS_COMPARED = 8


def main() -> None:
    """Merge and print the proof."""
    parser = argparse.ArgumentParser(description="Merge a LoRA adapter into its base and prove the result.")
    parser.add_argument("--base", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--adapter", type=Path, required=True, help="directory of the adapter")
    parser.add_argument("--output", type=Path, required=True, help="where the merged model goes")
    parser.add_argument("--prompts", type=Path, help="held-out prompts (validation_prompts.jsonl) to compare logits on")
    parser.add_argument("--skip-logits", action="store_true", help="do not load the models to compare their logits")
    arguments = parser.parse_args()
    prompts = read_prompts(arguments.prompts)
    record = merge(
        arguments.base, arguments.adapter, arguments.output, prompts=prompts, check_logits=not arguments.skip_logits
    )
    print_checks(record)
    print(f"merged and proven in {record['seconds']} s: {arguments.output}")


def read_prompts(path: Path | None) -> list[str] | None:
    """The first held-out prompts of a run; None, for the built-in ones, where there are none (rows of plain text)."""
    if path is None or not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()[:PROMPTS_COMPARED]
    return [json.loads(line)["prompt"] for line in lines] or None


def merge(
    base: Path, adapter: Path, output: Path, *, prompts: list[str] | None = None, check_logits: bool = True
) -> dict[str, Any]:
    """Merge an adapter into its base, prove the result and place it at `output`; returns the record in its merge.json.

    `prompts` are what the logits are compared on (None: a few built-in ones). An earlier merge at `output` is replaced
    only after the proof. Raises InputError with everything that forbids the merge, or that the proof found.
    """
    started = time.monotonic()
    output = output.resolve()
    try:
        hashes = BaseHashes(base)
        pair = judge(base, adapter, output, check_logits=check_logits)
        judged = time.monotonic()
        with workplace(output) as place:
            compared = write_weights(*pair, place, hashes)
            written = time.monotonic()
            carried = carry(base, adapter, place)
            proof = conclude(*pair, place, compared, prompts=prompts, check_logits=check_logits)
            record = describe(*pair, hashes.all(), proof, carried, place)
            ended = time.monotonic()
            record["seconds"] = round(ended - started, 1)
            record["seconds_of"] = {"judging": round(judged - started, 2), "weights": round(written - judged, 2),
                                    "logits": round(ended - written, 2)}  # fmt: skip
            (place / "merge.json").write_text(json.dumps(record, indent=1) + "\n")
            put_in_place(place, output)
    except OSError as error:
        what = f"{os.strerror(error.errno) if error.errno else error}"
        fix = FIXES.get(error.errno, "give paths that can be read and an --output that can be written")
        raise InputError(problem(error.filename or output, "", what, fix)) from error
    return record


def judge(base: Path, adapter: Path, output: Path, *, check_logits: bool) -> tuple[Base, Adapter]:
    """Read base and adapter. Raises InputError with all that they, the output or the machine have against it."""
    problems: list[str] = []
    pair = attempt(problems, read_pair, base, adapter)
    attempt(problems, check_output, base, adapter, output)
    if pair:
        attempt(problems, check_space, pair[0], output)
        if check_logits:
            attempt(problems, check_memory, *pair)
    if problems:
        raise InputError(problems)
    return pair


def file_record(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": hash_file(path)}


def describe(
    base: Base, adapter: Adapter, hashes: dict[str, Any], proof: dict[str, Any], carried: dict[str, Any], place: Path
) -> dict[str, Any]:
    """The record of a merge: inputs, checks, versions and every output file, all plain JSON."""
    identity = "hashes are those of the adapter's base_model.json" if adapter.record else "base not identified"
    small = sorted(path for path in place.rglob("*") if path.is_file() and path.name != MARK)
    files = {str(path.relative_to(place)): file_record(path) for path in small if path.name not in proof["files"]}
    kinds = [target.kind for target in adapter.targets]
    return {
        "made_by": MADE_BY,
        "base": {"path": str(base.path), "identity": identity, "name": (adapter.record or {}).get("name"),
                 "revision": (adapter.record or {}).get("revision"), "files": hashes},
        "adapter": {"path": str(adapter.path), "config": adapter.config,
                    "files": {name: file_record(adapter.path / name) for name in (CONFIG, WEIGHTS)}},
        "targets": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "checks": proof["checks"],
        "files": {**proof["files"], **files},
        "carried": carried,
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}},
    }  # fmt: skip


if __name__ == "__main__":
    run_program(main)
