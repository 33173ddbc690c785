"""Hashes a file while it grows, so that its last byte and its verdict come together."""

import hashlib
from pathlib import Path

from scripts.fetch.choose import File
from scripts.fetch.transfer import FAST, PARTIAL

BLOCK = 4 << 20


class Growing:
    """A file of `incoming` that arrives, or has arrived before; hashed as far as it is there."""

    def __init__(self, file: File, incoming: Path):
        self.file = file
        self.final, self.partial = incoming / file.name, incoming / PARTIAL / file.name
        self.fast = self.partial.with_name(self.partial.name + FAST)
        self.begin()

    def begin(self) -> None:
        """Forget what was hashed."""
        self.hashed = 0
        self.sha256 = hashlib.sha256()
        self.blob = hashlib.sha1(b"blob %d\0" % self.file.size)  # git's own hash, for files that have no other

    @property
    def whole(self) -> bool:
        """Whether it has wholly arrived, right or wrong."""
        return self.final.exists()

    @property
    def present(self) -> int:
        """Bytes on disk, counted up to its size."""
        if size := size_of(self.final) or size_of(self.partial):
            return min(size, self.file.size)
        return min(allocated(self.fast), self.file.size)

    def follow(self, limit: int) -> int:
        """Hash up to `limit` bytes more; returns how many there were. What the fast path writes waits until whole."""
        path = self.final if self.whole else self.partial
        try:
            with path.open("rb", buffering=0) as source:
                if source.seek(0, 2) < self.hashed:  # begun anew
                    self.begin()
                source.seek(self.hashed)
                read = 0
                while read < limit and (block := source.read(min(BLOCK, limit - read))):
                    self.sha256.update(block)
                    if not self.file.sha256:
                        self.blob.update(block)
                    read += len(block)
        except FileNotFoundError:  # renamed in this moment, or not there yet
            return 0
        self.hashed += read
        return read

    @property
    def done(self) -> bool:
        """Whether every byte of the whole file is hashed."""
        return self.whole and self.hashed >= size_of(self.final)

    @property
    def right(self) -> bool:
        """Whether the bytes hashed are those that the hub lists."""
        found = self.sha256.hexdigest() if self.file.sha256 else self.blob.hexdigest()
        return self.hashed == self.file.size and found == (self.file.sha256 or self.file.blob)

    def read_again(self) -> bool:
        """Whether the file on disk is right, read from its beginning: what was followed may have been begun anew."""
        self.begin()
        while self.follow(BLOCK):
            pass
        return self.right

    def discard(self) -> None:
        """Remove what arrived: its bytes are wrong."""
        for path in (self.final, self.partial, self.fast):
            path.unlink(missing_ok=True)
        self.begin()

    def entry(self) -> dict[str, object]:
        """What the manifest says of it."""
        return {"size": self.file.size, "sha256": self.sha256.hexdigest()}


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def allocated(path: Path) -> int:
    """Bytes of a file that were written, where its size was set beforehand."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
