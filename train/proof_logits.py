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
from train.libraries import without_bitsandbytes
from train.safetensors_io import FLOAT_DTYPES

NAME = "logits agree with base + adapter"
PROMPTS = [
    "The capital of France is",
    "Summarize this dialogue in one sentence.\nAnna: Are you coming tonight?\nBen: Yes, at eight.\nSummary:",
    "Question: A train covers 120 km in 90 minutes. How fast is it?\nAnswer:",
    "Patients with high blood pressure should",
]
MAX_PROMPTS, MAX_TOKENS, KEPT = 8, 256, 16  # logits are kept for the last 16 positions of each prompt
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
    """Compare the logits of base, base + adapter and merged on prompts, in float32, one model after the other.

    The tolerance is measured: rounding errors of the size that the merged weights carry are drawn anew and added to
    them, and their effect on the logits is what rounding costs. Differences are root mean squares relative to the
    logits' own (less their mean per position, which means nothing). Raises InputError when they do not agree.
    """
    if skip:
        return {"check": NAME, "result": "skipped", "figure": "skipped as asked (--skip-logits)"}
    batches, kind = token_ids(merged, base, prompts)
    with torch.inference_mode():
        plain, adapted = base_logits(base.path, adapter.path, batches)
        gc.collect()  # one model at a time in memory
        model = load(merged)
        result = forward(model, batches)
        add_rounding_noise(model, adapter)
        noisy = forward(model, batches)
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
    """Raise InputError where the base in float32 and the adapter do not fit into the memory that is free."""
    parameters = sum(tensor.rows * tensor.row_elements for tensor in base.tensors.values())
    need = int(4 * parameters * 1.1) + 3 * adapter.weights.size + FORWARD_BYTES
    free = memory_available()
    if need > free:
        what = f"comparing logits needs {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
        fix = "free memory, use a larger machine, or leave this check out: --skip-logits"
        raise InputError(problem(base.path, "", what, fix))


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


def load(path: Path) -> Any:
    """A model in float32, ready to run."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()


def forward(model: Any, batches: list[torch.Tensor]) -> torch.Tensor:
    """The logits of the last positions of every prompt, less their mean: float32 [positions, vocabulary].

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


def base_logits(base: Path, adapter: Path, batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the base and of base + adapter, by PEFT, each [positions, vocabulary]."""
    with without_bitsandbytes():
        from peft import PeftModel

        model = PeftModel.from_pretrained(load(base), adapter).eval()
    with model.disable_adapter():
        plain = forward(model, batches)
    return plain, forward(model, batches)


def add_rounding_noise(model: Any, adapter: Adapter) -> None:
    """Add to every target of a merged model a rounding error drawn anew: even over half a step to either side."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    generator = np.random.Generator(np.random.SFC64(0))
    for target in adapter.targets:
        info = torch.finfo(FLOAT_DTYPES[target.tensor.dtype])
        # Half a step of float32 would be rounded away; a whole one moves about every second value to its neighbour.
        width = 2.0 if target.tensor.dtype == "F32" else 1.0
        for weight in parameters[target.parameter].split(1024):  # rows, so that the buffers stay small
            power = (weight.view(torch.int32) & EXPONENT).view(torch.float32)  # the power of two below each weight
            drawn = generator.integers(-(1 << 15), 1 << 15, size=weight.shape, dtype=np.int16)
            weight.addcmul_(power, torch.from_numpy(drawn), value=info.eps * width / (1 << 16))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference, relative to that of `other`."""
    return float((one - other).double().square().sum().sqrt() / other.double().square().sum().sqrt())
