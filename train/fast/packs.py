"""Rows laid behind each other in one pack, where rows that begin alike hold their common beginning once.

The rows of a pack form a tree: a segment is a run of tokens that one row, or several rows that begin alike, have in
common; what follows it are its branches, laid directly behind it. A token sees the tokens before it in its own segment
and all of the segments above it, which are just the tokens of its own row: rows never see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

# A shared beginning saves its tokens' work in every row but one, and costs a call of the attention kernel more.
LEAST_SHARED = 16
# Every new length costs the CPU's matrix library new kernels, compiled and kept: tokens and predictions of a pack are
# filled up to multiples of this, with tokens that nothing sees and predictions of weight 0.
FILL_TO = 32


class Block(NamedTuple):
    """Queries [first, last) attend to keys [key_first, key_last): causally to their own segment, else to all of it."""

    first: int
    last: int
    key_first: int
    key_last: int
    causal: bool


@dataclass(frozen=True)
class Pack:
    """One micro-batch: T tokens, of which `computed` stand for the rows' `tokens` tokens, and L predictions."""

    ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64, counted within each row
    blocks: tuple[Block, ...]  # the causal ones cover every token once; a segment comes before its branches
    sources: torch.Tensor  # [L] int64: where in the pack a prediction is made, ascending
    targets: torch.Tensor  # [L] int64: the token to be predicted there
    weights: torch.Tensor  # [L] float32: how many rows predict it there; 0 for those that fill up
    computed: int
    tokens: int
    longest: int  # tokens of the longest row

    def to(self, device: torch.device) -> "Pack":
        """The same with its tensors on a device."""
        names = ("ids", "positions", "sources", "targets", "weights")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class Row(NamedTuple):
    """A row's tokens [n] and which of them carry loss [n]."""

    ids: np.ndarray
    loss: np.ndarray


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of their tokens, so that those that begin alike stand together."""
    return sorted(rows, key=lambda row: row.ids.astype(">i4").tobytes())


def shared_length(one: Row, other: Row) -> int:
    """How many tokens two rows begin with alike."""
    length = min(len(one.ids), len(other.ids))
    different = np.flatnonzero(one.ids[:length] != other.ids[:length])
    return int(different[0]) if len(different) else length


def cut(rows: Sequence[Row], budget: int, share: bool) -> list[list[Row]]:
    """Sorted rows cut into packs that compute at most `budget` tokens each, or a single longer row; evenly filled."""
    if not rows:
        return []
    lengths = [len(row.ids) for row in rows]
    added = [0, *(own_tokens(*pair, share) for pair in pairwise(rows))]
    fewest, least, most = len(starts(lengths, added, budget)), 0, budget
    while most - least > FILL_TO:
        middle = (least + most) // 2
        least, most = (least, middle) if len(starts(lengths, added, middle)) == fewest else (middle, most)
    bounds = [*starts(lengths, added, most), len(rows)]
    return [list(rows[first:last]) for first, last in pairwise(bounds)]


def starts(lengths: list[int], added: list[int], budget: int) -> list[int]:
    """Where packs begin that are filled one after the other; `added` is what a row adds behind the one before it."""
    found: list[int] = []
    room = -1
    for number, cost in enumerate(added):
        if cost > room or not found:
            found.append(number)
            cost, room = lengths[number], budget
        room -= cost
    return found


def own_tokens(before: Row, row: Row, share: bool) -> int:
    """At most how many tokens a row adds to a pack that ends with the row `before`."""
    # Of a shared beginning, what is left above another one and too short for a segment of its own is not shared.
    return len(row.ids) - (max(0, shared_length(before, row) - LEAST_SHARED + 1) if share else 0)


def make_pack(rows: Sequence[Row], share: bool) -> Pack:
    """Lay sorted rows into a pack; with `share`, common beginnings of LEAST_SHARED tokens and more once."""
    alike = [shared_length(*pair) if share else 0 for pair in pairwise(rows)]
    places = [np.empty(len(row.ids), np.int64) for row in rows]
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    blocks: list[Block] = []
    length = 0

    def lay(first: int, last: int, start: int, end: int) -> Block:
        """Tokens [start, end) of the rows [first, last), which have them in common, as one segment."""
        nonlocal length
        block = Block(length, length + end - start, length, length + end - start, True)
        for place in places[first:last]:
            place[start:end] = np.arange(block.first, block.last)
        ids.append(rows[first].ids[start:end])
        positions.append(np.arange(start, end))
        length = block.last
        if end > start:
            blocks.append(block)
        return block

    def branch(first: int, last: int, start: int) -> None:
        """The rows [first, last) from token `start` on, up to which they are alike."""
        while first < last:
            end = first + 1
            while end < last and alike[end - 1] - start >= LEAST_SHARED:
                end += 1
            if end - first == 1:
                lay(first, end, start, len(rows[first].ids))
            else:
                common = min(alike[first : end - 1])
                above = lay(first, end, start, common)
                branch(first, end, common)
                if length > above.last:
                    blocks.append(Block(above.last, length, above.first, above.last, False))
            first = end

    branch(0, len(rows), 0)
    computed = length
    sources, targets, weights = predictions(rows, places)
    filling = -length % FILL_TO
    if filling:
        ids.append(np.zeros(filling, np.int32))
        positions.append(np.arange(filling))
        blocks.append(Block(length, length + filling, length, length + filling, True))
    return Pack(
        ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate(positions)),
        blocks=tuple(blocks),
        sources=torch.from_numpy(sources),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        computed=computed,
        tokens=sum(len(row.ids) for row in rows),
        longest=max(len(row.ids) for row in rows),
    )


def predictions(rows: Sequence[Row], places: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, tokens and weights of all predictions; the same one at a shared place stands once, with its number."""
    carries = [np.flatnonzero(row.loss[1:]) for row in rows]
    sources = np.concatenate([place[at] for place, at in zip(places, carries, strict=True)])
    targets = np.concatenate([row.ids[at + 1] for row, at in zip(rows, carries, strict=True)]).astype(np.int64)
    pairs, counts = np.unique(np.stack([sources, targets], axis=1), axis=0, return_counts=True)
    filled = max(FILL_TO, -(-len(pairs) // FILL_TO) * FILL_TO)
    missing = filled - len(pairs)
    sources, targets = np.pad(pairs, ((0, missing), (0, 0))).T.copy()
    return sources, targets, np.pad(counts.astype(np.float32), (0, missing))
