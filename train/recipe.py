"""One loader for every recipe (`train.yaml`): read it, check it, fill in the defaults.

All problems are raised together as InputError, each with the file, the line, the key, the value and the fix.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import yaml

from train.errors import InputError, problem
from train.recipe_rules import complaints, has_validation
from train.recipe_words import explain
from train.yaml_file import read_mapping

SCHEMA_PATH = Path(__file__).resolve().parent.parent / "schemas" / "train.schema.json"

Complaint = tuple[str, str, str]  # key, problem, fix

DEFAULT_PROMPTS = {"completion": "{prompt}", "dialogue": "Summarize this dialog:\n{dialogue}\n---\nSummary:\n"}


def load_recipe(path: Path) -> SimpleNamespace:
    """Read and check a recipe.

    Returns an object with one attribute per key of the schema (None where a key without default is not given).
    Raises InputError with every problem found.
    """
    values, lines = read_yaml(path)
    problems = check_values(values, path, lines)
    if problems:
        raise InputError(problems)
    return with_defaults(values)


def with_defaults(values: dict[str, Any]) -> SimpleNamespace:
    """The checked values with the schema's defaults filled in."""
    filled = {key: values.get(key, spec.get("default")) for key, spec in schema()["properties"].items()}
    for key, spec in schema()["properties"].items():
        if spec.get("type") == "integer" and filled[key] is not None:
            filled[key] = int(filled[key])  # the schema's integers include 16.0
    if filled["prompt_template"] is None:
        filled["prompt_template"] = DEFAULT_PROMPTS.get(filled["data_format"])
    if not has_validation(values):
        filled.update(eval_strategy="no", load_best_model_at_end=False)
    return SimpleNamespace(**filled)


def schema() -> dict[str, Any]:
    """The schema of a recipe, as it lies in schemas/."""
    return json.loads(SCHEMA_PATH.read_text())


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file and the line of each of its keys; a key given twice is an error."""
    fix = "write one `key: value` a line"
    values, node = read_mapping(path, "train.yaml", fix, fix)
    lines, twice = {}, []
    for key, _ in node.value:
        if key.value in lines:
            first, second = lines[key.value], key.start_mark.line + 1
            twice.append(problem(f"{path}:{second}", key.value, f"is given twice (first on line {first})", "keep one"))
        lines.setdefault(key.value, key.start_mark.line + 1)
    if twice:
        raise InputError(twice)
    return values, lines


def check_values(values: dict[str, Any], where: object, lines: dict[str, int] | None = None) -> list[str]:
    """Every problem of a recipe's values: unknown keys, wrong types and ranges, and rules between keys."""
    lines, problems = lines or {}, []
    for key, what, fix in complaints_about(values):
        line = lines.get(key.partition("[")[0])
        problems.append(problem(f"{where}:{line}" if line else where, key, what, fix))
    return problems


def complaints_about(values: dict[str, Any]) -> list[Complaint]:
    """What is wrong with a recipe's values, by the schema and by the rules between keys."""
    found, unsound = complaints_by_schema(values, schema())
    return [*found, *complaints({key: value for key, value in values.items() if key not in unsound})]


def complaints_by_schema(values: dict[str, Any], rules: dict[str, Any]) -> tuple[list[Complaint], set[str]]:
    """What the schema says against these values, and the keys that the rules cannot be asked about."""
    found: list[Complaint] = []
    unsound = set()
    for key, value in values.items():  # no limit of the schema stops a NaN: every comparison with it is false
        if isinstance(value, float) and not math.isfinite(value):
            found.append((str(key), f"is {value}", "give a finite number"))
            unsound.add(key)
    sound = {key: value for key, value in values.items() if key not in unsound}
    for error in sorted(jsonschema.Draft202012Validator(rules).iter_errors(sound), key=place_in_schema):
        found += explain(error, values, rules["properties"])
        unsound.update(list(error.path)[:1])
    return found, unsound


def place_in_schema(error: jsonschema.ValidationError) -> list[str]:
    """Sorts errors by key."""
    return [str(part) for part in error.path]


def apply_settings(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The values with `key=value` settings laid over them; the value is read as YAML, `key=` removes the key."""
    changed = dict(values)
    problems = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            problems.append(problem("SET", setting, "is no key=value", 'write SET="lora_r=16 learning_rate=1.0e-4"'))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(problem("SET", key, f"{text!r} is not YAML", "quote it as YAML wants it"))
            continue
        changed.pop(key, None)
        if text:
            changed[key] = value
    if problems:
        raise InputError(problems)
    return changed


def dump_recipe(values: dict[str, Any]) -> str:
    """The values as YAML that reads back to just the same values."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
