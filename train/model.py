"""Load the base model for a method and give it what is trained: an adapter, or every weight."""

import difflib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from train.errors import InputError, problem
from train.libraries import without_bitsandbytes


def load_model(directory: Path, dtype: torch.dtype, attn_implementation: str = "sdpa", quantization_config=None):
    """The base model on the CPU (or the process's GPU), weights in `dtype`, from safetensors alone, no remote code."""
    return AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=attn_implementation,
        quantization_config=quantization_config,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )


def build_trainable(recipe: SimpleNamespace, directory: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model as the recipe's method trains it.

    lora, qlora: base frozen in `dtype` (4-bit for qlora), adapter in float32. full: every weight in float32, computed
    in `dtype` by autocast, since bfloat16 weights would swallow small updates.
    """
    if recipe.method == "full":
        model = load_model(directory, torch.float32, recipe.attn_implementation)
    else:
        config = four_bit(recipe, dtype) if recipe.method == "qlora" else None
        base = load_model(directory, dtype, recipe.attn_implementation, config)
        keep_trainable(base)
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        with nullcontext() if config else without_bitsandbytes():
            from peft import get_peft_model

            model = get_peft_model(base, lora_config(recipe))
    model.config.use_cache = False
    return model


def four_bit(recipe: SimpleNamespace, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How qlora holds the base: 4-bit weights, products in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=recipe.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_trainable(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference, after which they give no gradients.

    bitsandbytes 0.50 does so at the first forward in evaluation mode on a CPU with AVX512_BF16, and never back: a
    validation before or between training steps would leave an adapter that silently learns nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def lora_config(recipe: SimpleNamespace):
    """PEFT's configuration of the adapter, in the recipe's own words."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=recipe.lora_target_modules,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        rank_pattern=recipe.rank_pattern,
        alpha_pattern=recipe.alpha_pattern,
        modules_to_save=recipe.modules_to_save or None,
    )


def empty_model(directory: Path) -> PreTrainedModel:
    """The model's modules and shapes without its weights (on the meta device): fast, and no memory."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def check_targets(recipe: SimpleNamespace, model: PreTrainedModel, where: object) -> list[str]:
    """Each name of lora_target_modules, modules_to_save and the patterns must match a module. Returns the problems.

    Tied embeddings cannot be trained apart: an adapter on one of the two names would change both.
    """
    if recipe.method == "full":
        return []
    linear = {name for name, module in model.named_modules() if is_linear(module)}
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    problems = []
    targets = [] if recipe.lora_target_modules == "all-linear" else recipe.lora_target_modules
    for target in targets:
        if not any(matches(name, target) for name in linear):
            near = difflib.get_close_matches(target, leaves, n=1)
            fix = f"write {near[0]}" if near else f"take some of: {', '.join(leaves)} (or all-linear)"
            problems.append(
                problem(where, "lora_target_modules", f"{target} matches no linear module of the model", fix)
            )
    every = [name for name, _ in model.named_modules()]
    for module in recipe.modules_to_save:
        if not any(matches(name, module) for name in every):
            fix = f"take a module of the model, such as {', '.join(leaves[:3])}"
            problems.append(problem(where, "modules_to_save", f"{module} is no module of the model", fix))
    if model.config.tie_word_embeddings:
        for key, names in (("lora_target_modules", targets), ("modules_to_save", recipe.modules_to_save)):
            for name in set(names) & {"lm_head", "embed_tokens"}:
                what = f"{name} shares its weights with the other end of the model (tied embeddings)"
                problems.append(problem(where, key, what, f"leave {name} out"))
    return problems


def is_linear(module: torch.nn.Module) -> bool:
    """Whether PEFT can put a LoRA pair beside this module: a linear layer, or GPT-2's Conv1D."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def matches(name: str, target: str) -> bool:
    """PEFT's rule for a list of names: the whole path, or its end after a dot."""
    return name == target or name.endswith(f".{target}")


def trainable_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trained and all parameters; a 4-bit weight counts with its original number."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(
        parameter.quant_state.shape.numel() if getattr(parameter, "quant_state", None) else parameter.numel()
        for parameter in model.parameters()
    )
    return trained, total


def require_ipex(where: object = "recipe") -> None:
    """Fail early, in words, where `use_ipex: true` cannot hold."""
    try:
        import intel_extension_for_pytorch  # noqa: F401
    except (ImportError, OSError, SystemExit) as error:
        what = f"is true, but Intel's extension does not load here: {error}"
        fix = "it ended with torch 2.8: run the intel image, or set use_ipex: false (stock PyTorch uses AMX by itself)"
        raise InputError(problem(where, "use_ipex", what, fix)) from None


def flop_per_token(recipe: SimpleNamespace, model, parameters: int) -> tuple[float, float]:
    """Floating-point operations of a token in the layers, and of a prediction in the output layer.

    Forward 2N, gradient of the inputs 2N, gradient of the weights 2N where they are trained (full), and another
    forward with gradient checkpointing; N counts the weights that multiply. Attention's scores are left out.
    """
    embedding, times = model.get_input_embeddings().weight.numel(), 6 if recipe.method == "full" else 4
    layers = parameters - embedding * (1 if model.config.tie_word_embeddings else 2)
    return layers * (times + (2 if recipe.gradient_checkpointing else 0)), embedding * times
