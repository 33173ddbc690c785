"""Attention within a pack: as transformers' attention functions, no code of a model is changed.

Each segment attends to itself causally, and all that branches off a segment to that segment. Where a token's keys lie
in several blocks, the blocks' results are put together by their softmax sums, as FlashAttention does between its tiles
(Dao et al. 2022, arXiv:2205.14135, section 3.1); the backward pass needs only the final sums.
"""

import sys
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from train.fast.packs import Block, Pack

NAME = "packed"
# Queries times keys from which on PyTorch's kernel is the faster one in the backward pass; 32 heads of 64, two cores.
# bfloat16, in hardware: 100 tokens take 1.1 ms by matrix products and 5.7 ms by the kernel; from about 300 on it wins.
# float32: 100 tokens 3.0 and 11.9 ms, 200 tokens 16 and 9 ms, 300 tokens 108 and 70 ms.
LARGE_FLOAT32 = 150 * 150
LARGE_HALF = 300 * 300
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
computes_pack: ContextVar[bool] = ContextVar("computes_pack", default=False)


class CannotPack(Exception):
    """This model's attention needs something that packs do not have; says what."""


@dataclass
class Windows:
    """Windows of a model: those of its masks, which packs do without, and those that its attention is told."""

    in_masks: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)

    def unseen(self) -> int | None:
        """The smallest that packs would not have: its models leave it to the mask alone (Qwen2-MoE, Phi-MoE)."""
        return min(self.in_masks - self.told, default=None)


def use_packed_attention(model: Any) -> Windows:
    """Let the model's attention take packs; without one it goes on as before. Returns the windows met in packs."""
    windows = Windows()
    before = model.config._attn_implementation
    ordinary, ordinary_mask = ALL_ATTENTION_FUNCTIONS.get(before), ALL_MASK_ATTENTION_FUNCTIONS[before]

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *, pack: Pack | None = None, **others: Any):
        if pack is not None and others.get("sliding_window"):
            windows.told.add(others["sliding_window"])
        if pack is not None and is_flash(before):
            return ordinary(module, query, key, value, None, **others, **row_lengths(pack))
        if pack is not None:
            return attend(query, key, value, pack, **others), None
        # transformers keeps the function of `eager` in each model's own file.
        own = ordinary or sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, key, value, mask, **others)

    def mask(*arguments: Any, **others: Any) -> Any:
        if not computes_pack.get():
            return ordinary_mask(*arguments, **others)
        if others.get("local_size"):
            windows.in_masks.add(others["local_size"])
        return None

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, mask)
    model.set_attn_implementation(NAME)
    return windows


def is_flash(implementation: str) -> bool:
    """Whether transformers computes this attention with a kernel that takes rows by their lengths."""
    return implementation.startswith("flash_attention")


def row_lengths(pack: Pack) -> dict[str, Any]:
    """A pack without shared beginnings in the words of transformers' flash attention: where its rows begin and end."""
    ends = [0, *(block.last for block in pack.blocks)]
    bounds = torch.tensor(ends, dtype=torch.int32, device=pack.ids.device)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": pack.longest,
        "max_length_k": pack.longest,
    }


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, *, scaling: float | None = None,
    sliding_window: int | None = None, softcap: float | None = None, s_aux: Any = None,
    position_bias: Any = None, is_causal: bool | None = None, **_: Any,
) -> torch.Tensor:  # fmt: skip
    """Attention of a pack. query [1, heads, T, size], key, value [1, key heads, T, size]; returns [1, T, heads, size].

    Raises CannotPack for what rows in a pack cannot have: sinks, position biases, attention to what comes after.
    """
    for name, given in (("attention sinks", s_aux), ("a position bias", position_bias)):
        if given is not None:
            raise CannotPack(f"its attention has {name}")
    if is_causal is False:
        raise CannotPack("its attention is not causal")
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves norms of queries and keys in float32
    windowed = sliding_window is not None and pack.longest > sliding_window
    plain = not windowed and softcap is None and query.shape[-1] == value.shape[-1]
    if plain and query.device.type == "cpu":
        return Blockwise.apply(query, key, value, pack.blocks, scaling)
    return attend_by_segment(query, key, value, pack, scaling, sliding_window if windowed else None, softcap)


class Blockwise(torch.autograd.Function):
    """Attention block by block through PyTorch's CPU flash kernel."""

    @staticmethod
    def forward(ctx, query, key, value, blocks: tuple[Block, ...], scale: float | None):
        """Shapes as in `attend`."""
        result = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        out = result.transpose(1, 2)
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        for block in blocks:
            rows, keys = slice(block.first, block.last), slice(block.key_first, block.key_last)
            part, part_sums = flash(
                query[:, :, rows], key[:, :, keys], value[:, :, keys], 0.0, block.causal, scale=scale
            )
            if block.causal:
                out[:, :, rows], sums[:, :, rows] = part, part_sums
                continue
            old = sums[:, :, rows]
            new = torch.logaddexp(old, part_sums)
            kept, added = (old - new).exp_().unsqueeze(-1), (part_sums - new).exp_().unsqueeze(-1)
            out[:, :, rows] = (out[:, :, rows] * kept).addcmul_(part, added)
            sums[:, :, rows] = new
        ctx.save_for_backward(query, key, value, result, sums)
        ctx.blocks, ctx.scale = blocks, scale
        return result

    @staticmethod
    def backward(ctx, gradient):
        """Each block's part of the gradients, with the sums over all of a token's keys."""
        query, key, value, result, sums = ctx.saved_tensors
        gradient, out = gradient.transpose(1, 2), result.transpose(1, 2)
        gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for block in ctx.blocks:
            rows, keys = slice(block.first, block.last), slice(block.key_first, block.key_last)
            parts = block_backward(
                gradient[:, :, rows], query[:, :, rows], key[:, :, keys], value[:, :, keys],
                out[:, :, rows], sums[:, :, rows], block.causal, ctx.scale,
            )  # fmt: skip
            for whole, part, place in zip(gradients, parts, (rows, keys, keys), strict=True):
                if block.causal:
                    whole[:, :, place] = part
                else:
                    whole[:, :, place] += part
        return *gradients, None, None


def block_backward(gradient, query, key, value, out, sums, causal: bool, scale: float | None):
    """Gradients of a block's queries [1, heads, n, size], keys and values [1, key heads, m, size].

    PyTorch's kernel is slow for the short blocks of packs, which plain matrix products compute instead. The scores are
    products in float32, as the kernel's are: bfloat16 keeps three digits of them, and a logit of 71, which biases of
    queries and keys make (Qwen2), would be off by 0.25 where it is compared with the float32 sums.
    """
    count, keys = query.shape[2], key.shape[2]
    if count * keys > (LARGE_FLOAT32 if query.dtype == torch.float32 else LARGE_HALF):
        return flash_backward(gradient, query, key, value, out, sums, 0.0, causal, scale=scale)
    heads, size = key.shape[1], query.shape[3]
    scale = size**-0.5 if scale is None else scale
    grouped = (heads, -1, size)  # the queries that share a key head, one behind the other
    delta = (gradient.float() * out.float()).sum(-1).reshape(heads, -1, 1)
    query, gradient = query.reshape(grouped), gradient.reshape(grouped)
    key, value = key.reshape(grouped), value.reshape(grouped)
    chances = torch.bmm(query.float(), key.float().transpose(1, 2))
    chances.mul_(scale).sub_(sums.reshape(heads, -1, 1)).exp_()
    if causal:
        chances.view(heads, -1, count, keys).tril_()
    scores = torch.bmm(gradient, value.transpose(1, 2)).float().sub_(delta).mul_(chances).mul_(scale).to(query.dtype)
    chances = chances.to(query.dtype)
    return (
        torch.bmm(scores, key).view(1, -1, count, size),
        torch.bmm(scores.transpose(1, 2), query)[None],
        torch.bmm(chances.transpose(1, 2), gradient)[None],
    )


def attend_by_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, scale: float | None,
    window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """The same, segment by segment with masks: for sliding windows, capped scores, and devices without that kernel."""
    own = [block for block in pack.blocks if block.causal]
    above = [block for block in pack.blocks if not block.causal]
    sizes = [block.last - block.first for block in own]
    pieces = [tensor.split(sizes, dim=2) for tensor in (query, key, value)]
    number_at = {block.first: number for number, block in enumerate(own)}
    results = []
    for number, block in enumerate(own):
        seen = [number_at[one.key_first] for one in above if one.first <= block.first and block.last <= one.last]
        spans = [own[one] for one in (*sorted(seen), number)]
        keys, values = (torch.cat([part[number_at[span.first]] for span in spans], dim=2) for part in pieces[1:])
        there = torch.cat([pack.positions[span.first : span.last] for span in spans])
        distance = pack.positions[block.first : block.last, None] - there[None, :]
        visible = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        results.append(masked(pieces[0][number], keys, values, visible.to(query.device), scale, softcap))
    return torch.cat(results, dim=2).transpose(1, 2).contiguous()


def masked(query, key, value, visible: torch.Tensor, scale: float | None, softcap: float | None) -> torch.Tensor:
    """Attention of [1, heads, n, size] to [1, key heads, m, size] where `visible` [n, m] is true."""
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale, enable_gqa=True)
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
