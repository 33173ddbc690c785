"""WHAT=train: ours and the others in turns, each run in a process of its own, every finished run kept."""

import json
import shutil
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.bench.equipment import GLOBAL_BATCH, MAX_LENGTH, MICRO_BATCH, write_recipe
from scripts.bench.programs import matmul_rate, train_other, train_ours, validate
from scripts.bench.setting import WARMUP, Setting, make_round
from scripts.bench.variants import Variant
from scripts.bench.watch import MeasuredFailed
from train.files import write_json
from train.progress import minutes
from train.recipe import load_recipe


def race(setting: Setting, chosen: list[Variant]) -> dict[str, Any]:
    """Run every variant once a round, in turns; returns the results of all runs and the matrix-multiply rates."""
    results, measured = [], False
    turns = [
        (number, variant) for number in range(setting.rounds) for variant in chosen if not variant.extra or number == 0
    ]
    this_round = SimpleNamespace(number=-1)
    for done, (number, variant) in enumerate(turns):
        kept = setting.home / f"round-{number}" / f"{variant.name}.json"
        if not kept.exists():
            if this_round.number != number:
                this_round = make_round(setting, number)
                this_round.number = number
                measure_rate(setting)
            began, measured = time.monotonic(), True
            result = run(setting, variant, this_round)
            write_json(kept, {"round": number, "took": round(time.monotonic() - began, 1), **result})
        result = json.loads(kept.read_text())
        results.append(result)
        left = time_left(results, [later.name for _, later in turns[done + 1 :]])
        others = f", others took {result['disturbed']:.1f} cores" if result["disturbed"] >= 0.1 else ""
        print(f"round {number + 1}/{setting.rounds}  {variant.words}: {result['tokens_per_second']:,.0f} tokens/s, "
              f"{result['peak_gb']:.2f} GB, validation loss {result['eval_loss']:.4f}  "
              f"[{result['took']:.0f} s{others}; about {minutes(left)} left]", flush=True)  # fmt: skip
    if measured or not (setting.home / "matmul.json").exists():
        measure_rate(setting)
    return {"runs": results, "matmul_gflops": json.loads((setting.home / "matmul.json").read_text())}


def time_left(results: list[dict[str, Any]], later: list[str]) -> float:
    """Seconds that the later variants will take: as before, or where one did not run yet, as all did on average."""
    took = {result["variant"]: result["took"] for result in results}
    return sum(took.get(name, statistics.mean(took.values())) for name in later)


def measure_rate(setting: Setting) -> None:
    """Add the matrix-multiply rate of this moment to those measured before; before each round and after the last."""
    path = setting.home / "matmul.json"
    earlier = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [*earlier, matmul_rate(setting.dtype, setting.threads, setting.home / "matmul.log")])


def run(setting: Setting, variant: Variant, shared: SimpleNamespace) -> dict[str, Any]:
    """Train one variant once and validate what it learnt."""
    output = shared.place / variant.name
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    if variant.trainer == "ours":
        recipe = write_recipe(output / "train.yaml", shared.changes | variant.options)
        seen = train_ours(recipe, setting.model, shared.place / "data", output, 1, setting.threads)
    else:
        seen = train_other(make_job(setting, variant, shared, output), setting.threads)
    data = shared.place / "data"
    loss = validate(shared.recipe, setting.model, output / "adapter", data, output, setting.threads)
    result = figures(seen, shared.tokens, exact=not variant.packed)
    return {
        "variant": variant.name, "words": variant.words, "reference": variant.reference,
        "same_rows": not variant.packed, **result, "eval_loss": loss, "facts": read_facts(output, variant),
    }  # fmt: skip


def read_facts(output: Path, variant: Variant) -> dict[str, Any]:
    """What a run's defaults came to: facts.json of the others, and as much of ours from its own record."""
    if (output / "facts.json").exists():
        return json.loads((output / "facts.json").read_text())
    record = json.loads((output / "training.json").read_text())
    autocast = record["path"]["autocast"] and record["dtype"] == "bfloat16"
    kept = f"4-bit for {record['dtype']}" if variant.options.get("method") == "qlora" else record["dtype"]
    return {"weights": [f"{kept} frozen"], "autocast_bf16": autocast, "path": record["path"]}


def make_job(setting: Setting, variant: Variant, shared: SimpleNamespace, output: Path) -> dict[str, Any]:
    """What competitor.py is told. A packing trainer takes as many packs a step as hold about a step's rows."""
    recipe = load_recipe(shared.recipe)
    accumulation = GLOBAL_BATCH // MICRO_BATCH
    if variant.packed:
        accumulation = max(1, round(sum(shared.tokens) / MAX_LENGTH / MICRO_BATCH / setting.steps))
    return {
        "trainer": variant.trainer, "options": variant.options, "model": str(setting.model),
        "rows": str(shared.place / "rows.jsonl"), "output": str(output), "micro_batch": variant.micro_batch,
        "accumulation": accumulation * MICRO_BATCH // variant.micro_batch, "max_length": MAX_LENGTH,
        "learning_rate": recipe.learning_rate, "lora_r": recipe.lora_r, "lora_alpha": recipe.lora_alpha,
        "seed": shared.seed,
    }  # fmt: skip


def figures(seen: SimpleNamespace, by_step: list[int], exact: bool) -> dict[str, Any]:
    """Figures of a run from what was seen of it; `exact`: each step must have trained on its own rows.

    Raises MeasuredFailed where it trained on other tokens than the rows have.
    """
    steps = [line for line in seen.lines if "loss" in line]
    tokens = [line["tokens"] for line in steps]
    if sum(tokens) != sum(by_step) or (exact and tokens != by_step):
        raise MeasuredFailed(f"trained on {tokens} tokens a step, but the rows have {by_step}")
    seconds = seen.moments[len(steps)] - seen.moments[WARMUP]
    return {
        "steps": len(steps), "all_tokens": sum(tokens), "tokens": sum(tokens[WARMUP:]), "seconds": round(seconds, 3),
        "tokens_per_second": sum(tokens[WARMUP:]) / seconds, "first_step_seconds": round(seen.moments[1], 1),
        "peak_gb": round(seen.peaks[0], 3), "beside_gb": round(sum(seen.peaks[1:]), 3),
        "losses": [line["loss"] for line in steps], "train_loss": steps[-1]["loss"], "wall": round(seen.seconds, 1),
        "disturbed": round(seen.disturbed, 3),
    }  # fmt: skip
