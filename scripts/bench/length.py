"""WHAT=length: what training costs against the number of rows, and against their length."""

import json
from typing import Any

from scripts.bench.equipment import GLOBAL_BATCH, MAX_LENGTH, MICRO_BATCH, read_rows, write_recipe, write_rows
from scripts.bench.programs import prepare, train_ours
from scripts.bench.setting import WARMUP, Setting, read_rows_back
from train.files import write_json
from train.prepared import load_prepared

LENGTHS = (64, 128, 256, 512)
STEPS = 2
STEPS_OF_ROWS = (1, 2, 4)
TOKENS_A_BATCH = MAX_LENGTH * MICRO_BATCH
TOKENS_A_STEP = 4 * TOKENS_A_BATCH


def length(setting: Setting) -> dict[str, Any]:
    """Seconds of a training on rows, twice and four times as many; tokens a second on rows of equal length."""
    rows = read_rows_back(setting.home / "all.jsonl")
    by_rows, by_length = [], []
    for steps in STEPS_OF_ROWS:
        count = steps * GLOBAL_BATCH
        by_rows.append(kept(setting, f"rows-{count}", lambda c=count: train_rows(setting, rows[:c], f"rows-{c}", {})))
        print(f"{count} rows: {by_rows[-1]['seconds']:.1f} s from the start of the program to its end", flush=True)
    for tokens in LENGTHS:
        name = f"length-{tokens}"
        by_length.append(kept(setting, name, lambda t=tokens, n=name: train_length(setting, t, n)))
        print(f"rows of {tokens} tokens: {by_length[-1]['tokens_per_second']:,.0f} tokens/s", flush=True)
    return {"by_rows": by_rows, "by_length": by_length}


def kept(setting: Setting, name: str, run: Any) -> dict[str, Any]:
    """The result of an earlier command, or of this one."""
    path = setting.home / f"{name}.json"
    if not path.exists():
        write_json(path, run())
    return json.loads(path.read_text())


def train_length(setting: Setting, tokens: int, name: str) -> dict[str, Any]:
    """Train on rows of just so many tokens, equally many tokens a micro-batch and a step whatever the length."""
    sources = read_rows(setting.rows)
    count = STEPS * TOKENS_A_STEP // tokens
    long = [{**sources[i % len(sources)], "output": " ".join(
        sources[(i + j) % len(sources)]["output"] for j in range(40))} for i in range(count)]  # fmt: skip
    changes = {"max_length": tokens, "overlong": "truncate", "per_device_train_batch_size": TOKENS_A_BATCH // tokens,
               "global_batch_size": TOKENS_A_STEP // tokens}  # fmt: skip
    return train_rows(setting, long, name, changes)


def train_rows(setting: Setting, rows: list[dict[str, str]], name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Ours, one epoch over these rows."""
    place = setting.home / name
    place.mkdir(exist_ok=True)
    path = write_rows(place / "rows.jsonl", rows)
    recipe = write_recipe(place / "train.yaml", {
        "model_name_or_path": str(setting.model), "train_file": str(path), "num_train_epochs": 1, **changes,
    })  # fmt: skip
    prepare(recipe, setting.model, place, setting.threads)
    lengths = load_prepared(place / "data").train.lengths
    seen = train_ours(recipe, setting.model, place / "data", place / "run", 1, setting.threads)
    steps = [line for line in seen.lines if "loss" in line]
    counted = sum(line["tokens"] for line in steps[WARMUP:])
    seconds = seen.moments[len(steps)] - seen.moments[min(WARMUP, len(steps))]
    return {
        "rows": len(lengths), "longest": int(lengths.max()), "tokens": int(lengths.sum()),
        "seconds": round(seen.seconds, 2), "tokens_per_second": counted / seconds if seconds else None,
    }  # fmt: skip
