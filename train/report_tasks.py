"""What a run's task files came to (`make eval`): read from RUN/eval, and as rows of a table."""

import json
import math
from pathlib import Path
from typing import Any

from train.errors import InputError, problem

SIDES = ("base", "tuned", "model")  # of a run the first two; a model by itself is the third


def read_tasks(run: Path) -> list[dict[str, Any]]:
    """The results of a run, of each task and number of rows the newest. Raises InputError for a damaged file."""
    newest: dict[tuple, dict[str, Any]] = {}
    for path in sorted((run / "eval").glob("*.json")):
        found = read_result(path)
        key = (found["task"], found["about"].get("limit") or math.inf)
        if key not in newest or found["when"] > newest[key]["when"]:
            newest[key] = found
    return [newest[key] for key in sorted(newest)]


def read_result(path: Path) -> dict[str, Any]:
    """One result. Raises InputError for a damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(problem(path, "", f"is not JSON: {error}", "remove it; make eval measures again")) from None


def task_rows(found: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """A row for each metric of each task: task, metric, each side's value, difference, its error, rows; and a tone.

    The error of a difference is that of two independent measurements; since both answered the same rows, it is rather
    smaller.
    """
    rows = []
    for one in found:
        sides = one["sides"]
        for metric in dict.fromkeys(name for side in sides.values() for name in side["metrics"]):
            values = {name: sides[name]["metrics"][metric] for name in SIDES if metric in part(sides, name)}
            both = [values[name] for name in ("base", "tuned") if name in values]
            change = both[1]["value"] - both[0]["value"] if len(both) == 2 else None
            of_rows = {side["rows"] for side in sides.values()}
            rows.append({
                "task": one["task"], "metric": metric,
                **{name: f"{value['value']:.4f}" for name, value in values.items()},
                "difference": None if change is None else f"{change:+.4f}",
                "stderr": error_of(both if change is not None else list(values.values())[-1:]),
                "rows": f"{max(of_rows):,}",
                "tone": tone(change, (values.get("tuned") or {}).get("higher_is_better")),
            })  # fmt: skip
    return rows


def part(sides: dict[str, Any], name: str) -> dict[str, Any]:
    """The metrics of one side; none where it was not measured."""
    return (sides.get(name) or {}).get("metrics") or {}


def error_of(values: list[dict[str, Any]]) -> str | None:
    """The standard error of a value, or of the difference of two."""
    errors = [value["stderr"] for value in values]
    return None if None in errors else f"{math.hypot(*errors):.4f}"


def tone(change: float | None, higher_is_better: bool | None) -> str | None:
    """Whether a change is for the better; None where nobody says so."""
    if not change or higher_is_better is None:
        return None
    return "good" if (change > 0) == higher_is_better else "bad"
