"""Write a merged model's weight files, block by block, each block proven as soon as it is written.

Threads read a block of the base, add the adapter, write the block, and have train.proof_tensors read this block of both
files again and compare. The caller's thread and one more hash what was read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from tqdm import tqdm

from train.adapter import Adapter, Target
from train.base_hashes import BaseHashes
from train.base_model import INDEX, Base
from train.direct_io import DirectFile
from train.proof_tensors import Compared, Write, compare_shard
from train.safetensors_io import (
    FLOAT_DTYPES,
    SLICE,
    Shard,
    Tensor,
    as_bytes,
    ranges,
    read_bytes,
    read_rows,
    rows_within,
)


def write_weights(base: Base, adapter: Adapter, place: Path, hashes: BaseHashes) -> Compared:
    """Write every weight file with the targets merged, and compare it with what the proof computes.

    Raises InputError as soon as the base is known not to be the one that the adapter was trained on.
    """
    compared = Compared()
    total = sum(shard.size for shard in base.shards.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="merge", disable=None) as bar:
        for name, shard in base.shards.items():
            digest = sha256()
            with opened(shard, place / name, adapter) as write:
                compare_shard(shard, place / name, adapter, compared, bar, write, digest)
            hashes.take(name, digest.hexdigest())
            hashes.refuse_another(adapter)
    hashes.all()
    if base.index is not None:
        (place / INDEX).write_bytes(base.index)
    return compared


@contextmanager
def opened(shard: Shard, output: Path, adapter: Adapter) -> Iterator[Write]:
    """A new weight file with the base's header; what it gives writes a part of a tensor. On disk when it is left."""
    targets = {target.tensor.name: target for target in adapter.targets}
    with (
        shard.path.open("rb") as source,
        adapter.weights.path.open("rb") as weights,
        DirectFile(output, shard.size) as written,
    ):
        written.write(0, torch.frombuffer(bytearray(shard.header), dtype=torch.uint8))

        def write(tensor: Tensor) -> Callable[[int, int], None]:
            if tensor.name not in targets:
                return partial(copy_part, source.fileno(), written, tensor)
            merged = merged_rows(tensor, targets[tensor.name], adapter, source.fileno(), weights.fileno())
            return partial(write_part, written, tensor, merged)

        yield write
        written.sync()


def copy_part(source: int, output: DirectFile, tensor: Tensor, start: int, stop: int) -> None:
    """Bytes [start, stop) of a tensor that stays as it is."""
    begin = tensor.begin + start
    output.write(begin, read_bytes(source, begin, stop - start))


def write_part(
    output: DirectFile, tensor: Tensor, merged: Callable[[int, int], torch.Tensor], start: int, stop: int
) -> None:
    """Rows [start, stop) of a target."""
    output.write(tensor.begin + start * (tensor.size // tensor.rows), as_bytes(merged(start, stop)))


def merged_rows(
    tensor: Tensor, target: Target, adapter: Adapter, source: int, weights: int
) -> Callable[[int, int], torch.Tensor]:
    """What gives rows [start, stop) of a target as they are to be written, in the base's dtype."""
    held = {entry.name: entry for entry in adapter.weights.tensors}
    if target.kind == "replace":
        return partial(replaced, FLOAT_DTYPES[tensor.dtype], weights, held[target.a])
    a, b = (read_rows(weights, held[key], 0, held[key].rows).double() for key in (target.a, target.b))
    # Both orientations become rows of `left` times `right`; the scale goes in once, here.
    left, right = ((a * target.scale).T.contiguous(), b.T.contiguous()) if target.transposed else (b * target.scale, a)
    magnitude = None
    if target.magnitude:
        entry = held[target.magnitude]
        magnitude = read_rows(weights, entry, 0, entry.rows).double().view(-1)
    return partial(added, source, tensor, left, right, magnitude, target.transposed)


def replaced(dtype: torch.dtype, weights: int, entry: Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a tensor that the adapter holds in full, rounded to the base's dtype."""
    return read_rows(weights, entry, start, stop).to(dtype)


def added(
    source: int, tensor: Tensor, left: torch.Tensor, right: torch.Tensor, magnitude: torch.Tensor | None,
    transposed: bool, start: int, stop: int,
) -> torch.Tensor:  # fmt: skip
    """Rows [start, stop) of W + left @ right, for DoRA scaled to `magnitude` per output (a row; transposed: a column).

    Computed in float64, which costs little beside the disk and leaves the final rounding as the only error.
    """
    old = read_rows(source, tensor, start, stop)
    whole = magnitude is not None and transposed
    step = len(old) if whole else min(len(old), rows_within(tensor, SLICE))
    buffer = torch.empty(step, tensor.row_elements, dtype=torch.float64)  # one for all slices stays in the core's cache
    for begin, end in ranges(0, len(old), step):
        rows = buffer[: end - begin].copy_(old[begin:end]).addmm_(left[start + begin : start + end], right)
        if whole:
            rows *= magnitude / rows.square().sum(0).sqrt()
        elif magnitude is not None:
            rows *= (magnitude[start + begin : start + end] / rows.square().sum(1).sqrt()).unsqueeze(1)
        old[begin:end] = rows
    return old
