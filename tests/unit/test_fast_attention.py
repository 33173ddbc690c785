"""The attention of a pack against PyTorch's own in float64, down to what the number format rounds."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from train.fast import attention
from train.fast.attention import Blockwise
from train.fast.packs import Block

# Two rows of 60 and 40 tokens that share a beginning of 20.
BLOCKS = (Block(0, 20, 0, 20, True), Block(20, 80, 20, 80, True), Block(80, 120, 80, 120, True),
          Block(20, 120, 0, 20, False))  # fmt: skip


def visible(blocks: tuple[Block, ...]) -> torch.Tensor:
    """Which key each query sees, [T, T]."""
    seen = torch.zeros(blocks[-1].last, blocks[-1].last, dtype=torch.bool)
    for block in blocks:
        part = torch.ones(block.last - block.first, block.key_last - block.key_first, dtype=torch.bool)
        seen[block.first : block.last, block.key_first : block.key_last] |= part.tril() if block.causal else part
    return seen


def operands(dtype: torch.dtype, bias: float = 0.0, size: int = 128) -> list[torch.Tensor]:
    """Queries of four heads, keys and values of two, and the gradient of the result."""
    draw = torch.Generator().manual_seed(0)
    query, key, value, gradient = (torch.randn(1, heads, 120, size, generator=draw) for heads in (4, 2, 2, 4))
    query[..., :8] += bias
    key[..., :8] += bias
    return [tensor.to(dtype) for tensor in (query, key, value, gradient)]


def errors(dtype: torch.dtype, bias: float = 0.0) -> list[float]:
    """Relative errors of the result and of the gradients of queries, keys and values."""
    *given, gradient = operands(dtype, bias)
    exact = [tensor.double().requires_grad_() for tensor in given]
    wanted = scaled_dot_product_attention(*exact, attn_mask=visible(BLOCKS), enable_gqa=True)
    wanted.backward(gradient.double())
    leaves = [tensor.requires_grad_() for tensor in given]
    found = Blockwise.apply(*leaves, BLOCKS, None).transpose(1, 2)
    found.backward(gradient)
    pairs = [(found, wanted), *((one.grad, other.grad) for one, other in zip(leaves, exact, strict=True))]
    return [((one.double() - other).norm() / other.norm()).item() for one, other in pairs]


@pytest.fixture(params=[1 << 30, 0], ids=["products", "kernel"])
def way(request, monkeypatch):
    """Every block's backward pass through matrix products, and through PyTorch's kernel."""
    monkeypatch.setattr(attention, "LARGE_HALF", request.param)
    monkeypatch.setattr(attention, "LARGE_FLOAT32", request.param)


def test_float32(way):
    assert max(errors(torch.float32)) < 1e-5


@pytest.mark.parametrize("bias", [0.0, 10.0], ids=["small logits", "logits about 71"])
def test_bfloat16_however_large_the_logits_are(way, bias):
    query, key, *_ = operands(torch.float32, bias)
    mean = (query[:, ::2] @ key.transpose(2, 3)).mean() / 128**0.5
    assert abs(mean - (71 if bias else 0)) < 3
    assert max(errors(torch.bfloat16, bias)) < 0.02  # of either way: at most 0.015; with scores in bfloat16: 0.28


@pytest.mark.parametrize(("dtype", "tokens", "by_kernel"), [
    (torch.float32, 120, False), (torch.float32, 200, True), (torch.bfloat16, 200, False), (torch.bfloat16, 310, True),
])  # fmt: skip
def test_the_faster_way_of_a_blocks_size_and_number_format_is_taken(monkeypatch, dtype, tokens, by_kernel):
    called = []
    monkeypatch.setattr(attention, "flash_backward", lambda *given, **_: called.append(1) or (*given[1:4],))
    query = torch.randn(1, 2, tokens, 8).to(dtype).requires_grad_()
    found = Blockwise.apply(query, query, query, (Block(0, tokens, 0, tokens, True),), None)
    found.sum().backward()
    assert bool(called) == by_kernel
