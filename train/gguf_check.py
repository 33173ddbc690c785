"""Read a GGUF file by transformers' own reader and compare it with the model it was made of.

    python -m train.gguf_check --gguf FILE --model DIR [--data RUN/data]

A process of its own, so that nothing of the writing is left. The last line printed is JSON: the checks, and the figures
of both.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from train.data_tokens import load_codec
from train.errors import run_program
from train.evaluate import read_prompts
from train.export_measure import measure_loaded
from train.files import PROMPTS
from train.libraries import set_up_libraries
from train.model import load_model

ASKED = 8  # held-out prompts
TEXTS = ["Hello, world! It's 3 o'clock.", "  two  spaces\nand 1234 Straße: ok", "the end"]
# Largest distance of a weight, relative to the greatest of its tensor; q8_0: half a step of 127, and its scale in f16.
WEIGHTS = {16: 2**-11, 8: 0.5 / 127 + 2**-11}
LOGITS = {16: 2e-3, 8: 0.1}  # relative distance of all logits in float32
PERPLEXITY = {16: 0.001, 8: 0.01}  # how much greater it may be


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare a GGUF file with the model it was made of.")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    set_up_libraries()
    both = load_both(given.gguf, given.model)
    prompts = read_prompts(given.data / PROMPTS)[:ASKED] if given.data else []
    checks = compare(both, [*(prompt["prompt"] for prompt in prompts), *TEXTS])
    figures = measure_both(both, given.data)
    checks += check_answers(figures["model"], figures["gguf"], both.bits)
    print(json.dumps({"checks": checks, "figures": figures}))


def load_both(path: Path, directory: Path) -> SimpleNamespace:
    """The model as it is and as transformers' reader reads it from the file, in float32; the file's kind and stops."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    # The reader knows no head_dim of Qwen 3 and no eps of some; the model's own config is what the names fit to.
    read = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config_for_reader(directory),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    return SimpleNamespace(
        path=path,
        directory=directory,
        own=load_model(directory, torch.float32, "eager").eval(),  # Gemma 2 has no other attention
        read=read,
        codec=load_codec(directory),
        bits=8 if "Q8_0" in kinds else 16,
        stops=stops_of(reader),
    )


def compare(both: SimpleNamespace, texts: list[str]) -> list[dict[str, Any]]:
    """The checks: name, passed, figure."""
    return [
        check_weights(both.own, both.read, both.bits == 8),
        check_tokens(both.path, both.codec.tokenizer, texts),
        check_logits(both.own, both.read, both.codec, texts, both.bits),
        check_stops(both.stops, both.codec),
    ]


def measure_both(both: SimpleNamespace, data: Path | None) -> dict[str, dict[str, Any]]:
    """The figures of model and file, both computed in float32."""
    both.read.generation_config.eos_token_id = both.stops  # what ends an answer stands in the file alone
    sizes = {"model": size_of(both.directory.glob("*.safetensors")), "gguf": size_of([both.path])}
    models = {"model": both.own, "gguf": both.read}
    tokenizer = both.codec.tokenizer
    return {name: measure_loaded(model, tokenizer, data) | {"size": sizes[name]} for name, model in models.items()}


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in paths)


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


def stops_of(reader: Any) -> list[int]:
    """The stop tokens that llama.cpp will find in the file."""
    fields = (reader.get_field(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom"))
    return sorted({int(field.parts[-1][0]) for field in fields if field is not None})


def check_stops(found: list[int], codec: Any) -> dict[str, Any]:
    """The stop tokens of the file, and those of the model."""
    missing = set(codec.stops) - set(found)
    figure = f"{found} in the file, {sorted(codec.stops)} in the model"
    # More than three have no key in GGUF; the Modelfile names them.
    return {"check": "stops", "passed": set(found) <= set(codec.stops) and len(missing) <= max(0, len(codec.stops) - 3),
            "figure": figure}  # fmt: skip


def check_answers(old: dict[str, Any], new: dict[str, Any], bits: int) -> list[dict[str, Any]]:
    """How answers end, and the perplexity where there are rows to measure it on."""
    figure = f"{new['stopped']} of {new['asked']} end by themselves, the model's {old['stopped']}"
    checks = [{"check": "answers", "passed": new["stopped"] >= old["stopped"], "figure": figure}]
    if old["perplexity"] is not None:
        worse = new["perplexity"] / old["perplexity"] - 1
        figure = f"{new['perplexity']:.4f}, the model's {old['perplexity']:.4f}: {worse:+.2%}"
        checks.append({"check": "perplexity", "passed": worse <= PERPLEXITY[bits],
                       "figure": f"{figure} (limit {PERPLEXITY[bits]:+.1%})"})  # fmt: skip
    return checks


if __name__ == "__main__":
    run_program(main)
