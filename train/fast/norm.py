"""RMSNorm that keeps its input instead of float32 copies of it, and works in pieces that stay in the cache.

y = x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019, arXiv:1910.07467), computed in float32.
"""

import torch

PIECE = 1 << 18  # numbers worked on at a time: 1 MiB in float32


def lean_norms(model: torch.nn.Module) -> int:
    """Let every frozen RMSNorm that is known compute that way; returns how many."""
    found = 0
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and type(module).__module__.startswith("transformers."):
            centred = kind(module)
            if centred is not None:
                module.forward = LeanForward(module, centred)
                found += 1
    return found


def kind(module: torch.nn.Module) -> bool | None:
    """Whether the weight is held as its distance from 1 (Gemma); None for a norm of another kind, tried on numbers."""
    weight = getattr(module, "weight", None)
    eps = epsilon(module)
    if weight is None or eps is None or weight.requires_grad or weight.dim() != 1:
        return None
    if weight.is_meta:  # a model of which only the memory is reckoned
        return False
    x = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted = module(x)
        for centred in (False, True):
            if torch.allclose(Norm.apply(x, weight, eps, centred), wanted, rtol=1e-2, atol=1e-5):
                return centred
    return None


def epsilon(module: torch.nn.Module) -> float | None:
    """The norm's epsilon, which families name differently; None where it has none."""
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


class LeanForward:
    """Takes the place of a norm's forward."""

    def __init__(self, module: torch.nn.Module, centred: bool):
        self.module, self.original, self.centred = module, module.forward, centred
        self.eps = epsilon(module)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(x.device.type):
            return self.original(x)
        return Norm.apply(x, self.module.weight, self.eps, self.centred)


class Norm(torch.autograd.Function):
    """The operation of this module."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, centred: bool):
        """x [..., size], weight [size]; returns the like of x."""
        rows = x.reshape(-1, x.shape[-1])
        y, scales = torch.empty_like(rows), rows.new_empty((len(rows), 1), dtype=torch.float32)
        for part in pieces(rows):
            wide = rows[part].to(torch.float32, copy=True)
            scales[part] = (wide.square().mean(-1, keepdim=True) + eps).rsqrt_()
            wide.mul_(scales[part])
            y[part] = wide.mul_(1 + weight.float()) if centred else wide.to(x.dtype).mul_(weight)
        ctx.save_for_backward(x, scales, weight)
        ctx.centred = centred
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        """The gradient of x."""
        x, scales, weight = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        weight = weight.float() + 1 if ctx.centred else weight.float()
        gradient = gradient.reshape(rows.shape)
        result = torch.empty_like(rows)
        for part in pieces(rows):
            wide = gradient[part].to(torch.float32, copy=True).mul_(weight)
            unit = rows[part].to(torch.float32, copy=True).mul_(scales[part])
            mean = (wide * unit).mean(-1, keepdim=True)
            result[part] = wide.sub_(unit.mul_(mean)).mul_(scales[part])
        return result.view(x.shape), None, None, None


def pieces(rows: torch.Tensor) -> list[slice]:
    """Slices of rows that are small enough."""
    step = max(1, PIECE // rows.shape[-1])
    return [slice(first, first + step) for first in range(0, len(rows), step)]
