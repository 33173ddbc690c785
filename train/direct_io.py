"""A file written to the disk and read back from it past the kernel's page cache, where its file system allows that.

Writing through the cache costs a copy and, on a machine whose memory is scarce or virtual, much more: on two cores of a
virtual machine 2.2 GB took 6.4 to 8.4 s through the cache (cp and sync) and 2.4 to 2.8 s past it.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import torch

from train.safetensors_io import PAGE, new_bytes

O_DIRECT = getattr(os, "O_DIRECT", None)  # Linux only


class DirectFile:
    """An open file, new and of `size` bytes where that is given. Threads may read and write different parts of it.

    Whole pages go past the cache, the rest of each part (its ends, less than a page) and everything on file systems
    that refuse it (EINVAL) through it. No page is ever written both ways.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._lock = Lock()
        self._plain = os.open(path, os.O_RDONLY if size is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        if size is not None:
            os.ftruncate(self._plain, size)
        self._direct = open_direct(path, os.O_RDONLY if size is None else os.O_RDWR)
        if self._direct is not None:  # what is read ahead through the cache is soon written past it
            os.posix_fadvise(self._plain, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for descriptor in (self._plain, self._direct):
            if descriptor is not None:
                os.close(descriptor)

    def read(self, begin: int, size: int) -> torch.Tensor:
        """`size` bytes from byte `begin` on, as uint8 [size]. Raises OSError when the file ends before."""
        data = new_bytes(begin, size)
        view = memoryview(data.numpy())
        for start, stop in self._past_cache(os.preadv, view, begin):
            while start < stop:
                count = os.preadv(self._plain, [view[start:stop]], begin + start)
                if count == 0:
                    raise OSError(f"the file ended {stop - start} bytes early while it was read")
                start += count
        return data

    def write(self, begin: int, data: torch.Tensor) -> None:
        """Write uint8 [size] from byte `begin` on. Data as `read_bytes` gave it for the same `begin` is not copied."""
        if self._direct is not None and (data.data_ptr() - begin) % PAGE:
            data = new_bytes(begin, len(data)).copy_(data)
        view = memoryview(data.numpy())
        for start, stop in self._past_cache(os.pwritev, view, begin):
            with self._lock:  # the kernel lets one thread write through the cache, and others burn their core meanwhile
                while start < stop:
                    start += os.pwrite(self._plain, view[start:stop], begin + start)

    def _past_cache(self, call: Callable[..., int], view: memoryview, begin: int) -> list[tuple[int, int]]:
        """Read or write the whole pages; returns the ranges of `view` that are left."""
        first = -begin % PAGE
        last = (begin + len(view)) // PAGE * PAGE - begin
        if self._direct is None or first >= last:
            return [(0, len(view))]
        try:
            done = call(self._direct, [view[first:last]], begin + first)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done = 0
        return [(0, first), (first + done, len(view))]

    def sync(self) -> None:
        """Bring what is written to the disk."""
        os.fsync(self._plain)


def open_direct(path: Path, flags: int) -> Any:
    """A descriptor that goes past the page cache, or None where there is no such thing."""
    if O_DIRECT is None:
        return None
    try:
        return os.open(path, flags | O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return None
        raise
