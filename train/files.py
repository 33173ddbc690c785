"""Small things every program does with files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

PROMPTS = "validation_prompts.jsonl"  # in a run's data/; here, so that who only names it need not load torch
BLOCK = 1 << 20


def hash_file(path: Path, tell: Callable[[int], None] = lambda read: None) -> str:
    """The SHA-256 of a file, read block by block; `tell` hears the bytes of each."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            tell(len(block))
    return digest.hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write JSON under a temporary name and rename it: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def sync(path: Path) -> None:
    """Bring a file or a directory's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
