"""Run one micro-batch of a training without its numbers, and count the bytes that are alive. Used by train.memory.

The model has its true shapes but no storage (meta device and torch's FakeTensorMode), so a step of a 70-billion
parameter model is traced in seconds and in no memory. What is counted is what PyTorch and PEFT really do (autocast's
copies, LoRA's saved inputs, the attention kernel, recomputation), so no formula has to follow their releases.
"""

import copy
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from train.model import lora_config
from train.trainer import token_loss

TRACED_LAYERS = (2, 4)  # four, so that a pattern of two kinds of layers is seen twice; the rest is a straight line


@dataclass(frozen=True)
class Traced:
    """Bytes beyond the weights: held at the end of the forward pass, and on top of that at the worst moment."""

    forward: int
    working: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, from their making until the last reference is gone."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self.known:
                self.known[storage] = size = storage.nbytes()
                weakref.finalize(storage, self.release, size)
                self.live += size
                self.peak = max(self.peak, self.live)
        return result

    def release(self, size: int) -> None:
        """A tensor is gone."""
        self.live -= size


def read_config(config: dict[str, Any]) -> Any:
    """The configuration object of a config.json's content."""
    return AutoConfig.for_model(**config)


def shaped_model(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    """The model as train.model builds it for the recipe, on the meta device; qlora's base in `dtype`, not in 4 bits."""
    full = recipe.method == "full"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if full else dtype, attn_implementation=recipe.attn_implementation
        )
        if not full:
            from peft import get_peft_model

            model = get_peft_model(model.requires_grad_(False), lora_config(recipe))
    return model.train()


def trace_training(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> Traced:
    """Forward and backward of one micro-batch at full length, extrapolated to the model's number of layers."""
    layers = config.get_text_config().num_hidden_layers
    few, more = (min(count, layers) for count in TRACED_LAYERS)
    one, two = (trace_micro_batch(recipe, shortened(config, count), dtype) for count in (few, more))
    slope = (two.forward - one.forward) / (more - few) if more > few else 0
    return Traced(round(two.forward + slope * (layers - more)), two.working)


def trace_evaluation(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> int:
    """Bytes at the worst moment of a validation batch, which does not grow with the number of layers."""
    few = min(TRACED_LAYERS[0], config.get_text_config().num_hidden_layers)
    traced = trace_micro_batch(recipe, shortened(config, few), dtype, evaluation=True)
    return traced.forward + traced.working


def shortened(config: Any, layers: int) -> Any:
    """The configuration with fewer layers."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return short


def trace_micro_batch(recipe: SimpleNamespace, config: Any, dtype: torch.dtype, evaluation: bool = False) -> Traced:
    """One micro-batch of per_device_train_batch_size rows (for `evaluation` per_device_eval_batch_size)."""
    model = shaped_model(recipe, config, dtype)
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if recipe.method != "full":
            model.enable_input_require_grads()
    rows = recipe.per_device_eval_batch_size if evaluation else recipe.per_device_train_batch_size
    half = dtype == torch.bfloat16
    with FakeTensorMode(allow_non_fake_inputs=True):
        place_on_cpu(model)
        ids = torch.zeros(rows, recipe.max_length, dtype=torch.long)
        with LiveBytes() as count, torch.no_grad() if evaluation else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = model(input_ids=ids)
                forward = count.live
                if half:
                    outputs.logits = outputs.logits.float()  # as accelerate's mixed precision does
                loss = token_loss(outputs, ids, 1)
            if not evaluation:
                del outputs
                loss.backward()
    return Traced(forward, count.peak - forward)


def place_on_cpu(model: torch.nn.Module) -> None:
    """Give every parameter and buffer a fake CPU tensor of its shape: autocast acts by device, and not on meta."""
    placed: dict[int, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and id(old) not in placed:
                new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                placed[id(old)] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            if old is not None:
                module._parameters[name] = placed[id(old)]
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device="cpu")
