"""Tiny bases and adapters for the tests of merge and proof, made by transformers and PEFT themselves."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen3Config

SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 96, "max_position_embeddings": 64}  # fmt: skip
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen3 tied": lambda: Qwen3Config(**SIZES, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(n_embd=48, n_layer=3, n_head=4, vocab_size=96, n_positions=64, bos_token_id=0, eos_token_id=0),
}  # fmt: skip


@cache
def base_model(kind: str, dtype: torch.dtype = torch.bfloat16, shard_size: str = "1GB") -> Path:
    """The directory of a tiny base with random weights, made once per session; tests must not write into it."""
    torch.manual_seed(0)
    path = Path(mkdtemp(prefix="base-"))
    AutoModelForCausalLM.from_config(CONFIGS[kind]()).to(dtype).save_pretrained(path, max_shard_size=shard_size)
    return path


def adapter_for(base: Path, path: Path, **lora: Any) -> Path:
    """Save a LoRA adapter with random weights for a base. `lora` are fields of LoraConfig."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | lora)
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter)) if "lora_A" not in name else None
    peft_model.save_pretrained(path)
    return path


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT's own merge_and_unload makes of a base and an adapter, parameter by parameter."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return dict(model.merge_and_unload().state_dict())


def edit_config(adapter: Path, **fields: Any) -> None:
    """Change fields of an adapter's configuration."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | fields))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def copy(path: Path, to: Path) -> Path:
    """A copy of a directory that a test may damage."""
    return Path(shutil.copytree(path, to))
