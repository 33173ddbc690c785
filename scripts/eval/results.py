"""What was measured with task files: one JSON file a task and everything that decides it, and the table of them."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.files import write_json
from train.report_tasks import read_result, task_rows


def result_path(home: Path, task: str, about: dict[str, Any]) -> Path:
    """The file of a task that was asked of these models in this way: equal inputs have the same name."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    return home / f"{task}-{key}.json"


def read(path: Path) -> dict[str, Any]:
    """A result; empty where there is none. Raises InputError for a file that is none."""
    return read_result(path) if path.is_file() else {}


def keep(path: Path, task: str, side: str, about: dict[str, Any], found: dict[str, Any]) -> None:
    """Add what one side of a task came to, by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = read(path) or {"task": task, "about": about, "sides": {}}
    whole["sides"][side] = found
    whole["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, whole)


def figures(results: dict[str, Any], task: str) -> dict[str, Any]:
    """Of what the harness returns: each metric with its error, and how many rows there were."""
    metrics = {}
    for key, value in results["results"][task].items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results["results"][task].get(f"{metric}_stderr,{kind}")
        better = (results.get("higher_is_better") or {}).get(task, {}).get(metric)
        name = metric if kind == "none" else f"{metric} ({kind})"
        error = float(error) if isinstance(error, int | float) else None
        metrics[name] = {"value": float(value), "stderr": error, "higher_is_better": better}
    return {"metrics": metrics, "rows": results["n-samples"][task]["effective"]}


def table(found: list[dict[str, Any]]) -> list[str]:
    """The results for a person."""
    rows = task_rows(found)
    keys = [key for key in ("task", "metric", "base", "tuned", "difference", "model", "stderr", "rows")
            if any(row.get(key) for row in rows)]  # fmt: skip
    wide = {key: max(len(key), *(len(row.get(key) or "-") for row in rows)) for key in keys}
    lines = ["  ".join(placed(key, key, wide[key]) for key in keys)]
    lines += ["  ".join(placed(key, row.get(key) or "-", wide[key]) for key in keys) for row in rows]
    return [line.rstrip() for line in lines]


def placed(key: str, text: str, wide: int) -> str:
    """A cell: words to the left, numbers to the right."""
    return text.ljust(wide) if key in ("task", "metric") else text.rjust(wide)
