"""One reader for every sweep.yaml: read it, check it and every recipe value in it, draw its points.

All problems are raised together as InputError, each with the file, the line, the key, the value and the fix.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from scripts.cluster.placement_words import at, dotted, wanted
from scripts.sweep.points import MOST, WAYS, count, draw
from train.errors import InputError, problem
from train.recipe import complaints_by_schema
from train.recipe import schema as recipe_schema
from train.recipe_words import shown
from train.yaml_file import read_mapping

SCHEMA_PATH = Path(__file__).resolve().parents[2] / "schemas" / "sweep.schema.json"
PAGE = "docs/sweeps.md"
Complaints = Iterator[tuple[list[Any], str, str]]  # path, problem, fix


@dataclass(frozen=True)
class SweepFile:
    """What a sweep.yaml says; a point holds the recipe keys in which it differs, None for a key's default."""

    path: Path
    way: str
    points: list[dict[str, Any]]
    at_once: int
    metric: str
    lines: dict[str, int]

    def place(self, numbers: list[int]) -> str:
        """File and line of the first of these points (from 0)."""
        line = self.lines.get(f"{self.way}[{numbers[0]}]") or self.lines[self.way]
        return f"{self.path}:{line}"


def schema() -> dict[str, Any]:
    """The schema of sweep.yaml, as it lies in schemas/."""
    return json.loads(SCHEMA_PATH.read_text())


def read_sweep(path: Path) -> SweepFile:
    """Read and check a sweep.yaml. Raises InputError with every problem found."""
    fix = f"write one as {PAGE} shows, or take another by SWEEP=file"
    if not path.exists():
        raise InputError(problem(path, "", "there is no such file", fix))
    values, node = read_mapping(path, "sweep.yaml", "write one `key: value` a line", fix)
    lines, problems = {}, []
    for key, line in keys_with_lines(node, []):
        if key in lines:
            problems.append(problem(f"{path}:{line}", key, f"is given twice (first on line {lines[key]})", "keep one"))
        lines.setdefault(key, line)
    errors = sorted(jsonschema.Draft202012Validator(schema()).iter_errors(values), key=lambda one: dotted(one.path))
    found = [complaint for error in errors for complaint in explain(error)]
    found += check_ways(values)
    unsound = {error.path[0] if error.path else "" for error in errors}
    sound = {way: values[way] for way in WAYS if way in values and way not in unsound}
    found += [*check_recipe_values(sound), *check_number(sound)]
    problems += [problem(place_of(path, lines, dotted(where)), dotted(where), what, fix) for where, what, fix in found]
    if problems:
        raise InputError(problems)
    way = next(way for way in WAYS if way in values)
    defaults = {key: spec["default"] for key, spec in schema()["properties"].items() if "default" in spec}
    whole = defaults | values
    points = draw(values)
    if way == "random" and len(points) < values["random"]["draws"]:
        where, what = place_of(path, lines, "random.draws"), f"is more than the {len(points)} different ones there are"
        raise InputError(problem(where, "random.draws", what, f"write {len(points)}, or draw from wider bounds"))
    return SweepFile(path, way, points, whole["at_once"], whole["metric"], lines)


def keys_with_lines(node: yaml.Node, path: list[Any]) -> Iterator[tuple[str, int]]:
    """Every key and every item of a list, as messages name them, with its line."""
    inside = []
    if isinstance(node, yaml.MappingNode):
        inside = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inside = [(number, value, value) for number, value in enumerate(node.value)]
    for name, begins, value in inside:
        yield dotted([*path, name]), begins.start_mark.line + 1
        yield from keys_with_lines(value, [*path, name])


def place_of(path: Path, lines: dict[str, int], key: str) -> str:
    """The file with the line of a key, or of the nearest one above it that has one."""
    while key and key not in lines:
        key = key.rpartition("[" if key.endswith("]") else ".")[0]
    return f"{path}:{lines[key]}" if key else f"{path}"


# ---- what is wrong, in words ----


def explain(error: jsonschema.ValidationError) -> Complaints:
    """One broken rule of the schema in words."""
    path, value, known = list(error.path), error.instance, error.schema.get("properties", {})
    if error.validator == "additionalProperties":
        for key in [key for key in value if key not in known]:
            yield [*path, key], "is no key of a sweep", unknown_key(str(key), value[key], path, known)
        return
    if error.validator == "required":
        for key in [key for key in error.validator_value if key not in value]:
            yield [*path, key], "is missing", f"add {at(schema(), [*path, key])['x-example']}"
        return
    words = {"minItems": f"must have {error.validator_value} or more", "maxItems": "has too many",
             "maxProperties": "must be drawn from one thing alone", "exclusiveMinimum": "must be above 0"}  # fmt: skip
    what = words.get(str(error.validator)) or wanted(error)
    spec = error.schema
    yield path, f"is {shown(value)}, but {what}", f"write {spec['x-example']}. It means: {spec['description']}"


def unknown_key(key: str, value: Any, path: list[Any], known: dict[str, Any]) -> str:
    """What to write instead of a key that no sweep has there."""
    if not path and key in recipe_schema()["properties"]:
        listed = value if isinstance(value, list) else [value]
        return f"it is a key of recipes, and goes under grid: grid: {{{key}: {json.dumps(listed)}}}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"write {near[0]}" if near else f"take one of: {', '.join(known)}"


def check_ways(values: dict[str, Any]) -> Complaints:
    """Points come from one place."""
    given = [way for way in WAYS if way in values]
    if not given:
        yield [], "says no points", f"add {schema()['properties']['grid']['x-example']}, or points, or random"
    for way in given[1:]:
        yield [way], f"is given beside {given[0]}", "keep one of them"


def check_recipe_values(values: dict[str, Any]) -> Complaints:
    """Every key and value that a point may get, by the schema of recipes; rules between them come with each point."""
    rules = recipe_schema() | {"required": []}
    for path, key, value in recipe_values(values):
        if value is None and key in rules["properties"]:
            continue  # the key's default
        for _, what, fix in complaints_by_schema({key: value}, rules)[0]:
            yield path, what, fix
    for key, spec in values.get("random", {}).get("keys", {}).items():
        way, given = next(iter(spec.items()))
        where = ["random", "keys", key, way]
        if way == "choice":
            continue
        if rules["properties"].get(key, {}).get("type") == "integer":
            yield (
                where,
                f"draws fractions, and {key} is a whole number",
                "write choice: [8, 16] with those to draw from",
            )
        elif all(isinstance(bound, (int, float)) for bound in given) and not given[0] < given[1]:
            yield where, f"is {shown(given)}, from where nothing can be drawn", "put the smaller number first"


def recipe_values(values: dict[str, Any]) -> Iterator[tuple[list[Any], str, Any]]:
    """Every value of a recipe key in the file, with its path; an unknown key is there once."""
    known = recipe_schema()["properties"]
    for key, listed in values.get("grid", {}).items():
        for number, value in enumerate(listed if key in known else listed[:1]):
            yield ["grid", key, number] if key in known else ["grid", key], key, value
    for number, point in enumerate(values.get("points", [])):
        for key, value in point.items():
            yield ["points", number, key], key, value
    for key, spec in values.get("random", {}).get("keys", {}).items():
        way, listed = next(iter(spec.items()))
        for number, value in enumerate(listed if key in known else listed[:1]):
            yield ["random", "keys", key, *([way, number] if key in known else [])], key, value


def check_number(values: dict[str, Any]) -> Complaints:
    """Not more points than a person can mean, and not more draws than there are different ones."""
    if len(values) != 1:
        return  # none, or one of them will go
    (way,), points = values, count(values)
    if points > MOST:
        yield (
            [way],
            f"makes {points:,} points, but at most {MOST} are run",
            "give fewer values, or random: {draws: 32, …}",
        )
    listed = [spec["choice"] for spec in values.get("random", {}).get("keys", {}).values() if "choice" in spec]
    if listed and len(listed) == len(values["random"]["keys"]):
        different = count({"grid": {number: distinct(choice) for number, choice in enumerate(listed)}})
        if points > different:
            yield ["random", "draws"], f"is {points}, but there are {different} different points", f"write {different}"


def distinct(choice: list[Any]) -> list[str]:
    """The different ones among these."""
    return sorted({json.dumps(one, sort_keys=True) for one in choice})
