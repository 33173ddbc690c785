"""What a comparison of runs says: settings that differ, figures with the best of each, answers to the same rows.

A run is a dictionary as train.report reads it, with its "name" and "status".
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.runs import WITHOUT_EFFECT, is_held, run_status
from train.errors import InputError, attempt
from train.recipe import schema
from train.report import read_run
from train.report_facts import duration, is_trained, percent, short, shown, side, step_lines
from train.report_plots import Point, smoothed
from train.rouge import NAMES

Run = dict[str, Any]
ABSENT = "-"


@dataclass(frozen=True)
class Metric:
    """A figure of a run: how it is found (None where it is not there), written, and which is better.

    `judges` is for figures over the held-out rows, which tell nothing where those rows differ.
    """

    name: str
    value: Callable[[Run], float | None]
    form: Callable[[float], str]
    better: Callable | None = None
    judges: bool = False


# ---- reading ----


def read_runs(paths: list[Path]) -> list[Run]:
    """All that is compared of each run. Raises InputError with every file that cannot be read."""
    problems: list[str] = []
    runs = [attempt(problems, read_one, path) for path in paths]
    if problems:
        raise InputError(problems)
    return runs


def read_one(path: Path) -> Run:
    """One run, and how it stands."""
    content = read_run(path)
    held = (path / ".lock").exists() and is_held(path)  # asking makes the file, and a copy may not be writable
    return content | {"name": path.name, "status": "running" if held else run_status(path)}


# ---- settings ----


def settings(runs: list[Run]) -> list[dict[str, Any]]:
    """Model, data, processes, and the keys of the recipes that differ: {"key", "about", "values", "differs"}."""
    found = [
        row_of("model", "The base model, and the first digits of its weights' hash.", [model_of(run) for run in runs]),
        row_of("data", "The first digits of the prepared rows' digest.", [data_of(run) for run in runs]),
        row_of("processes", "Processes x threads of each.", [processes_of(run) for run in runs]),
    ]
    for key, spec in schema()["properties"].items():
        if key in WITHOUT_EFFECT or key == "model_name_or_path":
            continue
        values = [shown((run["record"].get("recipe") or {}).get(key)) for run in runs]
        row = row_of(key, spec["description"], values)
        found += [row] if row["differs"] else []
    return found


def row_of(key: str, about: str, values: list[str]) -> dict[str, Any]:
    """One setting of all runs."""
    return {"key": key, "about": about, "values": values, "differs": len(set(values)) > 1}


def common(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The settings that are always told and the same in all runs."""
    return [(row["key"], row["values"][0]) for row in rows if not row["differs"]]


def in_words(pairs: list[tuple[str, str]]) -> str:
    """Settings in a line."""
    return ", ".join(f"{key} {value}" for key, value in pairs) or "neither model, data nor processes"


def model_of(run: Run) -> str:
    """Name and hash of the base model."""
    record = run["record"]
    base, recipe = record.get("base_model") or {}, record.get("recipe") or {}
    weights = [one["sha256"] for name, one in sorted((base.get("files") or {}).items()) if name != "config.json"]
    digest = weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()
    name = base.get("name") or recipe.get("model_name_or_path") or "unknown"
    return f"{name} {digest[:8]}" if weights else name


def data_of(run: Run) -> str:
    """The rows' digest."""
    digest = (run["record"].get("data") or {}).get("digest") or (run["check"] or {}).get("digest")
    return digest[:8] if digest else "not prepared"


def processes_of(run: Run) -> str:
    """Processes and threads."""
    layout = run["record"].get("layout") or run["record"]
    return f"{layout['processes']} x {layout['threads']}" if layout.get("processes") else "unknown"


# ---- figures ----


def validation_loss(run: Run) -> float | None:
    """Of the result, else the best or last one during the training."""
    after, training = run["after"] or {}, run["training"] or {}
    if after.get("eval_loss") is not None:
        return after["eval_loss"]
    if training.get("best_eval_loss") is not None:
        return training["best_eval_loss"]
    curve = validation_curve(run)
    return curve[-1][1] if curve else None


def exact_match(run: Run) -> float | None:
    """The share of held-out answers to the letter."""
    found = (run["after"] or {}).get("exact_match")
    return found and found["share"]


def rouge_of(key: str) -> Callable[[Run], float | None]:
    """One of the measures of ROUGE of the result."""
    return lambda run: ((run["after"] or {}).get("rouge") or {}).get(key)


def last_loss(run: Run) -> float | None:
    """The smoothed loss at the last step."""
    curve = training_curve(run)
    return curve[-1][1] if curve else None


def of_training(key: str, of_lines: Callable[[list[dict]], float]) -> Callable[[Run], float | None]:
    """A figure of the training's record, while there is none of the steps so far."""

    def value(run: Run) -> float | None:
        found = (run["training"] or {}).get(key)
        lines = step_lines(run)
        return of_lines(lines) if found is None and lines else found

    return value


def rate(lines: list[dict]) -> float:
    """Tokens per second over all steps."""
    seconds = sum(line["seconds"] for line in lines)
    return sum(line["tokens"] for line in lines) / seconds if seconds else 0.0


METRICS = (
    Metric("validation loss", validation_loss, short, min, judges=True),
    Metric("exact match", exact_match, percent, max, judges=True),
    *(Metric(name, rouge_of(key), "{:.3f}".format, max, judges=True) for key, name in NAMES.items()),
    Metric("training loss", last_loss, short, min),
    Metric("steps", of_training("steps", lambda lines: lines[-1]["step"]), "{:,}".format),
    Metric("time", of_training("seconds", lambda lines: sum(line["seconds"] for line in lines)), duration, min),
    Metric("tokens/s", of_training("tokens_per_second", rate), "{:,.0f}".format, max),
    Metric("memory", of_training("peak_memory_gb", lambda lines: max(line["memory_gb"] for line in lines)),
           "{:.2f} GB".format, min),
)  # fmt: skip


def metrics(runs: list[Run]) -> list[dict[str, Any]]:
    """Each figure of all runs, the best marked: {"name", "cells"}; those that no run has are left out.

    A run whose training is not finished takes no part in what is best, nor do all where every value is the same.
    """
    found = []
    for metric in METRICS:
        values = [metric.value(run) for run in runs]
        if all(value is None for value in values):
            continue
        told = [ABSENT if value is None else metric.form(value) for value in values]
        best = best_of(metric, runs, values)
        shown_best = None if best is None else metric.form(best)
        if shown_best and all(text in (shown_best, ABSENT) for text in told):
            shown_best = None  # a difference that nobody sees is none
        largest = max((abs(value) for value in values if value is not None), default=0) or 1
        cells = [
            {"shown": text, "share": abs(value or 0) / largest, "best": text == shown_best and is_trained(run)}
            for run, value, text in zip(runs, values, told, strict=True)
        ]
        found.append({"name": metric.name, "cells": cells})
    return found


def best_of(metric: Metric, runs: list[Run], values: list[float | None]) -> float | None:
    """The best value, None where there is no sense in one."""
    taking_part = [value for run, value in zip(runs, values, strict=True) if value is not None and is_trained(run)]
    if not metric.better or len(taking_part) < 2 or (metric.judges and not same_rows(runs)):
        return None
    return metric.better(taking_part)


def same_rows(runs: list[Run]) -> bool:
    """Whether all runs that have held-out rows have the same."""
    return len({json.dumps(held_out(run), sort_keys=True) for run in runs if run["check"] or data_of(run)}) <= 1


def held_out(run: Run) -> Any:
    """What tells held-out rows apart: their number and tokens, else the digest of all rows."""
    check = run["check"] or {}
    tokens = (check.get("tokens") or {}).get("validation")
    return [check["rows"]["validation"]["kept"], tokens["total"], tokens["trained"]] if tokens else data_of(run)


def notes(runs: list[Run]) -> list[str]:
    """What a reader must know to read the figures right."""
    said = []
    if not same_rows(runs):
        said.append("The held-out rows are not the same in all runs: their losses, matches and ROUGE cannot be "
                    "compared, so none is marked.")  # fmt: skip
    unfinished = [run["name"] for run in runs if not is_trained(run)]
    if unfinished:
        said.append(f"Not finished, shown as far as it came, and never the best: {', '.join(unfinished)}.")
    return said


def best_in_words(runs: list[Run], found: list[dict[str, Any]]) -> list[str]:
    """Of each figure that has a best: which run, and how good."""
    said = []
    for metric in found:
        names = [(run["name"], cell) for run, cell in zip(runs, metric["cells"], strict=True) if cell["best"]]
        if names:
            said.append({"figure": metric["name"], "shown": names[0][1]["shown"], "runs": [name for name, _ in names]})
    return said


# ---- curves ----


def training_curve(run: Run) -> list[Point]:
    """Smoothed training loss over the steps; a few steps as they are."""
    points = [(line["step"], line["loss"]) for line in step_lines(run)]
    return smoothed(points) or points


def validation_curve(run: Run) -> list[Point]:
    """Validation loss over the steps."""
    return [(line["step"], line["eval_loss"]) for line in run["metrics"] if "eval_loss" in line]


# ---- samples ----


def samples(runs: list[Run]) -> list[dict[str, Any]]:
    """The held-out rows that were answered: prompt, wanted answer, and the different answers before and after.

    An answer that several runs gave stands there once, with all of them.
    """
    found: dict[tuple, dict[str, Any]] = {}
    for run in runs:
        judge = bool((run["record"].get("recipe") or {}).get("exact_match"))
        for when in ("before", "after"):
            for one in (run[when] or {}).get("samples", []):
                key = (one["row"], one["prompt"], one["answer"])
                row = found.setdefault(
                    key, {"row": key[0], "prompt": key[1], "answer": key[2], "before": {}, "after": {}}
                )
                answer = side(one, one["answer"], judge)
                group = row[when].setdefault((answer["text"], answer["stopped"]), answer | {"runs": []})
                group["runs"].append(run)
    rows = sorted(found.values(), key=lambda row: row["row"])
    return [row | {when: list(row[when].values()) for when in ("before", "after")} for row in rows]
