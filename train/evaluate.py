"""Measure a model on the held-out rows: validation loss, perplexity, exact match, sample answers.

    python -m train.evaluate --recipe R --model DIR [--adapter DIR] --data RUN/data --output RUN/after.json

The loss is the mean over tokens, not over rows or batches: a row of 400 tokens counts 400 times.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tqdm import tqdm

from train.checkpoint import write_json
from train.errors import InputError, problem, run_program
from train.generate import batch_size_for, generate_answers, prompt_ids, tty
from train.hardware import choose_dtype
from train.model import load_model
from train.prepared import Prepared, TokenRows, load_prepared
from train.recipe import load_recipe

NO_ROWS = "the data has no validation rows, so there is no loss and there are no samples"
CHECKED_PROMPTS = 64  # compared with the trained tokens; a wrong BOS would show in every one


def main() -> None:
    """Read the arguments, evaluate, write the result."""
    parser = argparse.ArgumentParser(description="Measure a model on the held-out rows.")
    parser.add_argument("--recipe", type=Path, required=True, help="the run's train.yaml")
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--adapter", type=Path, help="directory of an adapter to put on the model")
    parser.add_argument("--data", type=Path, required=True, help="the run's prepared data")
    parser.add_argument("--output", type=Path, required=True, help="where the result is written (JSON)")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        what = "its directory does not exist"
        raise InputError(problem("--output", str(arguments.output), what, f"mkdir -p {arguments.output.parent}"))
    recipe = load_recipe(arguments.recipe)
    result = evaluate(recipe, arguments.model, arguments.adapter, arguments.data)
    write_json(arguments.output, result)
    print(in_words(result))


def evaluate(recipe: SimpleNamespace, model_dir: Path, adapter: Path | None, data: Path) -> dict[str, Any]:
    """Everything that before.json and after.json hold. Raises InputError for a model or data that cannot be read."""
    started = time.monotonic()
    prepared = load_prepared(data)
    prompts = read_prompts(data / "validation_prompts.jsonl")
    dtype, reason = choose_dtype(recipe.dtype)
    result = {
        "model": str(model_dir), "adapter": str(adapter) if adapter else None,
        "dtype": str(dtype).removeprefix("torch."), "dtype_reason": reason,
        "eval_loss": None, "perplexity": None, "tokens": 0, "exact_match": None, "samples": [],
    }  # fmt: skip
    if prepared.validation is None or len(prepared.validation) == 0:
        result["message"] = NO_ROWS
    else:
        model, tokenizer = open_model(recipe, model_dir, adapter, dtype)
        check_prompts(tokenizer, prompts, prepared, data)
        loss, tokens = validation_loss(model, prepared.validation, recipe.per_device_eval_batch_size)
        if math.isfinite(loss):
            result |= {"eval_loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens}
        else:
            result["message"] = f"the validation loss is {loss}: the model's weights or its arithmetic are broken"
        result |= answer_prompts(recipe, model, tokenizer, prompts)
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def open_model(recipe: SimpleNamespace, model_dir: Path, adapter: Path | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, with its adapter where there is one, and its tokenizer, from local files alone."""
    from transformers import AutoTokenizer

    problems = []
    for path, name in ((model_dir, "config.json"), (adapter, "adapter_config.json")):
        if path and not (path / name).is_file():
            problems.append(problem(path, "", f"has no {name}", "give the directory that the training wrote"))
    if problems:
        raise InputError(problems)
    model = load_model(model_dir, dtype, recipe.attn_implementation)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    return model.eval(), tokenizer


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The held-out prompts with their answers; none where the rows are plain text."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def check_prompts(tokenizer: Any, prompts: list[dict[str, Any]], prepared: Prepared, data: Path) -> None:
    """Raise InputError where a prompt's tokens are not those the training saw before the answer.

    Such a model would be asked in a way it never learnt (a second BOS, another tokenizer), and look worse than it is.
    """
    row_numbers = [int(row) for row in prepared.validation.rows]
    index_of = {row: i for i, row in enumerate(row_numbers)}
    differing, checked = [], 0
    for prompt in [one for one in prompts if one["row"] in index_of][:CHECKED_PROMPTS]:
        item = prepared.validation[index_of[prompt["row"]]]
        ids = prompt_ids(tokenizer, [prompt["prompt"]])[0]
        trained = (item["labels"] != -100).nonzero()
        end = int(trained[0]) if len(trained) else len(ids)
        checked += 1
        # train_on_inputs lets the prompt carry loss too: then only the beginning can be compared.
        length = min(len(ids), end) if end > 1 else len(ids)
        if item["input_ids"][:length].tolist() != ids[:length]:
            differing.append(prompt["row"])
    if differing:
        shown = ", ".join(map(str, differing[:5])) + (", …" if len(differing) > 5 else "")
        what = f"the prompts of rows {shown} ({len(differing)} of {checked} compared) are not the tokens trained on"
        raise InputError(problem(data, "", what, "prepare the data again with this model: make check-data"))


def validation_loss(model: Any, rows: TokenRows, batch_size: int) -> tuple[float, int]:
    """Mean loss over all tokens that carry loss, and their number. Rows of like length share a batch."""
    order = sorted(range(len(rows)), key=lambda i: int(rows.lengths[i]), reverse=True)
    total, count = torch.zeros((), dtype=torch.float64), 0
    bar = tqdm(total=len(order), desc="validating", unit="row", file=sys.stderr, mininterval=0.5 if tty() else 15)
    with bar, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = [rows[i] for i in order[start : start + batch_size]]
            loss, tokens = batch_loss(model, batch)
            total += loss
            count += tokens
            bar.update(len(batch))
    return (float(total / count) if count else math.nan), count


def batch_loss(model: Any, batch: list[dict[str, torch.Tensor]]) -> tuple[float, int]:
    """The summed loss of a batch in float32, row by row so that only one row's logits are held in float32."""
    longest = max(len(row["input_ids"]) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(batch):
        ids[place, : len(row["input_ids"])] = row["input_ids"]
        mask[place, : len(row["input_ids"])] = 1
    logits = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    ).logits  # [rows, tokens, vocabulary]
    total, count = 0.0, 0
    for place, row in enumerate(batch):
        labels = row["labels"][1:]
        carries = (labels != -100).nonzero().squeeze(1)
        predicted = logits[place, carries.to(logits.device)].float()
        loss = torch.nn.functional.cross_entropy(predicted, labels[carries].to(logits.device), reduction="sum")
        total += float(loss)
        count += len(carries)
    return total, count


def answer_prompts(recipe: SimpleNamespace, model: Any, tokenizer: Any, prompts: list[dict[str, Any]]) -> dict:
    """Exact match over all prompts where the recipe asks for it, and the samples of the report."""
    asked = prompts if recipe.exact_match else prompts[: recipe.generate_samples]
    if not asked:
        return {}
    texts = [prompt["prompt"] for prompt in asked]
    longest = max(map(len, prompt_ids(tokenizer, texts))) + recipe.max_new_tokens
    size = batch_size_for(model.config, longest)
    answers = generate_answers(model, tokenizer, texts, recipe.max_new_tokens, size)
    samples = [
        {"row": prompt["row"], "prompt": prompt["prompt"], "answer": prompt["answer"], "generated": text,
         "stopped": stopped}
        for prompt, (text, stopped) in zip(asked, answers, strict=True)
    ]  # fmt: skip
    result: dict[str, Any] = {"samples": samples[: recipe.generate_samples]}
    if recipe.exact_match:
        matched = sum(matches(sample) for sample in samples)
        result["exact_match"] = {"matched": matched, "rows": len(samples), "share": matched / len(samples)}
    return result


def matches(sample: dict[str, Any]) -> bool:
    """Whether the generated answer is the wanted one to the letter, blanks around it apart."""
    return sample["generated"].strip() == sample["answer"].strip()


def in_words(result: dict[str, Any]) -> str:
    """The result in one line."""
    parts = [result["message"]] if result.get("message") else []
    if result["eval_loss"] is not None:
        loss, perplexity = result["eval_loss"], result["perplexity"]
        parts.append(f"validation loss {loss:.4f}, perplexity {perplexity:.4g} over {result['tokens']:,} tokens")
    if result["exact_match"]:
        exact = result["exact_match"]
        parts.append(f"exact match {exact['matched']} of {exact['rows']} ({exact['share']:.1%})")
    return f"{'; '.join(parts)}  [{result['seconds']} s]"


if __name__ == "__main__":
    run_program(main)
