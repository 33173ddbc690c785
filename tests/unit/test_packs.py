"""A pack holds its rows and nothing else: found out for made-up rows of all kinds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from train.fast.feed import EMPTY, packs_of_rank
from train.fast.packs import FILL_TO, LEAST_SHARED, Pack, Row, cut, make_pack, sort_rows


@draw.composite
def some_rows(some) -> list[Row]:
    """Rows of few kinds of tokens, many of which begin like another one, or are another one."""
    rows: list[Row] = []
    for _ in range(some(draw.integers(1, 14))):
        start = rows[some(draw.integers(0, len(rows) - 1))].ids if rows and some(draw.booleans()) else np.zeros(0)
        start = start[: some(draw.integers(0, len(start)))]
        own = some(draw.lists(draw.integers(0, 3), min_size=0 if len(start) else 1, max_size=40))
        ids = np.concatenate([start, own]).astype(np.int32)
        loss = np.array(some(draw.lists(draw.integers(0, 1), min_size=len(ids), max_size=len(ids))), np.uint8)
        loss[0] = 0
        rows.append(Row(ids, loss))
    return rows


def visible(pack: Pack) -> np.ndarray:
    """[T, T]: which token sees which."""
    seen = np.zeros((len(pack.ids), len(pack.ids)), bool)
    for block in pack.blocks:
        part = np.ones((block.last - block.first, block.key_last - block.key_first), bool)
        seen[block.first : block.last, block.key_first : block.key_last] |= np.tril(part) if block.causal else part
    return seen


def predicted(pack: Pack) -> Counter:
    """Everything the pack predicts: what is seen, in order, and the token behind it."""
    seen, ids, found = visible(pack), pack.ids.numpy(), Counter()
    for source, target, weight in zip(pack.sources, pack.targets, pack.weights, strict=True):
        if weight > 0:
            context = ids[np.flatnonzero(seen[source])]
            assert pack.positions[source] == len(context) - 1
            found[(*context.tolist(), "->", int(target))] += int(weight)
    return found


def wanted(rows: list[Row]) -> Counter:
    """The same as the rows say."""
    return Counter((*row.ids[:at].tolist(), "->", int(row.ids[at])) for row in rows for at in np.flatnonzero(row.loss))


@settings(max_examples=300, deadline=None)
@given(rows=some_rows(), share=draw.booleans(), budget=draw.integers(1, 200))
def test_packs_predict_what_the_rows_predict_from_the_rows_own_tokens(rows, share, budget):
    cuts = cut(sort_rows(rows), budget, share)
    packs = [make_pack(part, share) for part in cuts]
    assert sum((predicted(pack) for pack in packs), Counter()) == wanted(rows)
    assert sum(pack.tokens for pack in packs) == sum(len(row.ids) for row in rows)
    for part, pack in zip(cuts, packs, strict=True):
        assert pack.computed <= budget or len(part) == 1
        assert pack.computed == pack.tokens if not share else pack.computed <= pack.tokens
        assert len(pack.ids) % FILL_TO == 0 and len(pack.sources) % FILL_TO == 0
        assert sum(block.last - block.first for block in pack.blocks if block.causal) == len(pack.ids)


@settings(max_examples=100, deadline=None)
@given(rows=some_rows(), share=draw.booleans(), world=draw.integers(1, 5), budget=draw.integers(1, 200))
def test_every_process_gets_its_part_and_as_many_packs_as_the_others(rows, share, world, budget):
    parts = [packs_of_rank(rows, rank, world, budget, share) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together = [row for part in parts for pack in part for row in pack if row is not EMPTY]
    key = lambda row: (row.ids.tobytes(), row.loss.tobytes())  # noqa: E731
    assert sorted(map(key, together)) == sorted(map(key, rows))


def test_rows_with_one_instruction_compute_it_once():
    prefix = np.arange(50, dtype=np.int32)
    rows = [Row(np.concatenate([prefix, [100 + n, 200 + n]]).astype(np.int32), np.ones(52, np.uint8)) for n in range(9)]
    assert make_pack(sort_rows(rows), True).computed == 50 + 9 * 2
    assert make_pack(sort_rows(rows), False).computed == 9 * 52


def test_beginnings_within_beginnings_are_each_computed_once():
    system, question = np.arange(40), np.arange(100, 130)
    tails = [[1000 + n] for n in range(4)]
    rows = [np.concatenate([system, question, tail]) for tail in tails[:2]] + [
        np.concatenate([system, question[::-1], tail]) for tail in tails[2:]
    ]
    pack = make_pack(sort_rows([Row(ids.astype(np.int32), np.ones(len(ids), np.uint8)) for ids in rows]), True)
    assert pack.computed == 40 + 2 * 30 + 4


@pytest.mark.parametrize("length", [LEAST_SHARED - 1, LEAST_SHARED])
def test_short_common_beginnings_are_not_worth_a_segment(length):
    rows = [Row(np.array([*range(length), 90 + n], np.int32), np.ones(length + 1, np.uint8)) for n in range(2)]
    assert make_pack(sort_rows(rows), True).computed == (length + 2 if length == LEAST_SHARED else 2 * length + 2)


def test_processes_get_about_equally_much_to_compute():
    draw_length = np.random.default_rng(5)
    rows = [Row(draw_length.integers(0, 999, draw_length.integers(20, 400)).astype(np.int32), None) for _ in range(32)]
    tokens = [sum(len(row.ids) for pack in packs_of_rank(rows, rank, 2, 2048, True) for row in pack) for rank in (0, 1)]
    assert max(tokens) / min(tokens) < 1.02


def test_packs_are_filled_evenly():
    rows = [Row(np.full(100, number, np.int32), np.ones(100, np.uint8)) for number in range(21)]
    assert [len(part) for part in cut(rows, 1000, True)] == [7, 7, 7]
