"""A sweep's points against the recipe they vary: rules between values, equal points, the metric."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scripts.chain import ROOT
from scripts.run import OVERLAYS, find_overlay, own_recipe
from scripts.runs import WITHOUT_EFFECT
from scripts.sweep.file import SweepFile, read_sweep
from scripts.sweep.points import settings, words
from train.errors import InputError, attempt, problem
from train.recipe import apply_settings, complaints_about, with_defaults
from train.recipe_rules import has_validation

SHOWN = 4  # points that a message names
TRIED = {"eval_loss": "validation loss", "exact_match": "exact match", "rouge": "ROUGE-L"}  # the metrics, in words
# Keys that also decide which rows or tokens are validated; seed draws the rows where they are split off.
SAME_ROWS = ("model_name_or_path", "seed", "validation_size", "validation_file", "dataset_name", "train_file",
             "max_eval_samples", "max_length", "overlong", "train_on_inputs", "data_format", "row_filter")  # fmt: skip


def find_sweep(arguments: argparse.Namespace) -> SweepFile:
    """The sweep that the make line names, checked with the recipe. Raises InputError with every problem of both."""
    recipe = find_overlay(arguments.overlay)
    problems: list[str] = []
    path = Path(arguments.sweep) if arguments.sweep else (OVERLAYS / arguments.overlay / "sweep.yaml")
    sweep = attempt(problems, read_sweep, path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    found = attempt(problems, own_recipe, recipe, arguments)
    if sweep and found:
        problems += check_points(sweep, *found, arguments)
    elif found:
        problems += found[1]
    if problems:
        raise InputError(problems)
    return sweep


def of_point(arguments: argparse.Namespace, point: dict[str, Any]) -> argparse.Namespace:
    """The make line of one point's run."""
    return argparse.Namespace(**vars(arguments) | {"set": [*arguments.set, *settings(point)], "run": ""})


def check_points(sweep: SweepFile, base: dict[str, Any], wrong: list[str], arguments: argparse.Namespace) -> list[str]:
    """Every problem of the points over a recipe, whose own problems are `wrong`: told only where a point has them."""
    clashes = check_make_line(sweep, arguments)
    told: dict[tuple[str, str, str], list[int]] = {}
    recipes: dict[str, list[int]] = {}
    for number, point in enumerate(sweep.points):
        values = apply_settings(base, settings(point))
        complaints = [*complaints_about(values), *check_metric(sweep.metric, values)]
        for complaint in complaints:
            told.setdefault(complaint, []).append(number)
        if not complaints:
            recipes.setdefault(effective(values), []).append(number)
    own = {complaint: text for complaint, text in zip(complaints_about(base), wrong, strict=True) if complaint in told}
    problems = [*clashes, *own.values()]
    for (key, what, fix), numbers in told.items():
        if (key, what, fix) not in own:
            problems.append(problem(f"{sweep.place(numbers)}: {named(sweep, numbers)}", key, what, fix))
    for numbers in recipes.values():
        if len(numbers) > 1:
            what = f"{listed(sweep, numbers)} are the same recipe"
            problems.append(problem(sweep.place(numbers[1:]), "", what, "keep one of them"))
    return problems


def check_make_line(sweep: SweepFile, arguments: argparse.Namespace) -> list[str]:
    """A value comes from the make line or from the sweep, not from both."""
    laid = {setting.partition("=")[0]: "SET" for setting in arguments.set}
    laid |= {"model_name_or_path": "MODEL"} if arguments.model else {}
    laid |= {"train_file": "DATA", "dataset_name": "DATA"} if arguments.data else {}
    keys = dict.fromkeys(key for point in sweep.points for key in point)
    fix = f"leave it out of {sweep.path}, or off the make line"
    return [problem(laid[key], key, f"is also varied by {sweep.path}", fix) for key in keys if key in laid]


def check_metric(metric: str, values: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    """What a recipe lacks for the best point to be known."""
    if not has_validation(values):
        yield "metric", f"is {metric}, which needs validation rows", "add validation_size: 0.1 or validation_file"
    elif metric != "eval_loss" and not values.get(metric):
        yield (
            "metric",
            f"is {metric}, which the recipe does not count",
            f"add {metric}: true to the recipe or by SET",
        )


def effective(values: dict[str, Any]) -> str:
    """All that decides what a recipe learns, as one text."""
    whole = {key: value for key, value in vars(with_defaults(values)).items() if key not in WITHOUT_EFFECT}
    return json.dumps(whole, sort_keys=True)


def named(sweep: SweepFile, numbers: list[int]) -> str:
    """Points for a message: all of them, or which."""
    return "every point" if len(numbers) == len(sweep.points) > 1 else listed(sweep, numbers)


def listed(sweep: SweepFile, numbers: list[int]) -> str:
    """Points by number and values, the first of them."""
    shown = [f"{number + 1} ({words(sweep.points[number])})" for number in numbers[:SHOWN]]
    more = [f"{len(numbers) - SHOWN} more"] if len(numbers) > SHOWN else []
    *first, last = [*shown, *more]
    return f"points {', '.join(first)} and {last}" if first else f"point {last}"


def note_on_rows(sweep: SweepFile) -> str:
    """A word of warning where the points' validation losses are not about the same rows; empty where they are."""
    keys = dict.fromkeys(key for point in sweep.points for key in point if key in SAME_ROWS)
    if not keys:
        return ""
    also = "also decides" if len(keys) == 1 else "also decide"
    return f"note: {', '.join(keys)} {also} what is validated, so these points' figures may be of different rows"


def gather(sweep: SweepFile, plan: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """`plan` of every point. Raises InputError with all problems, each once, with the points that it is of."""
    plans, told = [], {}
    for number, point in enumerate(sweep.points):
        problems: list[str] = []
        plans.append(attempt(problems, plan, point))
        for text in problems:
            told.setdefault(text, []).append(number)
    if told:
        everyone = len(sweep.points)
        raise InputError([text if len(numbers) == everyone else f"{named(sweep, numbers)}: {text}"
                          for text, numbers in told.items()])  # fmt: skip
    return plans
