"""How much memory a training will need, known before a weight is read. Used by the checks before a run.

Parameters are counted on a model without storage; activations are traced on it (train.memory_trace). What no count
can know, the processes' own libraries and the C allocator's holes, is two constants measured on real runs.
"""

import math
from collections.abc import Iterator
from copy import copy
from types import SimpleNamespace
from typing import Any

import torch

from train.errors import InputError, problem

PROCESS = 600_000_000  # Python with torch, transformers, PEFT and datasets loaded, resident
ALLOCATOR = 1.3  # resident bytes for a byte of activations: glibc keeps holes between freed tensors
FOUR_BIT = 0.5 + 1 / 64  # a weight and its share of the 8-bit scale of its 64-block
FOUR_BIT_PLAIN = 0.5 + 4 / 64  # without bnb_4bit_use_double_quant: a 32-bit scale
MOMENTS = {"adamw_torch": 8, "adamw_torch_fused": 8, "sgd": 0}  # float32 bytes of optimiser state a trained weight
PARTS = ("weights", "adapter", "gradients", "gradient_buckets", "optimizer", "gathered", "activations", "process")


def estimate(recipe: SimpleNamespace, config: dict[str, Any], ranks: int, dtype_bytes: int) -> dict[str, Any]:
    """Bytes that each rank needs, by purpose, at the moments that decide; from config.json's content alone.

    `per_rank` is the greatest of `training`, `validation`, `loading` and `saving`, `all_ranks` that of all ranks.
    Resident size measured in real runs: see tests/unit/test_memory.py. Pages of weight files that were converted
    while loading are not counted, since the kernel takes them back.
    """
    from train.memory_trace import count_parameters, read_config, trace_evaluation, trace_or_guess

    dtype = torch.bfloat16 if dtype_bytes == 2 else torch.float32
    shape = read_config(config)
    count = count_parameters(recipe, shape, dtype)
    traced = trace_or_guess(trace_evaluation if False else None, recipe, shape, dtype)
    raise NotImplementedError(traced, count)
