"""The points of a sweep: the grid's combinations, a list, or random draws; each as SET= would give it."""

import itertools
import json
import math
import random
from typing import Any

import yaml

from train.recipe_words import number

WAYS = ("grid", "points", "random")
MOST = 256  # points of one sweep: more was always a key too many in a grid
DIGITS = 4  # of a drawn number, so that a person can write it again


def count(values: dict[str, Any]) -> int:
    """How many points there are, without making them."""
    if "grid" in values:
        return math.prod(len(listed) for listed in values["grid"].values())
    return len(values["points"]) if "points" in values else values["random"]["draws"]


def draw(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of a checked sweep.yaml, in their order."""
    if "grid" in values:
        keys = list(values["grid"])
        return [dict(zip(keys, point, strict=True)) for point in itertools.product(*values["grid"].values())]
    if "points" in values:
        return [dict(point) for point in values["points"]]
    return draw_at_random(**values["random"])


def draw_at_random(draws: int, keys: dict[str, dict[str, list]], seed: int = 0) -> list[dict[str, Any]]:
    """So many different points, or fewer where there are not as many.

    Each key has draws of its own: another key more does not change those of the others.
    """
    sources = {key: random.Random(f"{seed} {key}") for key in keys}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(100 * draws + 1000):  # between narrow bounds there may be fewer
        if len(found) == draws:
            break
        point = {key: draw_one(sources[key].random(), *next(iter(spec.items()))) for key, spec in keys.items()}
        found.setdefault(json.dumps(point, sort_keys=True), point)
    return list(found.values())


def draw_one(share: float, way: str, given: list[Any]) -> Any:
    """The value at this share (from 0, below 1) of what is drawn from."""
    if way == "choice":
        return given[int(share * len(given))]
    low, high = given
    exact = low * (high / low) ** share if way == "log_uniform" else low + (high - low) * share
    return min(max(float(f"{exact:.{DIGITS - 1}e}"), low), high)


# ---- as SET= has them ----


def settings(point: dict[str, Any]) -> list[str]:
    """The point as `key=value` settings, which read back to the same values; None takes a key away."""
    return [f"{key}={'' if value is None else in_yaml(value)}" for key, value in point.items()]


def in_yaml(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, float) and abs(value) < 1e15:
        return number(value)
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]


def words(point: dict[str, Any]) -> str:
    """The point for a person."""
    return " ".join(settings(point)) or "the recipe as it is"
