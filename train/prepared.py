"""Load what train.prepare wrote: rows of tokens with labels, read from memory-mapped arrays."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.errors import InputError, problem

ARRAYS = {"ids": np.int32, "loss": np.uint8, "offsets": np.int64, "rows": np.int64}
LABELS = ("train", "validation")
CHECK = "data_check.json"
NO_LOSS = -100  # the label that torch's cross entropy leaves out


def array_path(directory: Path, label: str, name: str) -> Path:
    """Where an array of train or validation lies."""
    return directory / f"{label}_{name}.npy"


def digest_arrays(directory: Path) -> str:
    """SHA-256 over names and contents of all arrays, which identifies the prepared rows."""
    digest = hashlib.sha256()
    for path in (array_path(directory, label, name) for label in LABELS for name in ARRAYS):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class TokenRows(torch.utils.data.Dataset):
    """Rows of tokens; `lengths` and `trained` (tokens that carry loss) are known without reading them."""

    def __init__(self, ids: np.ndarray, loss: np.ndarray, offsets: np.ndarray, rows: np.ndarray):
        self.ids, self.loss, self.offsets, self.rows = ids, loss, offsets, rows
        self.lengths = np.diff(offsets)
        self.trained = np.add.reduceat(loss, offsets[:-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids, loss = self.arrays(index)
        ids = ids.astype(np.int64)
        labels = np.where(loss == 1, ids, NO_LOSS)
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A row's tokens and which of them carry loss, as they lie on disk."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return np.asarray(self.ids[place]), np.asarray(self.loss[place])


@dataclass(frozen=True)
class Prepared:
    """Prepared rows, and what data_check.json says of them."""

    train: TokenRows
    validation: TokenRows | None
    check: dict[str, Any]


def load_prepared(directory: Path) -> Prepared:
    """Open prepared rows; the arrays stay on disk until read. Raises InputError where some are absent or damaged."""
    fix = "prepare them again: make check-data"
    try:
        check = json.loads((directory / CHECK).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(problem(directory / CHECK, "", f"holds no prepared rows: {error}", fix)) from None
    parts = {label: load_part(directory, label, fix) for label in LABELS if label in check["rows"]}
    return Prepared(parts["train"], parts.get("validation"), check)


def load_part(directory: Path, label: str, fix: str) -> TokenRows:
    """The rows of train or validation."""
    try:
        ids, loss, offsets, rows = (np.load(array_path(directory, label, name), mmap_mode="r") for name in ARRAYS)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(problem(directory, label, f"the arrays cannot be read: {error}", fix)) from None
    if not (len(ids) == len(loss) == offsets[-1] and len(offsets) == len(rows) + 1):
        raise InputError(problem(directory, label, "the arrays do not belong together", fix))
    return TokenRows(ids, loss, np.asarray(offsets), np.asarray(rows))
