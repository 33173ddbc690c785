"""Measure a model on the held-out rows: validation loss, perplexity, exact match, ROUGE, sample answers.

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

from train.data_tokens import load_tokenizer, own_prefix
from train.errors import InputError, problem, run_program
from train.files import write_json
from train.generate import batch_size_for, enough_threads, generate_answers, prompt_ids, tty
from train.hardware import choose_dtype
from train.libraries import set_up_libraries, without_bitsandbytes
from train.prepared import TokenRows, load_prepared
from train.recipe import load_recipe
from train.rouge import in_words as rouge_in_words
from train.rouge import rouge

NO_ROWS = "the data has no validation rows, so there is no loss and there are no samples"
COMPARED_ROWS = 64  # a wrong BOS would show in every row


def main() -> None:
    """Read the arguments, evaluate, write the result."""
    parser = argparse.ArgumentParser(description="Measure a model on the held-out rows.")
    parser.add_argument("--recipe", type=Path, required=True, help="the run's train.yaml")
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--adapter", type=Path, help="directory of an adapter to put on the model")
    parser.add_argument("--data", type=Path, required=True, help="the run's prepared data")
    parser.add_argument("--output", type=Path, required=True, help="where the result is written (JSON)")
    arguments = parser.parse_args()
    set_up_libraries()
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
        "eval_loss": None, "perplexity": None, "tokens": 0, "exact_match": None, "rouge": None,
        "samples": [],
    }  # fmt: skip
    if prepared.validation is None or len(prepared.validation) == 0:
        result["message"] = NO_ROWS
    else:
        model, tokenizer = open_model(recipe, model_dir, adapter, dtype)
        prefix = trained_prefix(tokenizer, prompts, prepared.validation, data)
        loss, tokens = validation_loss(model, prepared.validation, recipe.per_device_eval_batch_size)
        if math.isfinite(loss):
            result |= {"eval_loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens}
        else:
            result["message"] = f"the validation loss is {loss}: the model's weights or its arithmetic are broken"
        result |= answer_prompts(recipe, model, tokenizer, prompts, prefix)
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def open_model(recipe: SimpleNamespace, model_dir: Path, adapter: Path | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, with its adapter where there is one, and its tokenizer, from local files alone."""
    problems = []
    for path, name in ((model_dir, "config.json"), (adapter, "adapter_config.json")):
        if path and not (path / name).is_file():
            problems.append(problem(path, "", f"has no {name}", "give the directory that the training wrote"))
    if problems:
        raise InputError(problems)
    from train.model import load_model

    model = load_model(model_dir, dtype, recipe.attn_implementation)
    if adapter:
        with without_bitsandbytes():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    return model.eval(), load_tokenizer(model_dir)


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The held-out prompts with their answers; none where the rows are plain text."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def trained_prefix(tokenizer: Any, prompts: list[dict[str, Any]], validation: TokenRows, data: Path) -> tuple[int, ...]:
    """The tokens that stand before each prompt in the prepared rows: the tokenizer's own, or none.

    Raises InputError where the prompts' tokens are not those of the rows: such a model would be asked in a way it
    never learnt (a second BOS, another tokenizer), and would look worse than it is.
    """
    asked = {prompt["row"]: prompt["prompt"] for prompt in prompts}
    compared = [i for i, row in enumerate(validation.rows) if int(row) in asked][:COMPARED_ROWS]
    rows = [validation[i]["input_ids"].tolist() for i in compared]
    ids = prompt_ids(tokenizer, [asked[int(validation.rows[i])] for i in compared], ())
    differing: list[int] = []
    for prefix in dict.fromkeys([own_prefix(tokenizer), ()]):
        wanted = [[*prefix, *one] for one in ids]
        differing = [
            int(validation.rows[i])
            for i, row, prompt in zip(compared, rows, wanted, strict=True)
            if row[: len(prompt)] != prompt[: len(row)]  # a truncated row may be shorter than its prompt
        ]
        if not differing:
            return prefix
    shown = ", ".join(map(str, differing[:5])) + (", …" if len(differing) > 5 else "")
    what = f"the prompts of rows {shown} ({len(differing)} of {len(rows)} compared) are not the tokens trained on"
    raise InputError(problem(data, "", what, "prepare the data again with this model: make check-data"))


def validation_loss(model: Any, rows: TokenRows, batch_size: int) -> tuple[float, int]:
    """Mean loss over all tokens that carry loss, and their number. Rows of like length share a batch."""
    order = sorted(range(len(rows)), key=lambda i: int(rows.lengths[i]), reverse=True)
    total, count = torch.zeros((), dtype=torch.float64), 0
    bar = tqdm(total=len(order), desc="validating", unit="row", file=sys.stderr, mininterval=0.5 if tty() else 15)
    with bar, torch.inference_mode(), enough_threads(model):
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


def answer_prompts(
    recipe: SimpleNamespace, model: Any, tokenizer: Any, prompts: list[dict[str, Any]], prefix: tuple[int, ...]
) -> dict[str, Any]:
    """Exact match and ROUGE over all prompts where the recipe asks for them, and the samples of the report."""
    asked = prompts if recipe.exact_match or recipe.rouge else prompts[: recipe.generate_samples]
    if not asked:
        return {}
    texts = [prompt["prompt"] for prompt in asked]
    longest = max(map(len, prompt_ids(tokenizer, texts, prefix))) + recipe.max_new_tokens
    size = batch_size_for(model.config, longest)
    answers = generate_answers(model, tokenizer, texts, recipe.max_new_tokens, size, prefix)
    samples = [
        {"row": prompt["row"], "prompt": prompt["prompt"], "answer": prompt["answer"], "generated": text,
         "stopped": stopped}
        for prompt, (text, stopped) in zip(asked, answers, strict=True)
    ]  # fmt: skip
    result: dict[str, Any] = {"samples": samples[: recipe.generate_samples]}
    if recipe.exact_match:
        matched = sum(matches(sample) for sample in samples)
        result["exact_match"] = {"matched": matched, "rows": len(samples), "share": matched / len(samples)}
    if recipe.rouge:
        result["rouge"] = rouge(*([sample[key] for sample in samples] for key in ("generated", "answer")))
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
    if result["rouge"]:
        parts.append(rouge_in_words(result["rouge"]))
    return f"{'; '.join(parts)}  [{result['seconds']} s]"


if __name__ == "__main__":
    run_program(main)
