"""Measure a model as it is served: perplexity on the validation rows, how answers end, latency, tokens per second.

    python -m train.export_measure --model DIR [--data RUN/data] --output FILE.json

A process of its own: it proves that the model loads from its files alone.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from train.data_tokens import load_tokenizer
from train.errors import run_program
from train.evaluate import read_prompts, trained_prefix, validation_loss
from train.files import PROMPTS, write_json
from train.generate import generate_answers, prompt_ids, stop_ids
from train.libraries import set_up_libraries
from train.prepared import load_prepared

ROWS, ASKED, NEW_TOKENS, ROUNDS = 200, 16, 32, 3
TEXTS = ["Hello, world!", "The answer is"]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Measure a model as it is served.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    set_up_libraries()
    write_json(given.output, measure(given.model, given.data))


def measure(directory: Path, data: Path | None) -> dict[str, Any]:
    """The figures of a model's directory."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", device_map="cpu", use_safetensors=True,
                                                 trust_remote_code=False, local_files_only=True).eval()  # fmt: skip
    return measure_loaded(model, load_tokenizer(directory), data)


def measure_loaded(model: Any, tokenizer: Any, data: Path | None) -> dict[str, Any]:
    """The figures."""
    texts, prefix, perplexity, tokens = TEXTS, None, None, 0
    prompts = read_prompts(data / PROMPTS) if data else []
    rows = load_prepared(data).validation if data else None
    if rows is not None and len(rows):
        some = torch.utils.data.Subset(rows, range(min(ROWS, len(rows))))
        some.lengths = rows.lengths[: len(some)]
        loss, tokens = validation_loss(model, some, 8)
        perplexity = math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.inf
        prefix = trained_prefix(tokenizer, prompts, rows, data)
    if prompts:
        texts = [prompt["prompt"] for prompt in prompts[:ASKED]]
    answers = generate_answers(model, tokenizer, texts, 4 * NEW_TOKENS, 1, prefix)
    return {
        "perplexity": perplexity, "tokens": tokens, "asked": len(texts), "stopped": sum(end for _, end in answers),
        "stop_ids": stop_ids(model, tokenizer), "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    } | speed(model, prompt_ids(tokenizer, texts[:1], prefix)[0])  # fmt: skip


def speed(model: Any, ids: list[int]) -> dict[str, float]:
    """Seconds to the first token and to each further one, the best of some rounds, of one answer at a time."""
    prompt = torch.tensor([ids])
    seconds = {1: [], NEW_TOKENS: []}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):  # the first warms up
            for count in seconds:
                started = time.perf_counter()
                model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count,
                               min_new_tokens=count, do_sample=False)  # fmt: skip
                seconds[count].append(time.perf_counter() - started)
    first, whole = (min(times[1:]) for times in seconds.values())
    each = (whole - first) / (NEW_TOKENS - 1)
    return {"first_token": first, "per_token": each, "tokens_per_second": 1 / each}


if __name__ == "__main__":
    run_program(main)
