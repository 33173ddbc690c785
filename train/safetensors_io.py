"""Safetensors files by their bytes: headers checked, rows read one block at a time by several threads.

Nothing here maps a file or holds more of it than one block, so memory does not grow with the model.
The format: 8 bytes little-endian length n, n bytes of JSON header, then the tensors' bytes without holes.
"""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from train.errors import InputError, problem

# What a merge can compute with; any other dtype can only be copied.
FLOAT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Bits per element of the dtypes named by safetensors 0.8; a dtype it does not name is trusted by its offsets.
ITEM_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
             "I16": 16, "U16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
             "F4": 4}  # fmt: skip
MAX_HEADER = 100_000_000  # the limit of the safetensors library itself
JOB = 1 << 21  # elements (or bytes, of what is only copied) that one thread takes at a time; each hand-over costs
SLICE = 1 << 17  # elements computed at once: float64 of these, 1 MiB, stay in a core's caches; less makes more calls
MULTIPLE = 16  # rows; a product in float64 costs 0.57 ns a number with 16 of 5632 columns, and 0.82 ns with 11
PAGE = 4096  # bytes; what goes past the kernel's cache begins and ends with a page
MAX_THREADS = 8  # beyond this the one thread that hashes (about 1 GB/s) is the slowest part
AHEAD = 8  # jobs started before their turn; each holds up to 20 MB
AGAIN = "download or copy the file again"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `begin` and `size` are bytes from the start of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def rows(self) -> int:
        """The length of the first dimension (1 for a scalar); rows are contiguous bytes."""
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        """Elements per row."""
        count = 1
        for length in self.shape[1:]:
            count *= length
        return count


@dataclass(frozen=True)
class Shard:
    """One file: its size in bytes, the bytes before the first tensor, and the tensors in the order of their bytes."""

    path: Path
    size: int
    header: bytes
    tensors: tuple[Tensor, ...]


def read_shard(path: Path) -> Shard:
    """Read and check the header of one file. Raises InputError naming what does not fit, a truncated file included."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(MAX_HEADER, size - 8):
            raise InputError(problem(path, "", "is truncated inside its header, or is no safetensors file", AGAIN))
        header = start + file.read(length)
    try:
        entries = json.loads(header[8:], object_pairs_hook=without_duplicates)
        tensors = [
            Tensor(name, path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
            for name, entry in entries.items()
            if name != "__metadata__"
            for begin, end in [entry["data_offsets"]]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(problem(path, "", f"has a broken header: {error}", AGAIN)) from None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.size))
    problems = layout_problems(path, size, 8 + length, tensors)
    if problems:
        raise InputError(problems)
    return Shard(path, size, header, tuple(tensors))


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a key given twice, which plain json would silently let win."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is listed twice")
    return dict(pairs)


def layout_problems(path: Path, size: int, start: int, tensors: list[Tensor]) -> list[str]:
    """What does not fit between the tensors (in the order of their bytes), their shapes and the file's size."""
    problems = []
    place = start
    for tensor in tensors:
        bits = ITEM_BITS.get(tensor.dtype)
        if bits and tensor.rows * tensor.row_elements * bits != tensor.size * 8:
            what = f"has {tensor.size} bytes, which is not what shape {list(tensor.shape)} of {tensor.dtype} takes"
            problems.append(problem(path, tensor.name, what, AGAIN))
        if tensor.begin != place or tensor.size < 0:
            what = f"lies at byte {tensor.begin}, but the tensor before it ends at {place}"
            problems.append(problem(path, tensor.name, what, AGAIN))
        place = tensor.begin + tensor.size
    if not problems and place != size:
        kind = "is truncated" if size < place else "has bytes after its last tensor"
        problems.append(problem(path, "", f"{kind}: {size} bytes, but its header describes {place}", AGAIN))
    return problems


def blocks(tensor: Tensor, elements: int = JOB) -> Iterator[tuple[int, int]]:
    """Ranges of rows (start, stop) that cover a tensor, each of about `elements` elements and at least one row."""
    return ranges(0, tensor.rows if tensor.size else 0, rows_within(tensor, elements))


def rows_within(tensor: Tensor, elements: int) -> int:
    """How many rows of a tensor have about `elements` elements: at least one, and whole MULTIPLEs from there on."""
    count = max(1, elements // max(1, tensor.row_elements))
    return count if count < MULTIPLE else count - count % MULTIPLE


def ranges(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Consecutive (from, to) of at most `step` that cover [start, stop)."""
    for begin in range(start, stop, step):
        yield begin, min(begin + step, stop)


def read_bytes(descriptor: int, begin: int, size: int) -> torch.Tensor:
    """`size` bytes from byte `begin` of an open file, as uint8 [size]. Raises OSError when the file ends before."""
    data = new_bytes(begin, size)
    view = memoryview(data.numpy())
    done = 0
    while done < size:
        count = os.preadv(descriptor, [view[done:]], begin + done)
        if count == 0:
            raise OSError(f"the file ended {size - done} bytes early while it was read")
        done += count
    return data


def new_bytes(begin: int, size: int) -> torch.Tensor:
    """uint8 [size] for what lies at byte `begin` of a file, at the same place in a page of memory: see DirectFile."""
    room = torch.empty(size + PAGE, dtype=torch.uint8)
    start = (begin - room.data_ptr()) % PAGE
    return room[start : start + size]


def as_rows(data: torch.Tensor, tensor: Tensor) -> torch.Tensor:
    """The bytes of whole rows of a tensor, in its dtype, as [rows, row elements]."""
    dtype = FLOAT_DTYPES[tensor.dtype]
    if data.data_ptr() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype).view(-1, tensor.row_elements)


def read_rows(descriptor: int, tensor: Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a tensor from its open file, in its own dtype, as [stop - start, row elements]."""
    row = tensor.size // tensor.rows
    return as_rows(read_bytes(descriptor, tensor.begin + start * row, (stop - start) * row), tensor)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread per core and one more, since some wait for the disk, each with single-threaded torch: whole blocks side
    by side beat torch's own split of each.
    """
    before = torch.get_num_threads()
    count = min(MAX_THREADS, len(os.sched_getaffinity(0)) + 1)
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def in_order(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """The jobs' results in their order; only AHEAD are started before their turn, so that memory stays bounded.

    The first job that fails ends it: its error is raised, and those not yet started are not done any more.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def as_bytes(rows: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor as uint8 [bytes]."""
    return rows.contiguous().view(-1).view(torch.uint8)
