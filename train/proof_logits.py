"""The last part of a merge's proof: the merged model and base + adapter, run by transformers and PEFT, agree."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.adapter import Adapter
from train.base_model import Base
from train.errors import InputError, problem
from train.hardware import memory_available
from train.in_float32 import Change, in_float32
from train.libraries import without_bitsandbytes
from train.safetensors_io import FLOAT_DTYPES

NAME = "logits agree with base + adapter"
PROMPTS = [
    "The capital of France is",
    "Summarize this dialogue in one sentence.\nAnna: Are you coming tonight?\nBen: Yes, at eight.\nSummary:",
    "Question: A train covers 120 km in 90 minutes. How fast is it?\nAnswer:",
    "Patients with high blood pressure should",
]
# Of each prompt the last 32 tokens, and of these the last 16 positions' logits: time is proportional to the tokens, and
# what lies further back is context alone.
MAX_PROMPTS, MAX_TOKENS, KEPT = 8, 32, 16
# The merged weights' rounding is one draw of noise; the tolerance is this many times the effect of another draw.
NOISE_FACTOR = 4.0
# float32 arithmetic alone: W x + s B (A x) and W' x are summed up differently.
FLOOR = 1e-6
# The difference may be at most this share of what the adapter changes; else rounding has eaten the training.
EFFECT_SHARE = 0.25
FORWARD_BYTES = 1 << 28  # buffers besides the weights
EXPONENT = 0x7F800000  # of a float32


def compare_logits(
    base: Base, adapter: Adapter, merged: Path, prompts: list[str] | None, *, skip: bool
) -> dict[str, Any]:
    """Compare the logits of base, base + adapter and merged on prompts, computed in float32, one model after the other.

    The tolerance is measured: rounding errors of the size that the merged weights carry are drawn anew and added to
    them, and their effect on the logits is what rounding costs. Differences are root mean squares relative to the
    logits' own (less their mean per position, which means nothing). Raises InputError when they do not agree.
    """
    if skip:
        return {"check": NAME, "result": "skipped", "figure": "skipped as asked (--skip-logits)"}
    batches, kind = token_ids(merged, base, prompts)
    dtype = weights_dtype(base)
    with torch.inference_mode():
        plain, adapted = base_logits(base.path, adapter.path, dtype, batches)
        gc.collect()  # one model at a time in memory
        model = load(merged, dtype)
        result = forward(model, batches)
        noisy = forward(model, batches, rounding_noise(model, adapter))
    error, noise, effect = distance(result, adapted), distance(noisy, result), distance(adapted, plain)
    agreement = float((result.argmax(-1) == adapted.argmax(-1)).double().mean())
    figure = (f"{error:.2e} relative difference on {kind}; rounding alone makes {noise:.2e}, the adapter {effect:.2e}; "
              f"same first choice at {agreement:.1%} of {len(result)} positions")  # fmt: skip
    tolerance = NOISE_FACTOR * noise + FLOOR
    if not error <= tolerance:  # also when it is NaN
        what = f"the logits differ from base + adapter by more than rounding explains: {figure}"
        raise InputError(problem(merged, "", what, "report this model and adapter: the formula does not fit them"))
    if not error <= EFFECT_SHARE * effect:
        what = f"rounding is no longer small against what the adapter changes: {figure}"
        raise InputError(problem(merged, "", what, "train longer, or merge into a float32 copy of the base"))
    numbers = {"error": error, "tolerance": tolerance, "rounding": noise, "adapter_effect": effect}
    return {"check": NAME, "result": "passed", "figure": figure, **numbers, "top1_agreement": agreement}


def check_memory(base: Base, adapter: Adapter) -> None:
    """Raise InputError where the base, its largest weight in float32 and the adapter do not fit into what is free."""
    sizes = [tensor.rows * tensor.row_elements for tensor in base.tensors.values()]
    # Twice the largest: a module may have more than one of that size.
    refuse_beyond_memory(
        base.path, weights_dtype(base).itemsize * sum(sizes) + 2 * 4 * max(sizes) + 3 * adapter.weights.size
    )


def refuse_beyond_memory(path: Path | str, weights: int) -> None:
    """Raise InputError where bytes of weights and the buffers of a forward do not fit into what is free."""
    need, free = weights + FORWARD_BYTES, memory_available()
    if need > free:
        what = f"comparing logits needs {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
        fix = "free memory, use a larger machine, or leave this check out: --skip-logits"
        raise InputError(problem(path, "", what, fix))


def weights_dtype(base: Base) -> torch.dtype:
    """The format that holds every weight of the base as it is: its only one, or float32 where it has several."""
    held = {tensor.dtype for tensor in base.tensors.values()} & FLOAT_DTYPES.keys()
    return FLOAT_DTYPES[held.pop()] if len(held) == 1 else torch.float32


def token_ids(merged: Path, base: Base, prompts: list[str] | None) -> tuple[list[torch.Tensor], str]:
    """Token ids [1, length] of each prompt, and what they are; drawn at random where the model has no tokenizer.

    Raises InputError where the tokenizer knows tokens that the model does not.
    """
    from transformers import AutoTokenizer

    size = base.config.get("vocab_size") or base.config["text_config"]["vocab_size"]
    if (merged / "tokenizer_config.json").is_file() or (merged / "tokenizer.json").is_file():
        try:
            tokenizer = AutoTokenizer.from_pretrained(merged, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            what = f"the tokenizer cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}"
            fix = "repair the tokenizer's files in the base or adapter, or leave this check out: --skip-logits"
            raise InputError(problem(merged, "", what, fix)) from None
        chosen = (prompts or PROMPTS)[:MAX_PROMPTS]
        batches = [tokenizer(text, return_tensors="pt").input_ids[:, -MAX_TOKENS:].long() for text in chosen]
        batches = [ids for ids in batches if ids.numel()]
        largest = max((int(ids.max()) for ids in batches), default=0)
        if largest >= size:
            what = f"gives token {largest}, but the model has {size} tokens"
            fix = "carry along the tokenizer that the model was trained with (the adapter's directory has one)"
            raise InputError(problem(merged / "tokenizer.json", "", what, fix))
        if batches:
            return batches, f"{len(batches)} prompts"
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(size, (1, 24), generator=generator) for _ in PROMPTS], "random tokens (no tokenizer)"


def load(path: Path, dtype: torch.dtype) -> Any:
    """A model with weights of `dtype`, ready to run."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True).eval()


def forward(model: Any, batches: list[torch.Tensor], change: Change | None = None) -> torch.Tensor:
    """The logits of the last positions of every prompt, less their mean: float32 [positions, vocabulary].

    Computed in float32, with the weights altered by `change` (see train.in_float32). A model whose modules use each
    other's weights cannot run like that: it becomes one of float32. Raises InputError where the memory for it lacks.
    """
    try:
        with in_float32(model, change):
            return last_logits(model, batches)
    except RuntimeError:
        if model.dtype == torch.float32:
            raise
        refuse_beyond_memory(model.name_or_path, 4 * sum(parameter.numel() for parameter in model.parameters()))
        with in_float32(model.float(), change):
            return last_logits(model, batches)


def last_logits(model: Any, batches: list[torch.Tensor]) -> torch.Tensor:
    """What `forward` returns, in the format that the model computes in.

    All prompts go through the model at once, so that every weight is fetched from memory once. They are padded at their
    ends, which a causal model does not see before; its head computes the positions that are kept and no others.
    """
    kept = [range(max(0, ids.shape[1] - KEPT), ids.shape[1]) for ids in batches]
    prompts = torch.tensor([prompt for prompt, places in enumerate(kept) for _ in places])
    places = torch.tensor([place for one in kept for place in one])
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][prompts, places].unsqueeze(0),))
    try:
        padded = torch.nn.utils.rnn.pad_sequence([ids[0] for ids in batches], batch_first=True)
        logits = model(input_ids=padded).logits[0].float()
    finally:
        hook.remove()
    return logits - logits.mean(-1, keepdim=True)


def base_logits(
    base: Path, adapter: Path, dtype: torch.dtype, batches: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the base and of base + adapter, by PEFT, each [positions, vocabulary]."""
    with without_bitsandbytes():
        from peft import PeftModel

        model = PeftModel.from_pretrained(load(base, dtype), adapter).eval()
    with model.disable_adapter():
        plain = forward(model, batches)
    return plain, forward(model, batches)


def rounding_noise(model: Any, adapter: Adapter) -> Change:
    """What adds to the float32 copy of a target a rounding error drawn anew: even over half a step to either side."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    drawn_for = {parameters[target.parameter]: (seed, target) for seed, target in enumerate(adapter.targets)}

    def add(parameter: torch.Tensor, values: torch.Tensor) -> None:
        if parameter not in drawn_for:
            return
        seed, target = drawn_for[parameter]
        info = torch.finfo(FLOAT_DTYPES[target.tensor.dtype])
        # Half a step of float32 would be rounded away; a whole one moves about every second value to its neighbour.
        width = 2.0 if target.tensor.dtype == "F32" else 1.0
        generator = np.random.Generator(np.random.SFC64(seed))
        for rows in values.split(1024):  # so that the buffers stay small
            power = (rows.view(torch.int32) & EXPONENT).view(torch.float32)  # the power of two below each weight
            drawn = generator.integers(-(1 << 15), 1 << 15, size=rows.shape, dtype=np.int16)
            rows.addcmul_(power, torch.from_numpy(drawn), value=info.eps * width / (1 << 16))

    return add


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference, relative to that of `other`."""
    return float((one - other).double().square().sum().sqrt() / other.double().square().sum().sqrt())
