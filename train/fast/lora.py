"""A linear layer and its LoRA pair as one operation: the low-rank activation is saved instead of computed again.

y = x W^T + b + s (x A^T) B^T, with A [r, in] and B [out, r] kept in float32 and multiplied in the base's number format;
what is saved is x, which neighbouring layers share, and x A^T.
"""

from typing import Any

import torch
from torch.nn.functional import linear


def fuse_adapters(model: torch.nn.Module) -> tuple[int, list[str]]:
    """Let every plain LoRA layer of PEFT compute as one operation. Returns how many do, and why others do not."""
    from peft.tuners.lora import LoraLayer

    fused, reasons = 0, []
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            reason = obstacle(layer)
            if reason:
                reasons.append(f"{name.rpartition('.')[2]}: {reason}")
            else:
                layer.forward = FusedForward(layer)
                fused += 1
    return fused, sorted(set(reasons))


def obstacle(layer: Any) -> str | None:
    """Why a layer cannot be fused, None if it can."""
    base = layer.get_base_layer()
    if layer.lora_variant:
        return "DoRA" if any(layer.use_dora.values()) else "a variant of LoRA"
    if list(layer.lora_A) != ["default"]:
        return type(base).__name__
    if type(base) is not torch.nn.Linear and type(base).__name__ != "Linear4bit":
        return type(base).__name__
    pair = (layer.lora_A["default"], layer.lora_B["default"])
    if any(type(one) is not torch.nn.Linear or one.bias is not None for one in pair):
        return "LoRA with a bias"
    return None


class FusedForward:
    """Takes the place of a PEFT layer's forward."""

    def __init__(self, layer: Any):
        self.layer, self.original = layer, layer.forward

    def __call__(self, x: torch.Tensor, *arguments: Any, **others: Any) -> torch.Tensor:
        if arguments or others or not self.applies():
            return self.original(x, *arguments, **others)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return Fused.apply(x, *self.operands())

    def applies(self) -> bool:
        """Whether the adapter is in use and not in the weights."""
        return not self.layer.merged and not self.layer.disable_adapters

    def operands(self) -> tuple:
        """Fused's operands but x."""
        base, dropout = self.layer.get_base_layer(), self.layer.lora_dropout["default"]
        rate = dropout.p if isinstance(dropout, torch.nn.Dropout) and self.layer.training else 0.0
        pair = self.layer.lora_A["default"].weight, self.layer.lora_B["default"].weight
        return base.weight, base.bias, *pair, self.layer.scaling["default"], rate


class Fused(torch.autograd.Function):
    """The operation of this module; the base's weight and bias are frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale: float, rate: float):
        """x [..., in], weight [out, in] (or packed in 4 bits), a [r, in], b [out, r]; returns [..., out]."""
        flat = x.reshape(-1, x.shape[-1])
        y, low, kept = multiply(flat, weight, bias, a, b, scale, rate)
        ctx.save_for_backward(x, low, kept, weight, a, b)
        ctx.scale, ctx.rate = scale, rate
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient):
        """Gradients of x, a and b; that of x only where something below is trained."""
        x, low, kept, weight, a, b = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        below, *pair = gradients(gradient, flat, low, kept, weight, a, b, ctx.scale, ctx.rate, ctx.needs_input_grad[0])
        return None if below is None else below.view(x.shape), None, None, *pair, None, None


def multiply(flat, weight, bias, a, b, scale: float, rate: float):
    """y [n, out], the low-rank activation [n, r] and what dropout keeps (None without) for `flat` [n, in]."""
    kept = None
    if rate:
        kept = torch.empty(flat.shape, dtype=torch.bool, device=flat.device).bernoulli_(1 - rate)
    low = dropped(flat, kept, rate) @ a.to(flat.dtype).t()
    y = linear(flat, dense(weight, flat.dtype), None if bias is None else bias.to(flat.dtype))
    return y.addmm_(low, b.to(flat.dtype).t(), alpha=scale), low, kept


def gradients(gradient, flat, low, kept, weight, a, b, scale: float, rate: float, wants_x: bool):
    """Gradients of `flat` (None where it is not wanted), a and b."""
    gradient = gradient.reshape(-1, gradient.shape[-1]).to(flat.dtype)
    low_gradient = (gradient @ b.to(flat.dtype)).mul_(scale)
    a_gradient = low_gradient.t() @ dropped(flat, kept, rate)
    b_gradient = (gradient.t() @ low).mul_(scale)
    x_gradient = None
    if wants_x:
        x_gradient = gradient @ dense(weight, flat.dtype)
        if kept is None:
            x_gradient.addmm_(low_gradient, a.to(flat.dtype))
        else:
            x_gradient.add_(dropped(low_gradient @ a.to(flat.dtype), kept, rate))
    return x_gradient, a_gradient.to(a.dtype), b_gradient.to(b.dtype)


def dropped(x: torch.Tensor, kept: torch.Tensor | None, rate: float) -> torch.Tensor:
    """x with dropout of that rate, where `kept` says what stays."""
    return x if kept is None else (x * kept).mul_(1 / (1 - rate))


def dense(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in] in the number format of the product; unpacked where it is held in 4 bits."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, state).to(dtype)
