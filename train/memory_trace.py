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

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from train.errors import InputError, problem
from train.fast.choose import choose_path
from train.fast.packs import Row, make_pack
from train.libraries import without_bitsandbytes
from train.model import is_linear, lora_config
from train.trainer import token_loss

# glibc maps blocks of 32 MiB and more one by one and gives them back; smaller ones leave holes that nothing fits in.
LARGE = 32 << 20
HOLES = 1.45  # resident bytes for a byte in small blocks: measured on real runs
# What a model raises that cannot be run without numbers (it branches on them) or not with fewer layers.
UNTRACEABLE = (RuntimeError, ValueError, AttributeError, TypeError, LookupError)


@dataclass(frozen=True)
class Traced:
    """Resident bytes beyond the weights: held when the forward pass ends, and on top of that at the worst moment."""

    forward: int
    working: int


@dataclass(frozen=True)
class Count:
    """Numbers of parameters. `linear`: frozen weights of linear modules but the output's, which qlora holds in 4 bits;
    `largest`: the largest of them; `layer`: the largest decoder layer; `outside`: all that is in no decoder layer;
    `edges`: rows and columns of all trained matrices, which is what Adafactor keeps."""

    total: int
    trained: int
    linear: int
    largest: int
    layer: int
    outside: int
    edges: int


class LiveBytes(TorchDispatchMode):
    """Counts the resident bytes of all tensors that operations make, until the last reference to each is gone."""

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
                size = resident(storage.nbytes())
                self.known[storage] = size
                weakref.finalize(storage, self.release, size)
                self.live += size
                self.peak = max(self.peak, self.live)
        return result

    def release(self, size: int) -> None:
        """A tensor is gone."""
        self.live -= size


def resident(size: int) -> int:
    """What a block of memory costs with its share of the allocator's holes."""
    return size if size >= LARGE else round(HOLES * size)


def read_config(config: dict[str, Any]) -> Any:
    """The configuration object of a config.json's content."""
    return AutoConfig.for_model(**config)


def shaped_model(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    """The model as train.model builds it for the recipe, on the meta device; qlora's base in `dtype`, not in 4 bits."""
    full, kernel = recipe.method == "full", recipe.attn_implementation
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32 if full else dtype, attn_implementation=kernel
            )
        except (ValueError, ImportError) as error:
            if "attention" not in str(error).lower() and kernel not in str(error):
                raise
            what = f"is {kernel}, which this model ({config.model_type}) does not run with here"
            fix = "set attn_implementation: eager"
            raise InputError(problem(recipe.model_name_or_path, "attn_implementation", what, fix)) from None
        if not full:
            model = with_adapter(recipe, model)
    return model.train()


def with_adapter(recipe: SimpleNamespace, model: torch.nn.Module) -> torch.nn.Module:
    """The frozen model with its adapter. Raises InputError where PEFT cannot put one on."""
    try:
        with without_bitsandbytes():  # weights without storage are never 4-bit
            from peft import get_peft_model

            return get_peft_model(model.requires_grad_(False), lora_config(recipe))
    except ValueError as error:
        fix = "name modules that PEFT can put an adapter on, or take method: full"
        place = recipe.model_name_or_path
        raise InputError(problem(place, "lora_target_modules", f"PEFT says: {error}", fix)) from None


def count_parameters(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> Count:
    """Count the parameters of the recipe's model, base and adapter."""
    model = shaped_model(recipe, config, dtype)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = list(model.parameters())  # tied weights once
    output = base.get_output_embeddings()
    linear = [
        module.weight.numel()
        for module in model.modules()
        if is_linear(module) and module is not output and not module.weight.requires_grad
    ]
    names = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    total = sum(parameter.numel() for parameter in parameters)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return Count(
        total=total,
        trained=sum(parameter.numel() for parameter in trained),
        linear=sum(linear),
        largest=max(linear, default=0),
        layer=max(sizes, default=total),
        outside=total - sum(sizes) if sizes else 0,
        edges=sum(sum(parameter.shape) if parameter.dim() > 1 else parameter.numel() for parameter in trained),
    )


def trace_training(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> Traced:
    """Forward and backward of one micro-batch at full length, extrapolated to the model's number of layers."""
    layers = config.get_text_config().num_hidden_layers
    few, more = traced_layers(config)
    try:
        one, two = (trace_micro_batch(recipe, shortened(config, count), dtype) for count in (few, more))
    except UNTRACEABLE:
        return guess(recipe, config, dtype)
    slope = (two.forward - one.forward) / (more - few) if more > few else 0
    return Traced(round(two.forward + slope * (layers - more)), two.working)


def trace_evaluation(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> int:
    """Bytes at the worst moment of a validation batch, which does not grow with the number of layers."""
    try:
        traced = trace_micro_batch(recipe, shortened(config, traced_layers(config)[0]), dtype, evaluation=True)
    except UNTRACEABLE:
        rows = max(recipe.per_device_eval_batch_size, recipe.per_device_train_batch_size)
        return 16 * rows * recipe.max_length * config.get_text_config().vocab_size
    return traced.forward + traced.working


def traced_layers(config: Any) -> tuple[int, int]:
    """Two numbers of layers to trace, from which the rest follows; where layers differ in kind, two of each."""
    text = config.get_text_config()
    kinds = len(set(getattr(text, "layer_types", None) or ()))
    return tuple(min(count * min(max(kinds, 1), 2), text.num_hidden_layers) for count in (1, 2))


def guess(recipe: SimpleNamespace, config: Any, dtype: torch.dtype) -> Traced:
    """The same from a formula, generous for a transformer: what Llama holds for a token, and a fifth more."""
    text, width = config.get_text_config(), dtype.itemsize
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    inner *= getattr(text, "num_experts_per_tok", None) or 1
    tokens = recipe.per_device_train_batch_size * recipe.max_length
    layer = (20 * hidden + 5 * inner) * width
    if recipe.attn_implementation == "eager":
        layer += text.num_attention_heads * recipe.max_length * (2 * width + 4)
    logits = tokens * text.vocab_size
    if recipe.gradient_checkpointing:
        held = tokens * text.num_hidden_layers * hidden * width
        return Traced(round(HOLES * held) + logits * width, 12 * logits + round(HOLES * tokens * layer))
    held = tokens * text.num_hidden_layers * layer
    return Traced(round(HOLES * held) + logits * width, 12 * logits)


def shortened(config: Any, layers: int) -> Any:
    """The configuration with fewer layers."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    kinds = getattr(text, "layer_types", None)
    text.num_hidden_layers = layers
    if kinds and len(text.layer_types) != layers:  # in some configurations it is computed
        text.layer_types = kinds[:layers]
    return short


def trace_micro_batch(recipe: SimpleNamespace, config: Any, dtype: torch.dtype, evaluation: bool = False) -> Traced:
    """One micro-batch of per_device_train_batch_size rows (for `evaluation` per_device_eval_batch_size).

    Packs are as large in validation as in training (train.arguments).
    """
    model = shaped_model(recipe, config, dtype)
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if recipe.method != "full":
            model.enable_input_require_grads()
    path = choose_path(recipe, model, dtype)
    own = evaluation and not path.packing
    rows = recipe.per_device_eval_batch_size if own else recipe.per_device_train_batch_size
    half = dtype == torch.bfloat16 and path.autocast
    with FakeTensorMode(allow_non_fake_inputs=True):
        place_on_cpu(model)
        if path.packing:
            return trace_pack(model, rows, recipe.max_length, half, evaluation)
        ids = torch.zeros(rows, recipe.max_length, dtype=torch.long)
        with LiveBytes() as count, torch.no_grad() if evaluation else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = model(input_ids=ids)
                forward = count.live
                narrow = outputs.logits if evaluation else None  # real runs show both formats alive, there alone
                if half:
                    outputs.logits = outputs.logits.float()  # as accelerate's mixed precision does
                loss = token_loss(outputs, ids, 1)
            if not evaluation:
                del outputs
                loss.backward()
            del narrow
    return Traced(forward, count.peak - forward)


def trace_pack(model: torch.nn.Module, rows: int, length: int, half: bool, evaluation: bool) -> Traced:
    """One pack of the greatest rows that it may hold, all of whose tokens carry loss."""
    row = Row(np.arange(length, dtype=np.int32), np.ones(length, np.uint8))
    pack = make_pack([row] * rows, share=False)
    with LiveBytes() as count, torch.no_grad() if evaluation else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(pack=pack)
            forward = count.live
        if not evaluation:
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
