"""Comparing numbers by their bits finds what comparing them one by one finds."""

import pytest
import torch

from train.bits import LIMITS, all_finite, same_bytes


@pytest.mark.parametrize("dtype", LIMITS)
def test_nan_and_infinity_of_either_sign_are_found_and_no_other_number_is_taken_for_one(dtype):
    largest = torch.finfo(dtype).max
    rows = torch.tensor([[0.0, -0.0, largest, -largest], [1e-30, -1e-30, 1.0, -1.0]], dtype=dtype)
    assert all_finite(rows)
    assert all_finite(rows[:0])
    for sign in (1.0, -1.0):
        for bad in (float("inf"), float("nan")):
            broken = rows.clone()
            broken[1, 2] = torch.copysign(torch.tensor(bad), torch.tensor(sign)).to(dtype)
            assert not all_finite(broken)


@pytest.mark.parametrize("dtype", LIMITS)
def test_one_bit_of_difference_is_found_wherever_it_is(dtype):
    one = torch.arange(48).view(6, 8).to(dtype)
    assert same_bytes(one, one.clone())
    for place in range(one.nbytes):
        other = one.clone()
        other.view(torch.uint8).view(-1)[place] ^= 1
        assert not same_bytes(one, other)
    assert not same_bytes(one, one[:5])
    assert not same_bytes(torch.zeros(1, dtype=dtype), -torch.zeros(1, dtype=dtype))
