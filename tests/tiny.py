"""A model of a hundred thousand parameters, rows and a recipe, for tests that train for real in seconds."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"w{number}" for number in range(120)]
RECIPE = {
    "train_file": "rows.jsonl",
    "validation_size": 20,
    "data_format": "completion",
    "max_length": 64,
    "global_batch_size": 16,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 5.0e-3,
    "num_train_epochs": 2,
    "lora_r": 4,
    "lora_dropout": 0.1,
    "dtype": "float32",
}


def make_world(directory: Path, **changes) -> SimpleNamespace:
    """A directory with model, rows and recipe; the paths, and the prepared rows' place."""
    directory.mkdir(parents=True, exist_ok=True)
    make_model(directory / "model")
    make_rows(directory / "rows.jsonl")
    values = {"model_name_or_path": str(directory / "model"), **RECIPE, "train_file": str(directory / "rows.jsonl")}
    values |= changes
    recipe = directory / "train.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return SimpleNamespace(model=directory / "model", recipe=recipe, data=directory / "data", root=directory)


def make_model(directory: Path) -> None:
    """A two-layer Qwen3 with random weights and a tokenizer of whole words, without chat template."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128, tie_word_embeddings=True,
        eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    tokenizer.save_pretrained(directory)


def make_rows(path: Path, count: int = 123) -> None:
    """Rows of many lengths whose answer follows from the prompt: every third word of it."""
    draw = random.Random(7)
    with path.open("w") as file:
        for _ in range(count):
            words = [draw.choice(WORDS) for _ in range(draw.randint(3, 40))]
            file.write(json.dumps({"prompt": " ".join(words) + " ", "completion": " ".join(words[::3])}) + "\n")


def environment(threads: int = 1) -> dict[str, str]:
    """The environment of a program under test: this checkout's modules, a fixed number of threads."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}


def prepare(world: SimpleNamespace) -> None:
    """Prepare the world's rows as `make check-data` does."""
    command = ["-m", "train.check_data", "--recipe", world.recipe, "--model", world.model, "--output", world.data]
    subprocess.run([sys.executable, *map(str, command)], check=True, env=environment(), capture_output=True)


def finetune_command(world: SimpleNamespace, run: Path, processes: int) -> list[str]:
    """The command that trains in the world's directory `run`."""
    command = ["-m", "train.launch", "--nproc", processes, "--threads", 1, "--", "--recipe", world.recipe,
               "--model", world.model, "--data", world.data, "--output", run]  # fmt: skip
    return [sys.executable, *map(str, command)]


def finetune(world: SimpleNamespace, run: Path, processes: int) -> subprocess.CompletedProcess:
    """Train to the end; returns the finished process with its output as text."""
    command = finetune_command(world, run, processes)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def curve(run: Path) -> list[tuple]:
    """What a run learned, step by step: (step, loss or validation loss, gradient norm, learning rate); 0 for none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (
            line["step"],
            line.get("loss", line.get("eval_loss")),
            line.get("grad_norm", 0.0),
            line.get("learning_rate", 0.0),
        )
        for line in lines
    ]


def adapter_bytes(run: Path) -> bytes:
    """The adapter's weights as they lie on the disk."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()
