"""The gated feed-forward block, down(act(gate(x)) * up(x)): of its four large activations two are kept.

act(gate) and the product are worked out again in the backward pass: two passes over memory instead of two tensors kept.
"""

import torch

from train.fast.lora import FusedForward, gradients, multiply

PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


def lean_feed_forwards(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Let every block of this kind whose `down_proj` has a fused adapter keep less; returns how many do."""
    blocks = [module for module in model.modules() if all(hasattr(module, part) for part in PARTS)]
    lean = [block for block in blocks if isinstance(block.down_proj.forward, FusedForward) and is_gated(block, dtype)]
    for block in lean:
        block.forward = LeanForward(block)
    return len(lean)


def is_gated(block: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Whether the block computes just that, tried on numbers."""
    device = next(block.parameters()).device
    if device.type == "meta":  # a model of which only the memory is reckoned
        return True
    x = torch.randn(1, 3, block.gate_proj.in_features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with torch.no_grad():
        return torch.equal(block(x), block.down_proj(block.act_fn(block.gate_proj(x)) * block.up_proj(x)))


class LeanForward:
    """Takes the place of a block's forward."""

    def __init__(self, block: torch.nn.Module):
        self.block, self.original = block, block.forward

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        down: FusedForward = self.block.down_proj.forward
        if not down.applies() or torch.is_autocast_enabled(x.device.type):
            return self.original(x)
        gate, up = self.block.gate_proj(x), self.block.up_proj(x)
        return GatedDown.apply(gate, up, self.block.act_fn, *down.operands())


class GatedDown(torch.autograd.Function):
    """act(gate) * up through a linear layer with its LoRA pair."""

    @staticmethod
    def forward(ctx, gate, up, act, weight, bias, a, b, scale: float, rate: float):
        """gate and up [..., in]; the rest as in train.fast.lora.Fused. Returns [..., out]."""
        activated = act(gate)
        flat = (activated * up if activated is gate else activated.mul_(up)).reshape(-1, gate.shape[-1])
        y, low, kept = multiply(flat, weight, bias, a, b, scale, rate)
        ctx.save_for_backward(gate, up, low, kept, weight, a, b)
        ctx.act, ctx.scale, ctx.rate = act, scale, rate
        return y.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient):
        """Gradients of gate, up, a and b; those of gate and up only where something below is trained."""
        gate, up, low, kept, weight, a, b = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            activated = ctx.act(leaf)
        flat = (activated.detach() * up).reshape(-1, gate.shape[-1])
        wants_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        product, *pair = gradients(gradient, flat, low, kept, weight, a, b, ctx.scale, ctx.rate, wants_x)
        del flat
        if not wants_x:
            return None, None, None, None, None, *pair, None, None
        product = product.view(gate.shape)
        (gate_gradient,) = torch.autograd.grad(activated, leaf, product * up)
        return gate_gradient, product.mul_(activated.detach()), None, None, None, *pair, None, None
