"""The order of rows is one and the same, however many processes share them."""

import pytest
import torch

from train.order import EMPTY_ROW, GlobalOrder, WithEmptyRows, choose_order, pad_batch, share_of_rows
from train.recipe import with_defaults


def steps(order: GlobalOrder, epoch: int) -> list[list[list[int]]]:
    """A process's micro-batches of an epoch, grouped by optimiser step."""
    order.epoch = epoch
    batches = list(order)
    assert len(batches) == len(order)
    return [batches[start : start + order.accumulation] for start in range(0, len(batches), order.accumulation)]


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 4), (2, 4), (2, 2), (4, 2), (8, 1)])
@pytest.mark.parametrize("rows", [64, 61, 5, 8])
def test_every_layout_trains_the_same_rows_in_the_same_steps(world, micro, rows):
    single = GlobalOrder(rows, 8, 8, 0, 1, seed=3)
    shares = [GlobalOrder(rows, 8, micro, rank, world, seed=3) for rank in range(world)]
    for epoch in (0, 1):
        for number, step in enumerate(steps(single, epoch)):
            together = sorted(row for share in shares for batch in steps(share, epoch)[number] for row in batch)
            assert together == sorted(row for batch in step for row in batch)


@pytest.mark.parametrize("rows", [64, 61, 5])
def test_an_epoch_sees_every_row_once_and_fills_up_with_empty_ones(rows):
    order = GlobalOrder(rows, 8, 2, 0, 1, seed=3)
    seen = [row for batch in order for row in batch]
    assert sorted(row for row in seen if row != EMPTY_ROW) == list(range(rows))
    assert len(seen) % 8 == 0


def test_epochs_are_permuted_differently_and_alike_for_the_same_seed():
    order, again = (GlobalOrder(50, 10, 5, 0, 1, seed=3) for _ in range(2))
    assert order.permutation(0) != order.permutation(1)
    assert order.permutation(1) == again.permutation(1)
    assert order.permutation(0) != GlobalOrder(50, 10, 5, 0, 1, seed=4).permutation(0)


def test_rows_of_a_step_are_those_its_batches_hold():
    order = GlobalOrder(21, 8, 4, 0, 1, seed=0)
    flat = [[row for batch in step for row in batch if row != EMPTY_ROW] for step in steps(order, 1)]
    assert [sorted(order.rows_of_step(3 + number)) for number in range(3)] == [sorted(rows) for rows in flat]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_rows_are_shared_out_evenly_and_once(world):
    shares = [share_of_rows(23, 4, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch in share for row in batch if row != EMPTY_ROW]
    assert sorted(rows) == list(range(23))


def test_padding_carries_no_loss_and_gives_few_lengths():
    rows = WithEmptyRows([{"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, 6, 7])}], pad_token=9)
    batch = pad_batch([rows[0], rows[EMPTY_ROW]], pad_token=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7] + [9] * 29, [9] * 32]
    assert batch["labels"].tolist() == [[-100, 6, 7] + [-100] * 29, [-100] * 32]


@pytest.mark.parametrize("world", [1, 2])
def test_packed_steps_are_the_same_rows_in_the_same_steps(world):
    recipe = with_defaults({"model_name_or_path": "m", "train_file": "t", "global_batch_size": 8, "seed": 3,
                            "per_device_train_batch_size": 2})  # fmt: skip
    packed, padded = (choose_order(recipe, 21, packing, 0, world) for packing in (True, False))
    packed.epoch = padded.epoch = 1
    assert len(packed) == len(list(packed)) == packed.steps_per_epoch == padded.steps_per_epoch == 3
    assert list(packed) == [padded.rows_of_step(3 + number) for number in range(3)]
