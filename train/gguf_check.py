"""Read a GGUF file by transformers' own reader and compare it with the model it was made of.

    python -m train.gguf_check --gguf FILE --model DIR [--prompts RUN/data/validation_prompts.jsonl]

A process of its own, so that nothing of the writing is left. The last line printed is a JSON list of checks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from train.data_tokens import load_codec
from train.errors import run_program
from train.libraries import set_up_libraries
from train.model import load_model

PROMPTS = 8
TEXTS = ["Hello, world! It's 3 o'clock.", "  two  spaces\nand 1234 Straße: ok", "the end"]
# Largest distance of a weight, relative to the greatest of its tensor; q8_0: half a step of 127, and its scale in f16.
WEIGHTS = {16: 2**-11, 8: 0.5 / 127 + 2**-11}
LOGITS = {16: 2e-3, 8: 0.1}  # relative distance of all logits in float32


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare a GGUF file with the model it was made of.")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path)
    given = parser.parse_args()
    set_up_libraries()
    print(json.dumps(compare(given.gguf, given.model, read_texts(given.prompts))))


def read_texts(path: Path | None) -> list[str]:
    """Held-out prompts of the run, or a few texts."""
    if path is None or not path.is_file():
        return TEXTS
    return [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()[:PROMPTS]] + TEXTS


def compare(path: Path, directory: Path, texts: list[str]) -> list[dict[str, Any]]:
    """The checks: name, passed, figure."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    own = load_model(directory, torch.float32, "eager").eval()  # Gemma 2 has no other attention
    # The reader knows no head_dim of Qwen 3 and no eps of some; the model's own config is what the names fit to.
    read = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config_for_reader(directory),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    codec = load_codec(directory)
    return [
        check_weights(own, read, "Q8_0" in kinds.values()),
        check_tokens(path, codec.tokenizer, texts),
        check_logits(own, read, codec, texts, 8 if "Q8_0" in kinds.values() else 16),
        check_stops(reader, codec),
    ]


def config_for_reader(directory: Path) -> Any:
    """The model's configuration; Mistral's as Llama's, whose architecture it is in GGUF."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if config.model_type != "mistral":
        return config
    values = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    return LlamaConfig(**values)


def check_weights(own: Any, read: Any, eight: bool) -> dict[str, Any]:
    """Every tensor of the model, beside what the reader made of the file."""
    wanted, found = own.state_dict(), read.state_dict()
    worst, exact = ("", 0.0), 0
    for name, tensor in wanted.items():
        if name not in found or found[name].shape != tensor.shape:
            return {"check": "weights", "passed": False, "figure": f"{name} is absent or has another shape"}
        distance = float((tensor - found[name]).abs().max() / tensor.abs().max().clamp(min=1e-30))
        exact += distance == 0
        worst = max(worst, (name, distance), key=lambda pair: pair[1])
    limit = WEIGHTS[8 if eight else 16]
    figure = f"{exact} of {len(wanted)} tensors are equal, the farthest is {worst[1]:.1e} of its greatest weight off"
    return {"check": "weights", "passed": worst[1] <= limit, "figure": f"{figure} (limit {limit:.1e})"}


def check_tokens(path: Path, tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """The same tokens for held-out prompts, by the tokenizer that the reader builds from the file."""
    built = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    differing = [text for text in texts if tokenizer(text, add_special_tokens=False)["input_ids"]
                 != built(text, add_special_tokens=False)["input_ids"]]  # fmt: skip
    figure = f"{len(texts) - len(differing)} of {len(texts)} texts have the same tokens"
    figure += f"; not {differing[0][:60]!r}" if differing else ""
    return {"check": "tokens", "passed": not differing, "figure": figure}


def check_logits(own: Any, read: Any, codec: Any, texts: list[str], bits: int) -> dict[str, Any]:
    """The same logits on held-out prompts."""
    distance = size = 0.0
    same = positions = 0
    with torch.inference_mode():
        for text in texts:
            ids = codec.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            first, second = own(input_ids=ids).logits, read(input_ids=ids).logits
            distance += float((first - second).square().sum())
            size += float(first.square().sum())
            same += int((first.argmax(-1) == second.argmax(-1)).sum())
            positions += ids.shape[1]
    relative = (distance / size) ** 0.5
    figure = (
        f"{relative:.1e} relative difference (limit {LOGITS[bits]:.0e}), the same first choice at {same}/{positions}"
    )
    return {"check": "logits", "passed": relative <= LOGITS[bits], "figure": figure}


def check_stops(reader: Any, codec: Any) -> dict[str, Any]:
    """The stop tokens that llama.cpp will find in the file, and those of the model."""
    keys = ("eos", "eot", "eom")
    fields = {key: reader.get_field(f"tokenizer.ggml.{key}_token_id") for key in keys}
    found = {int(field.parts[-1][0]) for field in fields.values() if field is not None}
    missing = set(codec.stops) - found
    figure = f"{sorted(found)} in the file, {sorted(codec.stops)} in the model"
    # More than three have no key in GGUF; the Modelfile names them.
    return {"check": "stops", "passed": found <= set(codec.stops) and len(missing) <= max(0, len(codec.stops) - 3),
            "figure": figure}  # fmt: skip


if __name__ == "__main__":
    run_program(main)
