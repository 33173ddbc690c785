"""The SHA-256 of a base's files, taken in a thread of its own while something else is read and judged.

The thread reads the files itself, from the first moment on, so that what comes after it finds them in memory.
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self

from train.adapter import Adapter
from train.base_model import RECORD, identity_problems, weight_files
from train.errors import InputError, attempt, problem

# With less the thread would mostly wait for Python's lock, which the imports of others hold for 5 ms at a time.
BLOCK = 16 << 20  # bytes


class BaseHashes:
    """Size and SHA-256 of config.json and of every weight file. A context manager: leaving it ends the thread.

    A base that cannot be merged into has none; train.base_model.read_base says what is wrong with it.
    """

    def __init__(self, base: Path) -> None:
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(1)
        files = [base / "config.json", *(attempt([], weight_files, base) or [])]
        self._files = {file.name: file for file in files if file.is_file()}
        self._before = {name: identity(file) for name, file in self._files.items()}
        self._hashes = {name: self._pool.submit(self._hash, file) for name, file in self._files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK))
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while not self._stopped.is_set() and (count := file.readinto(buffer)):
                digest.update(buffer[:count])
        return digest.hexdigest()

    def all(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every file, waited for.

        Raises InputError where a file has changed since the beginning: what was merged may not be what was hashed.
        """
        found = {name: self._entry(name, future) for name, future in self._hashes.items()}
        changed = [file for name, file in self._files.items() if identity(file) != self._before[name]]
        if changed:
            fix = "see who writes there, and merge again"
            raise InputError([problem(file, "", "was changed while it was merged", fix) for file in changed])
        return found

    def refuse_another(self, adapter: Adapter) -> None:
        """Raise InputError where the base, as far as known by now, is not the one the adapter was trained on."""
        if adapter.record is None:
            return
        known = {
            name: self._entry(name, future) if future.done() else {"size": self._before[name][0]}
            for name, future in self._hashes.items()
        }
        if problems := identity_problems(adapter.record, known, adapter.path / RECORD):
            raise InputError(problems)

    def _entry(self, name: str, future: Future[str]) -> dict[str, Any]:
        return {"size": self._before[name][0], "sha256": future.result()}


def identity(path: Path) -> tuple[int, int, int]:
    """Size, inode and time of the last change: what differs once somebody has written to a file or replaced it."""
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns
