"""Compute in float32 with a model whose weights stay in the format they have: a module's are converted while it runs.

Such a model takes the memory of a layer in float32 beside its weights, and transformers maps those from their file.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Alters the float32 copy of a parameter (the second) before its module runs; the first is the parameter itself.
Change = Callable[[torch.Tensor, torch.Tensor], None]


@contextmanager
def in_float32(model: torch.nn.Module, change: Change | None = None) -> Iterator[None]:
    """Within this, every module of `model` runs with float32 copies of its own parameters, altered by `change`.

    A module that uses another's parameters without running it finds them as they are; torch raises RuntimeError where
    their format does not fit.
    """
    own = {module: dict(module._parameters) for module in model.modules() if module._parameters}
    free = defaultdict(list)  # copies not in use, by shape: new memory for each would cost more than to convert

    def convert(module: torch.nn.Module, _: tuple) -> None:
        for name, parameter in own[module].items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if change is not None or parameter.dtype != torch.float32:
                copies = free[parameter.shape]
                copy = copies.pop() if copies else torch.empty_like(parameter, dtype=torch.float32)
                copy.copy_(parameter)
                if change is not None:
                    change(parameter, copy)
                module._parameters[name] = torch.nn.Parameter(copy, requires_grad=False)

    def restore(module: torch.nn.Module, *_: object) -> None:
        for name, parameter in own[module].items():
            copy, module._parameters[name] = module._parameters[name], parameter
            if copy is not parameter:
                free[parameter.shape].append(copy.data)

    handles = [module.register_forward_pre_hook(convert) for module in own]
    handles += [module.register_forward_hook(restore, always_call=True) for module in own]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
