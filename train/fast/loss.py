"""The loss of the predictions alone, in chunks: no logits of a token that carries none, never the whole vocabulary.

The gradient of a chunk's hidden states is worked out while its logits are there, as in Liger's fused linear cross
entropy (Hsu et al. 2024, arXiv:2410.10989, section 3.2), so no logits are kept for the backward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 32 << 20  # of a chunk's logits in float32: they stay in the cache


@dataclass(frozen=True)
class Shaping:
    """What a family does to its logits: divided by `divisor`, then capped softly to [-cap, cap]."""

    divisor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "Shaping":
        """As the configuration says: Granite divides, Cohere multiplies, Gemma 2 caps."""
        divisor = getattr(config, "logits_scaling", None) or 1 / (getattr(config, "logit_scale", None) or 1)
        return cls(divisor, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits as the family means them."""
        logits = logits if self.divisor == 1 else logits / self.divisor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def prediction_loss(
    head: torch.nn.Module, shaping: Shaping, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted sum of the cross-entropy. hidden [L, size], targets [L], weights [L] float32; computed in float32."""
    chunk = max(1, CHUNK_BYTES // (4 * head.weight.shape[0])) if hasattr(head, "weight") else 512
    plain = type(head) is torch.nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())
    if plain and not torch.is_autocast_enabled(hidden.device.type):
        return FrozenHead.apply(hidden, head.weight, head.bias, targets, weights, shaping, chunk)
    total = hidden.new_zeros((), dtype=torch.float32)
    for first in range(0, len(hidden), chunk):
        part = (one[first : first + chunk] for one in (hidden, targets, weights))
        total = total + checkpoint(chunk_loss, head, shaping, *part, use_reentrant=False)
    return total


def chunk_loss(head: torch.nn.Module, shaping: Shaping, hidden, targets, weights) -> torch.Tensor:
    """The loss of some predictions through the head itself: it may be trained, or carry an adapter."""
    logits = shaping(head(hidden)).float()
    return (cross_entropy(logits, targets, reduction="none") * weights).sum()


class FrozenHead(torch.autograd.Function):
    """The loss behind an output layer that is not trained."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, shaping: Shaping, chunk: int):
        """Shapes as in prediction_loss; weight [vocabulary, size]."""
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for first in range(0, len(hidden), chunk):
            part = slice(first, first + chunk)
            logits = shaping(linear(hidden[part], weight, bias)).float()
            slope = None if shaping.cap is None else 1 - (logits / shaping.cap).square_()
            logs = torch.log_softmax(logits, dim=1)
            at = targets[part, None]
            total -= (logs.gather(1, at).squeeze(1) * weights[part]).sum()
            if gradient is None:
                continue
            chances = torch.exp(logs, out=logits)
            chances.scatter_add_(1, at, logs.new_full(at.shape, -1.0))
            chances.mul_(weights[part, None] / shaping.divisor)
            if slope is not None:
                chances.mul_(slope)
            torch.mm(chances.to(weight.dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, scale):
        """The gradient of the hidden states; the head has none."""
        (gradient,) = ctx.saved_tensors
        # Rounded to bfloat16, a step's scale would be off by up to 0.4 %, and with it every gradient.
        return (gradient.float() * scale).to(gradient.dtype), None, None, None, None, None, None
