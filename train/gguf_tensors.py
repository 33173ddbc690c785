"""A model's weights and shape in GGUF's words: tensor names, the layout llama.cpp computes with, its metadata.

What differs from the safetensors is what llama.cpp's own convert_hf_to_gguf.py changes: Llama's and Mistral's rows of
q and k are interleaved for its rotary embedding, Gemma's norms hold 1 + w, and one-dimensional tensors are float32.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from train.errors import InputError, problem

# model_type: llama.cpp's name. Mistral without a window is Llama; each is proven by tests/unit/test_gguf.py.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
                 "gemma3_text": "gemma3"}  # fmt: skip
ROPE_TYPES = ("default", "linear", "llama3")
ROPE_FREQS = "rope_freqs.weight"


def check_architecture(config: Any, where: Path) -> list[str]:
    """What forbids a GGUF of this model (transformers' config), each a message."""
    kind, fix = config.model_type, "serve the merged model as it is, or convert it with llama.cpp's own script"
    if kind not in ARCHITECTURES:
        what = f"{kind} cannot be exported to GGUF; what can: {', '.join(ARCHITECTURES)}"
        return [problem(where / "config.json", "model_type", what, fix)]
    problems = []
    ropes = {rope.get("rope_type", "default") for rope in ropes_of(config)}
    for rope in sorted(ropes - set(ROPE_TYPES)):
        what = f"{rope} is not converted; what is: {', '.join(ROPE_TYPES)}"
        problems.append(problem(where / "config.json", "rope_type", what, fix))
    if ARCHITECTURES[kind] in ("llama", "qwen2", "qwen3") and windowed(config):
        what = f"{config.sliding_window}: llama.cpp computes this architecture without a window"
        problems.append(problem(where / "config.json", "sliding_window", what, fix))
    for key in ("attention_bias", "mlp_bias"):
        if getattr(config, key, False):
            what = "true: only Qwen 2's own biases are converted"
            problems.append(problem(where / "config.json", key, what, fix))
    return problems


def windowed(config: Any) -> bool:
    """Whether some layer of the model looks back only so far."""
    used = getattr(config, "use_sliding_window", True)
    return bool(used and getattr(config, "sliding_window", None))


def ropes_of(config: Any) -> list[dict[str, Any]]:
    """The rotary embeddings: one, or by kind of layer (Gemma 3) the global one first."""
    rope = config.rope_parameters or {}
    if "full_attention" in rope:
        return [rope["full_attention"], rope["sliding_attention"]]
    return [rope]


def head_dim(config: Any) -> int:
    """The width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def add_shape(writer: Any, config: Any) -> None:
    """Write what llama.cpp must know to build the model."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    rope, *local = ropes_of(config)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if local:
        writer.add_rope_freq_base_swa(local[0].get("rope_theta", 10000.0))
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if config.model_type in ("llama", "mistral"):
        writer.add_rope_dimension_count(head_dim(config))
    if config.model_type.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(config, key, None):
                getattr(writer, f"add_{key}")(getattr(config, key))


def weight_names(model: Path) -> dict[str, Path]:
    """Each tensor of a model and its file."""
    found = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def gguf_names(config: Any, model: Path) -> dict[str, str]:
    """GGUF's name of each tensor. Raises InputError for tensors that have none."""
    import gguf

    kind = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[config.model_type])
    table = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    names = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in weight_names(model)}
    if config.tie_word_embeddings:  # llama.cpp takes the embedding where there is no output.weight
        names.pop("lm_head.weight", None)
    unknown = [name for name, found in names.items() if found is None]
    if unknown:
        what = f"{len(unknown)} tensors have no name in GGUF: {', '.join(unknown[:3])}"
        raise InputError(problem(model, "", what, "give a text model of one of: " + ", ".join(ARCHITECTURES)))
    return names


def tensors(config: Any, model: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under GGUF's name, in llama.cpp's layout, read one at a time."""
    files = weight_names(model)
    if ropes_of(config)[0].get("rope_type") == "llama3":
        yield ROPE_FREQS, rope_factors(config)
    for name, own in gguf_names(config, model).items():
        with safe_open(files[name], "pt") as file:
            tensor = file.get_tensor(name)
        if config.model_type in ("llama", "mistral") and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if name.endswith("q_proj.weight") else config.num_key_value_heads
            tensor = interleaved(tensor, heads)
        if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor.float() + 1
        yield own, tensor


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of q or k in the order of llama.cpp's rotary embedding: pairs side by side, not half a head apart."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape).contiguous()


def rope_factors(config: Any) -> torch.Tensor:
    """By what Llama 3 divides each frequency of its rotary embedding, as transformers computes it."""
    rope, width = ropes_of(config)[0], head_dim(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    waves = 2 * math.pi / plain
    smooth = (rope["original_max_position_embeddings"] / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return torch.where(smooth > 1, 1.0, torch.where(smooth < 0, rope["factor"], between))
