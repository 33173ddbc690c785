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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from train.adapter import CONFIG, WEIGHTS, Adapter, Target, read_pair
from train.base_model import INDEX, RECORD, Base, identity_problems
from train.errors import InputError, attempt, problem, run_program
from train.files import hash_file
from train.merge_output import FIXES, MADE_BY, MARK, carry, check_output, check_space, put_in_place, workplace
from train.proof import print_checks, prove
from train.proof_logits import check_memory
from train.safetensors_io import (
    JOB,
    SLICE,
    Shard,
    SideHash,
    Tensor,
    as_bytes,
    blocks,
    in_order,
    ranges,
    read_bytes,
    read_rows,
    workers,
)

PROMPTS_COMPARED = 8
Pair = tuple[torch.Tensor, torch.Tensor]  # the base's and the merged bytes of one part of a tensor


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
    problems: list[str] = []
    try:
        pair = attempt(problems, read_pair, base, adapter)
        attempt(problems, check_output, base, adapter, output)
        if pair:
            attempt(problems, check_space, pair[0], output)
            if check_logits:
                attempt(problems, check_memory, *pair)
        if problems:
            raise InputError(problems)
        with workplace(output) as place:
            hashes = write_weights(*pair, place)
            carried = carry(base, adapter, place)
            proof = prove(base, adapter, place, prompts=prompts, check_logits=check_logits)
            record = describe(*pair, hashes, proof, carried, place)
            record["seconds"] = round(time.monotonic() - started, 1)
            (place / "merge.json").write_text(json.dumps(record, indent=1) + "\n")
            put_in_place(place, output)
    except OSError as error:
        what = f"{os.strerror(error.errno) if error.errno else error}"
        fix = FIXES.get(error.errno, "give paths that can be read and an --output that can be written")
        raise InputError(problem(error.filename or output, "", what, fix)) from error
    return record


def write_weights(base: Base, adapter: Adapter, place: Path) -> dict[str, dict[str, Any]]:
    """Write every shard with the targets merged; returns size and SHA-256 of the base's files, taken in the same read.

    Raises InputError after the first shard whose hash is not that of the base the adapter was trained on.
    """
    targets = {target.tensor.name: target for target in adapter.targets}
    hashes: dict[str, dict[str, Any]] = {"config.json": file_record(base.path / "config.json")}
    with tqdm(total=sum(shard.size for shard in base.shards.values()), unit="B", unit_scale=True, desc="merge",
              disable=None) as bar:  # fmt: skip
        for name, shard in base.shards.items():
            hashes[name] = {"size": shard.size, "sha256": write_shard(shard, place / name, targets, adapter, bar)}
            if adapter.record:
                known = {other: {"size": one.size} for other, one in base.shards.items()} | hashes
                problems = identity_problems(adapter.record, known, adapter.path / RECORD)
                if problems:
                    raise InputError(problems)
    if base.index is not None:
        (place / INDEX).write_bytes(base.index)
    return hashes


def write_shard(shard: Shard, output: Path, targets: dict[str, Target], adapter: Adapter, bar: tqdm) -> str:
    """Write one shard: header and other tensors as they are, targets merged. Returns the SHA-256 of the base's file."""
    with ExitStack() as stack:
        source = stack.enter_context(shard.path.open("rb")).fileno()
        weights = stack.enter_context(adapter.weights.path.open("rb")).fileno()
        written = stack.enter_context(output.open("wb", buffering=0))
        digest = stack.enter_context(SideHash())
        pool = stack.enter_context(workers())
        written.write(shard.header)
        digest.feed(shard.header)
        jobs = (job for tensor in shard.tensors for job in tensor_jobs(tensor, targets, adapter, source, weights))
        for old, new in in_order(pool, jobs):
            digest.feed(old)
            write_all(written.fileno(), new)
            bar.update(len(new))
        return digest.hexdigest()


def write_all(descriptor: int, data: torch.Tensor) -> None:
    """Write uint8 [bytes] to an open file; a single write may take only a part."""
    view = memoryview(data.numpy())
    while view:
        view = view[os.write(descriptor, view) :]


def tensor_jobs(
    tensor: Tensor, targets: dict[str, Target], adapter: Adapter, source: int, weights: int
) -> Iterator[Callable[[], Pair]]:
    """Jobs that each return the base's and the merged bytes of a part of a tensor, in order."""
    if tensor.name not in targets:
        for begin, end in ranges(0, tensor.size, JOB):
            yield partial(unchanged, source, tensor.begin + begin, end - begin)
        return
    target = targets[tensor.name]
    held = {entry.name: entry for entry in adapter.weights.tensors}
    if target.kind == "replace":
        for start, stop in blocks(tensor):
            yield partial(replaced, source, tensor, weights, held[target.a], start, stop)
        return
    a, b = (read_rows(weights, held[key], 0, held[key].rows).double() for key in (target.a, target.b))
    # Both orientations become rows of `left` times `right`; the scale goes in once, here.
    left, right = ((a * target.scale).T.contiguous(), b.T.contiguous()) if target.transposed else (b * target.scale, a)
    magnitude = None
    if target.magnitude:
        entry = held[target.magnitude]
        magnitude = read_rows(weights, entry, 0, entry.rows).double().view(-1)
    # DoRA's length per output needs all rows at once where outputs are columns.
    whole = magnitude is not None and target.transposed
    for start, stop in [(0, tensor.rows)] if whole else blocks(tensor):
        yield partial(added, source, tensor, left, right, magnitude, target.transposed, start, stop)


def unchanged(source: int, begin: int, size: int) -> Pair:
    """Bytes that stay as they are."""
    data = read_bytes(source, begin, size)
    return data, data


def replaced(source: int, tensor: Tensor, weights: int, entry: Tensor, start: int, stop: int) -> Pair:
    """Rows [start, stop) of a tensor that the adapter holds in full, rounded to the base's dtype."""
    old = read_rows(source, tensor, start, stop)
    return as_bytes(old), as_bytes(read_rows(weights, entry, start, stop).to(old.dtype))


def added(
    source: int, tensor: Tensor, left: torch.Tensor, right: torch.Tensor, magnitude: torch.Tensor | None,
    transposed: bool, start: int, stop: int,
) -> Pair:  # fmt: skip
    """Rows [start, stop) of W + left @ right, for DoRA scaled to `magnitude` per output (a row; transposed: a column).

    Computed in float64, which costs little beside the disk and leaves the final rounding as the only error.
    """
    old = read_rows(source, tensor, start, stop)
    new = torch.empty_like(old)
    whole = magnitude is not None and transposed
    for begin, end in ranges(0, len(old), len(old) if whole else max(1, SLICE // tensor.row_elements)):
        rows = old[begin:end].double().addmm_(left[start + begin : start + end], right)
        if whole:
            rows *= magnitude / rows.square().sum(0).sqrt()
        elif magnitude is not None:
            rows *= (magnitude[start + begin : start + end] / rows.square().sum(1).sqrt()).unsqueeze(1)
        new[begin:end] = rows
    return as_bytes(old), as_bytes(new)


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
