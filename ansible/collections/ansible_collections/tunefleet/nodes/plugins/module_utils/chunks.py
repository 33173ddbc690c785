"""The pieces an image travels in, as the workstation and the nodes both see them. Runs on nodes: Python 3.8, standard
library.

A push moves blobs, files named by their sha256. Each blob is cut into chunks of one size, numbered through all blobs;
which of them a node holds is a bitmap, one byte a chunk in memory, hexadecimal on the wire.
"""

from __future__ import annotations

import hashlib
import os
from collections import namedtuple

Chunk = namedtuple("Chunk", "blob offset size sha256")

SMALLEST = 256 << 10  # of a chunk: below this, messages cost more than the pipeline gains
LARGEST = 8 << 20  # above this, filling a chain of nodes takes seconds
WANTED = 1000  # chunks in a push; each costs 32 bytes of hash a node


def chunk_size(total: int) -> int:
    """Bytes in a chunk, for a push of so many bytes."""
    return max(SMALLEST, min(LARGEST, total // WANTED))


def cut(blobs: list, size: int, hashes: bytes) -> list:
    """The chunks of blobs [(digest, bytes), ...] in order; `hashes` is their sha256, 32 bytes each."""
    chunks = []
    for number, (_, length) in enumerate(blobs):
        for offset in range(0, length, size):
            at = len(chunks) * 32
            chunks.append(Chunk(number, offset, min(size, length - offset), hashes[at : at + 32]))
    return chunks


def hash_chunks(paths: list, size: int) -> bytes:
    """sha256 of every chunk of these files, one after the other, 32 bytes each."""
    found = []
    for path in paths:
        with open(path, "rb", buffering=0) as blob:
            while True:
                piece = blob.read(size)
                if not piece:
                    break
                found.append(hashlib.sha256(piece).digest())
    return b"".join(found)


def hash_file(path: str) -> str:
    """'sha256:...' of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as blob:
        while True:
            piece = blob.read(1 << 20)
            if not piece:
                return "sha256:" + digest.hexdigest()
            digest.update(piece)


def blob_path(directory: str, digest: str) -> str:
    return os.path.join(directory, digest.split(":", 1)[1])


def pack_bits(flags: bytes) -> str:
    """A bytes of 0 and 1 as hexadecimal digits."""
    value = int("1" + "".join("1" if flag else "0" for flag in flags), 2)
    return format(value, "x")


def unpack_bits(text: str) -> bytearray:
    """What pack_bits wrote. Raises ValueError where it is no such text."""
    digits = format(int(text, 16), "b")[1:]
    return bytearray(digit == "1" for digit in digits)
