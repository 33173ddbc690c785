"""The order of rows, the same for any number of processes.

The training rows are permuted once an epoch by seed and epoch. Step k takes the next `global_batch_size` of them; the
step's rows are cut into micro-batches, and micro-batch m goes to process m mod world. The last step of an epoch is
filled up with empty rows that carry no loss, so that every process computes equally many micro-batches and no row is
seen twice or dropped.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch.utils.data import Dataset, Sampler

EMPTY_ROW = -1
IGNORED = -100
# Every new length costs the CPU's matrix library a new kernel, compiled and kept: padding the demo's batches to their
# longest row took 2.2 GB of memory in the end instead of 1.3.
PAD_TO = 32


class GlobalOrder(Sampler):
    """Batch sampler of one process: yields the row numbers of its micro-batches, epoch after epoch."""

    def __init__(self, rows: int, global_batch: int, micro_batch: int, rank: int, world: int, seed: int):
        self.rows, self.global_batch, self.micro_batch = rows, global_batch, micro_batch
        self.rank, self.world, self.seed = rank, world, seed
        self.steps_per_epoch = -(-rows // global_batch)
        self.accumulation = global_batch // (micro_batch * world)
        self.epoch = 0
        self._permuted: tuple[int, list[int]] = (-1, [])

    def permutation(self, epoch: int) -> list[int]:
        """The row numbers in the order of one epoch."""
        if self._permuted[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self._permuted = (epoch, torch.randperm(self.rows, generator=generator).tolist())
        return self._permuted[1]

    def rows_of_step(self, step: int) -> list[int]:
        """The rows of an optimiser step (counted from 0), all processes together, empty rows left out."""
        epoch, step = divmod(step, self.steps_per_epoch)
        return self.permutation(epoch)[step * self.global_batch : (step + 1) * self.global_batch]

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.steps_per_epoch
        for step in range(first, first + self.steps_per_epoch):
            rows = self.rows_of_step(step)
            rows = rows + [EMPTY_ROW] * (self.global_batch - len(rows))
            batches = [rows[start : start + self.micro_batch] for start in range(0, len(rows), self.micro_batch)]
            yield from batches[self.rank :: self.world]


class StepOrder(GlobalOrder):
    """The same order, a whole step at a time: yields the rows of all processes, which then share them out in packs."""

    def __init__(self, rows: int, global_batch: int, rank: int, world: int, seed: int):
        super().__init__(rows, global_batch, global_batch, rank, world, seed)
        self.accumulation = 1

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.steps_per_epoch
        yield from map(self.rows_of_step, range(first, first + self.steps_per_epoch))


def choose_order(recipe: SimpleNamespace, rows: int, packing: bool, rank: int, world: int) -> GlobalOrder:
    """The order of a recipe's rows for one process: of whole steps where they are packed, else of micro-batches."""
    batch, micro, seed = recipe.global_batch_size, recipe.per_device_train_batch_size, recipe.seed
    if packing:
        return StepOrder(rows, batch, rank, world, seed)
    return GlobalOrder(rows, batch, micro, rank, world, seed)


def share_of_rows(rows: int, batch: int, rank: int, world: int) -> list[list[int]]:
    """One process's validation batches; every process gets equally many, since sharded models compute in step."""
    padded = list(range(rows)) + [EMPTY_ROW] * (-rows % (batch * world))
    batches = [padded[start : start + batch] for start in range(0, len(padded), batch)]
    return batches[rank::world]


class WithEmptyRows(Dataset):
    """Rows of a prepared split; EMPTY_ROW gives a row of one pad token that carries no loss."""

    def __init__(self, rows: Dataset, pad_token: int):
        self.rows, self.pad_token = rows, pad_token

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        if number == EMPTY_ROW:
            return {"input_ids": torch.tensor([self.pad_token]), "labels": torch.tensor([IGNORED])}
        return self.rows[number]


def pad_batch(rows: list[dict[str, torch.Tensor]], pad_token: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest, rounded up to PAD_TO: `input_ids` and `labels`, both [rows, length].

    No attention mask: with causal attention no token sees what stands to its right, so padding on the right changes
    nothing that carries loss, and attention without a mask is the faster kernel.
    """
    length = -(-max(len(row["input_ids"]) for row in rows) // PAD_TO) * PAD_TO
    input_ids = torch.full((len(rows), length), pad_token, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for number, row in enumerate(rows):
        input_ids[number, : len(row["input_ids"])] = row["input_ids"]
        labels[number, : len(row["labels"])] = row["labels"]
    return {"input_ids": input_ids, "labels": labels}
