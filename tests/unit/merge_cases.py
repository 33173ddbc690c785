"""Tiny bases and adapters for the tests of merge and proof, made by transformers and PEFT themselves."""

import atexit
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen3Config

from train.base_model import describe_base
from train.errors import InputError
from train.merge import merge

SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 96, "max_position_embeddings": 64}  # fmt: skip
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen3 tied": lambda: Qwen3Config(**SIZES, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(n_embd=48, n_layer=3, n_head=4, vocab_size=96, n_positions=64, bos_token_id=0,
                               eos_token_id=0),
}  # fmt: skip
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
GPT2 = ["c_attn", "c_proj", "c_fc"]
WEIGHTS = "model.safetensors"
Q0 = "model.layers.0.self_attn.q_proj.weight"  # a target of LORA in a llama
A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B0 = A0.replace("lora_A", "lora_B")


def kept_until_exit(prefix: str) -> Path:
    """A new directory that is removed when the tests end."""
    path = Path(mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def base_model(kind: str = "llama", dtype: torch.dtype = torch.bfloat16, shard_size: str = "1GB") -> Path:
    """The directory of a tiny base with random weights, made once per session; tests must not write into it."""
    torch.manual_seed(0)
    path = kept_until_exit("base-")
    AutoModelForCausalLM.from_config(CONFIGS[kind]()).to(dtype).save_pretrained(path, max_shard_size=shard_size)
    return path


@cache
def saved_adapter(base: Path, lora: str = "{}", size: float = 0.05) -> Path:
    """The directory of a random adapter for a base, made once per session. `lora` is JSON over fields of LoraConfig."""
    torch.manual_seed(1)
    path = kept_until_exit("adapter-")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft_model = get_peft_model(model, LoraConfig(**{**LORA, **json.loads(lora)}))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:  # A starts at random, B at zero
                parameter.add_(size * torch.randn_like(parameter))
    peft_model.save_pretrained(path)
    return path


def pair(tmp_path: Path, lora: dict | None = None, kind: str = "llama", **base: Any) -> tuple[Path, Path]:
    """A base and an adapter made for it, both copies that a test may damage; the adapter names its base."""
    made = base_model(kind, **base)
    copied = Path(shutil.copytree(made, tmp_path / "base"))
    adapter = Path(shutil.copytree(saved_adapter(made, json.dumps(lora or {})), tmp_path / "adapter"))
    return copied, adapter


def name_base(base: Path, adapter: Path) -> None:
    """Write the record of the base beside the adapter, as the training does."""
    (adapter / "base_model.json").write_text(json.dumps(describe_base(base, "tiny", "r1")))


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT's own merge_and_unload makes of a base and an adapter, parameter by parameter."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return dict(model.merge_and_unload().state_dict())


def edit_json(file: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def refusal(base: Path, adapter: Path, output: Path, **options: object) -> str:
    """The message of a merge that must be refused and must leave nothing behind."""
    with pytest.raises(InputError) as caught:
        merge(base, adapter, output, check_logits=False, **options)
    assert not output.exists()
    assert not output.with_name(output.name + ".tmp").exists()
    return str(caught.value)
