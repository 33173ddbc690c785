"""The proof of a merge, tensor by tensor: every target is W + s*BA, every other byte is the base's.

The adapter is read with the safetensors library, its scale computed from its configuration, and each target computed
again in float64: nothing that train.merge computed is used.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from train.adapter import Adapter, Target
from train.bits import all_finite, bits, same_bytes
from train.direct_io import DirectFile
from train.errors import InputError, problem, see
from train.safetensors_io import (
    JOB,
    SLICE,
    Shard,
    Tensor,
    as_bytes,
    as_rows,
    blocks,
    in_order,
    ranges,
    read_bytes,
    read_rows,
    rows_within,
    workers,
)

# A correctly rounded value is at most half a step away. The rest covers torch's float64 -> float32 -> bfloat16, which
# rounds twice (2**-13 steps for float16, less for bfloat16).
LIMIT = 0.5 + 2**-10
# Error of the float64 computation itself, relative to the largest term; it counts only where terms cancel.
FLOAT64_ERROR = 2.0**-46
SAMPLE = 1 << 14  # elements of each part that the figures of how much changed are taken from
AGAIN = "merge again; if it happens again, report it with the base's and the adapter's names"
Files = tuple[int, DirectFile]  # the base's and the merged file, open

# A part of a tensor, compared: the tensor's name, the base's bytes, the merged ones and what was found in them.
Part = tuple[str, torch.Tensor, torch.Tensor, "Seen | int"]
# What writes a part of a tensor (bytes, or rows of a target) where the merged file is only now being made.
Write = Callable[[Tensor], Callable[[int, int], None]]


@dataclass
class Seen:
    """What was found in (a part of) one tensor.

    `worst` is the largest error in rounding steps of the dtype; `beyond` counts elements with a larger error than
    rounding makes, `bad` NaN and infinity. How much changed is a figure and taken from `sampled` elements: `changed`
    counts those that differ from the base's, `rounding` and `update` are sums of squares of W' - exact and exact - W.
    """

    elements: int = 0
    bad: int = 0
    beyond: int = 0
    worst: float = 0.0
    sampled: int = 0
    changed: int = 0
    rounding: float = 0.0
    update: float = 0.0

    def join(self, other: Self) -> None:
        """Add what was found in another part of the tensor."""
        self.worst = max(self.worst, other.worst)
        for name in ("elements", "bad", "beyond", "sampled", "changed", "rounding", "update"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def sample(self, old: torch.Tensor, new: torch.Tensor, exact: torch.Tensor) -> None:
        """Take the figures of how much changed from these rows."""
        self.sampled += new.numel()
        self.changed += int(np.count_nonzero(bits(old) != bits(new)))
        self.rounding += float(torch.dist(new.double(), exact)) ** 2
        self.update += float(torch.dist(old.double(), exact)) ** 2

    def measure(self, new: torch.Tensor, exact: torch.Tensor, terms: Callable[[], torch.Tensor]) -> None:
        """Find the errors, in rounding steps, of rows: merged in their dtype, and exact in float64, [rows, columns].

        `terms()` is the size of what was added up to get the exact result; it counts only where that cancels.
        """
        # Stripping sign and mantissa of a float64 leaves the power of two below it; a step is that times eps.
        info = torch.finfo(new.dtype)
        power = (exact.view(torch.int64) & 0x7FF0000000000000).view(torch.float64).clamp_min_(info.smallest_normal)
        steps = new.double().sub_(exact).div_(power)
        low, high = torch.aminmax(steps)
        worst = max(abs(float(low)), abs(float(high))) / info.eps
        if not math.isfinite(float(low) + float(high)):
            self.bad += int((~new.isfinite()).sum()) or 1
        elif worst > LIMIT:
            excess = (steps.abs() - LIMIT * info.eps) * power > FLOAT64_ERROR * terms()
            self.beyond += int(excess.sum())
            worst = float(steps[excess].abs().max()) / info.eps if excess.any() else LIMIT
        self.worst = max(self.worst, worst)

    def problems(self, where: Path, name: str) -> list[str]:
        """What is wrong with this target, as messages."""
        if self.bad:
            fix = "the base or the adapter is broken, or the result leaves the dtype's range: merge into a float32 base"
            return [problem(where, name, f"holds NaN or infinity ({self.bad} elements)", fix)]
        if self.beyond:
            what = f"{self.beyond} elements are not W + s*BA: off by up to {self.worst:.3g} rounding steps"
            return [problem(where, name, what, AGAIN)]
        if not self.changed:
            what = "did not change: B is zero, or the change is smaller than the dtype's rounding"
            fix = f"train longer or with a higher learning rate, or merge into a float32 base{see('merge-refused')}"
            return [problem(where, name, what, fix)]
        return []


@dataclass
class Compared:
    """What was found so far: in each target, elsewhere (as messages), and size and SHA-256 of each merged file."""

    seen: dict[str, Seen] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def compare_shard(
    shard: Shard, merged: Path, adapter: Adapter, compared: Compared, bar: tqdm, write: Write | None = None,
    base_digest: Any = None,
) -> None:  # fmt: skip
    """Compare one weight file with the base's, part by part, in one read of both, and take its hash.

    `write` makes the merged file meanwhile: it is called for each part just before that is read. `base_digest` (of
    hashlib) is updated with all of the base's file: its header as it was judged, and the bytes that were compared.
    """
    targets = {target.tensor.name: target for target in adapter.targets}
    others: Counter[str] = Counter()
    digest = sha256()
    take_base = base_digest.update if base_digest else lambda _: None
    take_base(shard.header)
    with ExitStack() as stack:
        files = (stack.enter_context(shard.path.open("rb")).fileno(), stack.enter_context(DirectFile(merged)))
        weights = stack.enter_context(safe_open(adapter.weights.path, framework="pt"))
        pool, beside = stack.enter_context(workers()), stack.enter_context(ThreadPoolExecutor(1))
        digest.update(files[1].read(0, len(shard.header)).numpy())
        jobs = (job for tensor in shard.tensors for job in tensor_jobs(tensor, targets, adapter, weights, files, write))
        for name, old, data, found in in_order(pool, jobs):
            hashed = beside.submit(take_base, old.numpy())
            digest.update(data.numpy())
            hashed.result()  # one part at a time, so that memory stays bounded
            bar.update(len(data))
            if isinstance(found, Seen):
                compared.seen.setdefault(name, Seen()).join(found)
            else:
                others[name] += found
    for name, different in (+others).items():
        what = f"differs from the base in {different} bytes, and the adapter does not touch it"
        compared.problems.append(problem(merged, name, what, AGAIN))
    compared.files[merged.name] = {"size": shard.size, "sha256": digest.hexdigest()}


def tensor_jobs(
    tensor: Tensor, targets: dict[str, Target], adapter: Adapter, weights: Any, files: Files, write: Write | None
) -> Iterator[Callable[[], Part]]:
    """Jobs that each (write and) compare a part of a tensor."""
    write_part = write(tensor) if write else None
    if tensor.name not in targets:
        for begin, end in ranges(0, tensor.size, JOB):
            yield partial(written_first, write_part, begin, end, partial(compare_bytes, tensor, files))
        return
    target = targets[tensor.name]
    exact = exact_of(tensor, target, adapter, weights)
    # DoRA on Conv1D needs the length of whole columns, so all rows at once.
    whole = bool(target.magnitude) and target.transposed
    compare = partial(compare_rows, tensor, files, exact, tensor.size if whole else SLICE)
    for start, stop in [(0, tensor.rows)] if whole else blocks(tensor):
        yield partial(written_first, write_part, start, stop, compare)


def written_first(
    write_part: Callable[[int, int], None] | None, start: int, stop: int, compare: Callable[[int, int], Any]
) -> Any:
    """What a comparison of [start, stop) finds once that is written."""
    if write_part:
        write_part(start, stop)
    return compare(start, stop)


def exact_of(tensor: Tensor, target: Target, adapter: Adapter, weights: Any) -> Callable[..., Any]:
    """What computes rows of a target again in float64, from the adapter's file as the safetensors library reads it."""
    a = weights.get_tensor(target.a)
    if target.kind == "replace":
        return partial(held_rows, a.reshape(tensor.rows, -1))
    b = weights.get_tensor(target.b).double()
    magnitude = weights.get_tensor(target.magnitude).double() if target.magnitude else None
    return partial(exact_rows, a.double(), b, magnitude, own_scale(adapter, target, len(a)), target.transposed)


def compare_bytes(tensor: Tensor, files: Files, start: int, stop: int) -> Part:
    """The bytes [start, stop) of a tensor that is no target, and how many of the merged differ from the base's."""
    base, merged = files
    old = read_bytes(base, tensor.begin + start, stop - start)
    new = merged.read(tensor.begin + start, stop - start)
    return tensor.name, old, new, 0 if same_bytes(old, new) else int((old != new).sum())


def compare_rows(tensor: Tensor, files: Files, exact: Callable[..., Any], elements: int, start: int, stop: int) -> Part:
    """The bytes of rows [start, stop) of a target, and what was found when `exact` computed them again."""
    base, merged = files
    row = tensor.size // tensor.rows
    old = read_rows(base, tensor, start, stop)
    new = as_rows(merged.read(tensor.begin + start * row, (stop - start) * row), tensor)
    found = Seen(elements=new.numel())
    step = min(stop - start, rows_within(tensor, elements))
    buffer = torch.empty(step, tensor.row_elements, dtype=torch.float64)  # one for all slices stays in the core's cache

    def computed_again() -> Iterator[tuple[int, int, torch.Tensor, Callable[[], torch.Tensor]]]:
        for begin, end in ranges(0, stop - start, step):
            yield begin, end, *exact(old[begin:end], slice(start + begin, start + end), buffer[: end - begin])

    nearest = torch.empty_like(new)
    for begin, end, right, _ in computed_again():
        nearest[begin:end] = right
        for first, last in ranges(begin, end, rows_within(tensor, SAMPLE)):
            if found.changed:  # the first rows of each part are sample enough, unless nothing changed in them
                break
            found.sample(old[first:last], new[first:last], right[first - begin : last - begin])
    if all_finite(new) and same_bytes(nearest, new):
        found.worst = 0.5  # every one is the nearest number of its dtype
    else:
        for begin, end, right, terms in computed_again():
            found.measure(new[begin:end], right, terms)
    return tensor.name, as_bytes(old), as_bytes(new), found


def held_rows(
    a: torch.Tensor, old: torch.Tensor, rows: slice, exact: torch.Tensor
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """`rows` of a tensor that the adapter holds in full, as exact_rows returns them."""
    return exact.copy_(a[rows]), lambda: old.double().abs()


def exact_rows(
    a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor | None, scale: float, transposed: bool,
    old: torch.Tensor, rows: slice, exact: torch.Tensor,
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:  # fmt: skip
    """`rows` of W + scale * BA from those of W (`old`), written to `exact` (float64), and the size of the terms added
    up [rows, 1].

    a [r, in], b [out, r]; W is [out, in], or [in, out] when transposed. DoRA scales each output's weights to
    `magnitude` [out].
    """
    left, right = (a[:, rows].T, b.T) if transposed else (b[rows], a)
    exact.copy_(old).addmm_(left, right, alpha=scale)
    dim = 0 if transposed else 1
    factor = torch.ones(1, 1, dtype=torch.float64)
    if magnitude is not None:
        part = magnitude if transposed else magnitude[rows]
        factor = (part / torch.linalg.vector_norm(exact, dim=dim)).unsqueeze(dim)
        exact *= factor

    def terms() -> torch.Tensor:
        bound = abs(scale) * left.abs().sum(1, keepdim=True) * right.abs().max()
        return torch.maximum(bound, old.double().abs().amax(1, keepdim=True)) * factor.abs().max()

    return exact, terms


def own_scale(adapter: Adapter, target: Target, rank: int) -> float:
    """alpha / r (alpha / sqrt(r) for rsLoRA) from the configuration and the adapter's own rank.

    Raises InputError where that is not the scale PEFT gave, which the merge used.
    """
    from peft.utils.other import get_pattern_key

    patterns = adapter.config.get("alpha_pattern") or {}
    module = target.parameter.removesuffix(".weight")
    alpha = patterns.get(get_pattern_key(patterns.keys(), module), adapter.config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)
    if not math.isclose(scale, target.scale, rel_tol=1e-12):
        what = f"PEFT scales {module} by {target.scale}, but its alpha {alpha} and rank {rank} give {scale}"
        raise InputError(problem(adapter.path / "adapter_config.json", "lora_alpha", what, "report this adapter"))
    return scale
