"""Tiny models of many families, rows that begin alike, and the plain path that all others are compared with."""

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from train.fast.packs import Row

SHAPE = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": None,
         "eos_token_id": 1}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
# Name: class and configuration beyond SHAPE. Windows are shorter than the longest rows.
FAMILIES = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral with a window": ("Mistral", {"sliding_window": 24}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 moe": (
        "Qwen3Moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 32}),
    "gemma3": ("Gemma3", {"head_dim": 16, "sliding_window": 32}),
    "gemma3 with images": ("Gemma3", {"head_dim": 16, "sliding_window": 32}),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_family(name: str, tied: bool | None = None) -> torch.nn.Module:
    """A model of three layers with random weights in float32."""
    family, more = FAMILIES[name]
    config_class = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    more = more if tied is None else more | {"tie_word_embeddings": tied}
    torch.manual_seed(0)
    if "images" in name:
        config = transformers.Gemma3Config(text_config=SHAPE | more, vision_config=VISION)
        return transformers.AutoModelForCausalLM.from_config(config)
    return getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, config_class)(**SHAPE, **more))


def with_adapter(model: torch.nn.Module, **changes) -> torch.nn.Module:
    """The model with a LoRA adapter whose product is not zero, in training mode."""
    experts = any("experts" in name for name, _ in model.named_modules())
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[:4] if experts else TARGETS, "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**options | changes))
    generator = torch.Generator().manual_seed(1)
    for parameter in (weight for name, weight in adapted.named_parameters() if "lora_B" in name):
        parameter.data.normal_(std=0.05, generator=generator)
    return adapted.train()


def make_rows(seed: int = 0) -> list[Row]:
    """Fourteen rows: some begin with one prompt, some with a longer one, some alone; one twice, one within another."""
    draw = np.random.default_rng(seed)
    short = draw.integers(2, 96, 20)
    heads = [short, np.concatenate([short, draw.integers(2, 96, 18)]), short[:0]]
    rows = []
    for number in range(12):
        head = heads[number % 3]
        ids = np.concatenate([head, draw.integers(2, 96, draw.integers(2, 40))]).astype(np.int32)
        loss = (np.arange(len(ids)) >= (3 if number % 4 == 3 else max(len(head), 1))).astype(np.uint8)
        rows.append(Row(ids, loss))
    return [*rows, rows[0], Row(rows[1].ids[:38], rows[1].loss[:38])]


def plain_step(model: torch.nn.Module, rows: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss and gradients, each row by itself through the model's own logits."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.from_numpy(row.ids.astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
        labels = torch.where(torch.from_numpy(row.loss[1:]) == 1, ids[1:], -100)
        total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
    total.backward()
    return total.item(), take_gradients(model)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients, which are removed from the model."""
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return gradients


def largest_difference(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a parameter's gradient."""
    assert found.keys() == wanted.keys()
    return max(((found[name] - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-9)).item() for name in wanted)
