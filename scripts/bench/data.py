"""WHAT=data: how fast rows are prepared, for several numbers of rows."""

import json
from typing import Any

from scripts.bench.equipment import read_rows, write_recipe, write_rows
from scripts.bench.programs import prepare
from scripts.bench.setting import Setting
from train.files import write_json
from train.prepared import load_prepared

SIZES = (10_000, 20_000, 40_000)


def data(setting: Setting) -> dict[str, Any]:
    """For each number of rows: tokens, seconds of the whole program, tokens a second of preparation alone."""
    rows = read_rows(setting.rows)
    found = []
    for size in SIZES:
        kept = setting.home / f"data-{size}.json"
        if not kept.exists():
            write_json(kept, run(setting, rows, size))
        found.append(json.loads(kept.read_text()))
        print(f"preparing {size:,} rows: {found[-1]['tokens_per_second']:,.0f} tokens/s, "
              f"{found[-1]['seconds']:.1f} s with start and X-ray", flush=True)  # fmt: skip
    return {"sizes": found}


def run(setting: Setting, rows: list[dict[str, str]], size: int) -> dict[str, Any]:
    """`make check-data` on so many rows: those of the setting again and again, each time with another number in it."""
    place = setting.home / f"data-{size}"
    place.mkdir(exist_ok=True)
    many = [{**rows[i % len(rows)], "input": f"{i // len(rows)}. {rows[i % len(rows)]['input']}"} for i in range(size)]
    path = write_rows(place / "rows.jsonl", many)
    recipe = write_recipe(place / "train.yaml", {"model_name_or_path": str(setting.model), "train_file": str(path)})
    seen = prepare(recipe, setting.model, place, setting.threads)
    prepared = load_prepared(place / "data")
    tokens = int(prepared.train.lengths.sum())
    rate = prepared.check["rows_per_second"] * tokens / len(prepared.train)
    return {"rows": size, "tokens": tokens, "seconds": round(seen.seconds, 2), "tokens_per_second": rate}
