"""The proof of a merge, tensor by tensor: every target is W + s*BA, every other byte is the base's.

The adapter is read with the safetensors library, its scale computed from its configuration, and each target computed
again in float64: nothing that train.merge computed is used.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from tqdm import tqdm

from train.adapter import Adapter, Target
from train.errors import InputError, problem
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

# A correctly rounded value is at most half a step away. The rest covers torch's float64 -> float32 -> bfloat16, which
# rounds twice (2**-13 steps for float16, less for bfloat16).
LIMIT = 0.5 + 2**-10
# Error of the float64 computation itself, relative to the largest term; it counts only where terms cancel.
FLOAT64_ERROR = 2.0**-46
INTEGERS = {2: torch.int16, 4: torch.int32}  # by bytes per element, to compare bits
AGAIN = "merge again; if it happens again, report it with the base's and the adapter's names"


@dataclass
class Seen:
    """What was found in (a part of) one tensor.

    `worst` is the largest error in rounding steps of the dtype; `rounding` and `update` are sums of squares of
    W' - exact and exact - W; `beyond` counts elements with a larger error than rounding makes, `bad` NaN and infinity.
    """

    elements: int = 0
    changed: int = 0
    bad: int = 0
    beyond: int = 0
    worst: float = 0.0
    rounding: float = 0.0
    update: float = 0.0

    def join(self, other: Self) -> None:
        """Add what was found in another part of the tensor."""
        self.worst = max(self.worst, other.worst)
        for name in ("elements", "changed", "bad", "beyond", "rounding", "update"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add(self, old: torch.Tensor, new: torch.Tensor, exact: torch.Tensor, terms: Callable[[], torch.Tensor]) -> None:
        """Compare rows: base and merged in their dtype, and the exact result in float64, each [rows, columns].

        `terms()` is the size of what was added up to get the exact result; it counts only where that cancels.
        """
        self.elements += new.numel()
        bits = INTEGERS[old.element_size()]
        self.changed += int(torch.count_nonzero(old.view(bits) != new.view(bits)))
        # Stripping sign and mantissa of a float64 leaves the power of two below it; a step is that times eps.
        info = torch.finfo(new.dtype)
        power = (exact.view(torch.int64) & 0x7FF0000000000000).view(torch.float64).clamp_min_(info.smallest_normal)
        error = new.double().sub_(exact)
        self.rounding += float(torch.linalg.vector_norm(error)) ** 2
        self.update += float(torch.linalg.vector_norm(old.double().sub_(exact))) ** 2
        steps = error.div_(power)
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
            fix = "train longer or with a higher learning rate, or merge into a float32 base"
            return [problem(where, name, what, fix)]
        return []


def compare_shard(
    shard: Shard, merged: Path, adapter: Adapter, seen: dict[str, Seen], problems: list[str], bar: tqdm
) -> dict[str, Any]:
    """Compare one weight file with the base's, tensor by tensor, in one read; returns its size and SHA-256.

    What is found in targets goes into `seen`, differences anywhere else into `problems`.
    """
    targets = {target.tensor.name: target for target in adapter.targets}
    others: Counter[str] = Counter()
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")).fileno() for path in (shard.path, merged)]
        weights = stack.enter_context(safe_open(adapter.weights.path, framework="pt"))
        digest = stack.enter_context(SideHash())
        pool = stack.enter_context(workers())
        digest.feed(read_bytes(files[1], 0, len(shard.header)))
        jobs = (job for tensor in shard.tensors for job in tensor_jobs(tensor, targets, adapter, weights, files))
        for name, data, found in in_order(pool, jobs):
            digest.feed(data)
            bar.update(len(data))
            if isinstance(found, Seen):
                seen.setdefault(name, Seen()).join(found)
            else:
                others[name] += found
        for name, different in (+others).items():
            what = f"differs from the base in {different} bytes, and the adapter does not touch it"
            problems.append(problem(merged, name, what, AGAIN))
        return {"size": shard.size, "sha256": digest.hexdigest()}


def tensor_jobs(
    tensor: Tensor, targets: dict[str, Target], adapter: Adapter, weights: Any, files: list[int]
) -> Iterator[Callable[[], tuple[str, torch.Tensor, Seen | int]]]:
    """Jobs that each compare a part of a tensor; they return its name, the merged bytes and what was found."""
    if tensor.name not in targets:
        for begin, end in ranges(0, tensor.size, JOB):
            yield partial(compare_bytes, tensor, files, tensor.begin + begin, end - begin)
        return
    target = targets[tensor.name]
    a = weights.get_tensor(target.a)
    if target.kind == "replace":
        a = a.reshape(tensor.rows, -1)
        for start, stop in blocks(tensor):
            yield partial(compare_rows, tensor, files, start, stop, partial(held_rows, a), SLICE)
        return
    b = weights.get_tensor(target.b).double()
    magnitude = weights.get_tensor(target.magnitude).double() if target.magnitude else None
    exact = partial(exact_rows, a.double(), b, magnitude, own_scale(adapter, target, len(a)), target.transposed)
    # DoRA on Conv1D needs the length of whole columns, so all rows at once.
    whole = magnitude is not None and target.transposed
    for start, stop in [(0, tensor.rows)] if whole else blocks(tensor, JOB // 2):
        yield partial(compare_rows, tensor, files, start, stop, exact, tensor.size if whole else SLICE)


def compare_bytes(tensor: Tensor, files: list[int], begin: int, size: int) -> tuple[str, torch.Tensor, int]:
    """The merged bytes of a part of a tensor that is no target, and how many of them differ from the base's."""
    old, new = (read_bytes(file, begin, size) for file in files)
    return tensor.name, new, 0 if torch.equal(old, new) else int((old != new).sum())


def compare_rows(
    tensor: Tensor, files: list[int], start: int, stop: int, exact: Callable[..., Any], elements: int
) -> tuple[str, torch.Tensor, Seen]:
    """The merged bytes of rows [start, stop) of a target, and what was found when `exact` computed them again."""
    old, new = (read_rows(file, tensor, start, stop) for file in files)
    found = Seen()
    for begin, end in ranges(0, stop - start, max(1, elements // tensor.row_elements)):
        found.add(old[begin:end], new[begin:end], *exact(old[begin:end].double(), slice(start + begin, start + end)))
    return tensor.name, as_bytes(new), found


def held_rows(a: torch.Tensor, old: torch.Tensor, rows: slice) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """`rows` of a tensor that the adapter holds in full, as exact_rows returns them."""
    return a[rows].double(), old.abs


def exact_rows(
    a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor | None, scale: float, transposed: bool,
    old: torch.Tensor, rows: slice,
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:  # fmt: skip
    """`rows` of W + scale * BA in float64 from those of W (`old`), and the size of the terms added up [rows, 1].

    a [r, in], b [out, r]; W is [out, in], or [in, out] when transposed. DoRA scales each output's weights to
    `magnitude` [out].
    """
    product = (b @ a[:, rows]).T.contiguous() if transposed else b[rows] @ a
    exact = torch.add(old, product, alpha=scale)
    dim = 0 if transposed else 1
    factor = torch.ones(1, 1, dtype=torch.float64)
    if magnitude is not None:
        part = magnitude if transposed else magnitude[rows]
        factor = (part / torch.linalg.vector_norm(exact, dim=dim)).unsqueeze(dim)
        exact *= factor

    def terms() -> torch.Tensor:
        left, right = (a[:, rows].T, b) if transposed else (b[rows], a)
        bound = abs(scale) * left.abs().sum(1, keepdim=True) * right.abs().max()
        return torch.maximum(bound, old.abs().amax(1, keepdim=True)) * factor.abs().max()

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
