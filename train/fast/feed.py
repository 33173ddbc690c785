"""Feeds a process with its packs of each step, and of a validation: who computes which rows, and with which others.

Every process works out the share of all of them alike, so nothing has to be told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from train.fast.packs import LEAST_SHARED, Pack, Row, cut, make_pack, shared_length, sort_rows
from train.order import GlobalOrder
from train.prepared import TokenRows

EMPTY = Row(np.zeros(1, np.int32), np.zeros(1, np.uint8))


class RawRows(Dataset):
    """Prepared rows as arrays."""

    def __init__(self, rows: TokenRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return Row(*self.rows.arrays(index))


@dataclass(frozen=True)
class Feed:
    """How steps become packs: of at most `budget` computed tokens, common beginnings once with `share`."""

    budget: int
    share: bool
    rank: int
    world: int

    def steps(self, rows: TokenRows, order: GlobalOrder) -> DataLoader:
        """This process's part of each step. `order` yields the row numbers of whole steps."""
        # Making the packs of a step takes milliseconds where the step takes seconds, so no second process does it.
        return DataLoader(RawRows(rows), batch_sampler=order, collate_fn=self.step, generator=torch.Generator())

    def step(self, rows: list[Row]) -> dict[str, Any]:
        """`packs` of this process, and `predictions` that carry loss in the whole step."""
        packs = packs_of_rank(rows, self.rank, self.world, self.budget, self.share)
        predictions = sum(int(row.loss[1:].sum()) for row in rows)
        return {"packs": [make_pack(pack, self.share) for pack in packs], "predictions": predictions}

    def validation(self, rows: TokenRows) -> Iterator[Pack]:
        """This process's packs of all rows, equally many for every process."""
        every = RawRows(rows)
        for pack in packs_of_rank([every[number] for number in range(len(every))], self.rank, self.world,
                                  self.budget, self.share):  # fmt: skip
            yield make_pack(pack, self.share)


def packs_of_rank(rows: Sequence[Row], rank: int, world: int, budget: int, share: bool) -> list[list[Row]]:
    """The rows of this process's packs in one step, each of at most `budget` tokens or a single row.

    All processes get equally many packs, since sharded models compute in step: one that has fewer gets packs of one
    token without loss.
    """
    ordered = sort_rows(rows)
    packs = [cut(part, budget, share) for part in parts(ordered, world, share)]
    most = max(map(len, packs))
    return packs[rank] + [[EMPTY]] * (max(most, 1) - len(packs[rank]))


def parts(rows: Sequence[Row], world: int, share: bool) -> list[list[Row]]:
    """Sorted rows dealt to processes so that all have about equally many tokens to compute.

    Rows that have more than half of their tokens in common stay together where that keeps the balance.
    """
    if world == 1:
        return [list(rows)]
    fair = sum(len(row.ids) for row in rows) / world
    groups: list[list[Row]] = []
    cost: list[int] = []
    for row in rows:
        alike = shared_length(groups[-1][-1], row) if groups and share else 0
        if alike >= LEAST_SHARED and 2 * alike > len(row.ids) and cost[-1] + len(row.ids) - alike <= fair / 4:
            groups[-1].append(row)
            cost[-1] += len(row.ids) - alike
        else:
            groups.append([row])
            cost.append(len(row.ids))
    dealt: list[list[int]] = [[] for _ in range(world)]
    load = [0] * world
    for number in sorted(range(len(groups)), key=lambda number: -cost[number]):
        least = load.index(min(load))
        dealt[least].append(number)
        load[least] += cost[number]
    return [[row for number in sorted(mine) for row in groups[number]] for mine in dealt]
