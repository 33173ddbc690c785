"""The SHA-256 of a base's files, taken from the very bytes that a merge's proof compares.

config.json is read at once; the proof hands in each weight file's bytes as it reads them (train.proof_tensors).
"""

from pathlib import Path
from typing import Any

from train.adapter import Adapter
from train.base_model import RECORD, identity_problems, weight_files
from train.errors import InputError, attempt, problem
from train.files import hash_file


class BaseHashes:
    """Size and SHA-256 of config.json and of every weight file. To be made before anything else reads the base.

    A base that cannot be merged into has none; train.base_model.read_base says what is wrong with it.
    """

    def __init__(self, base: Path) -> None:
        files = [base / "config.json", *(attempt([], weight_files, base) or [])]
        self._files = {file.name: file for file in files if file.is_file()}
        self._before = {name: identity(file) for name, file in self._files.items()}
        self._known = {file.name: hash_file(file) for file in self._files.values() if file.name == "config.json"}

    def take(self, name: str, digest: str) -> None:
        """The SHA-256 of a weight file, now that all of it was read."""
        self._known[name] = digest

    def all(self) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of every file.

        Raises InputError where a file has changed since the beginning: what was merged may not be what was hashed.
        """
        changed = [file for name, file in self._files.items() if identity(file) != self._before[name]]
        if changed:
            fix = "see who writes there, and merge again"
            raise InputError([problem(file, "", "was changed while it was merged", fix) for file in changed])
        return {name: {"size": self._before[name][0], "sha256": self._known[name]} for name in self._files}

    def refuse_another(self, adapter: Adapter) -> None:
        """Raise InputError where the base, as far as known by now, is not the one the adapter was trained on."""
        if adapter.record is None:
            return
        known = {name: {"size": self._before[name][0], "sha256": self._known.get(name)} for name in self._files}
        if problems := identity_problems(adapter.record, known, adapter.path / RECORD):
            raise InputError(problems)


def identity(path: Path) -> tuple[int, int, int]:
    """Size, inode and time of the last change: what differs once somebody has written to a file or replaced it."""
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns
