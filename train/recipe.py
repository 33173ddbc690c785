"""One loader for every recipe (`train.yaml`): read it, check it, fill in the defaults.

All problems are raised together as InputError, each with the file, the line, the key, the value and the fix.
"""

import difflib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import yaml

from train.errors import InputError, problem
from train.recipe_rules import complaints, has_validation

SCHEMA_PATH = Path(__file__).resolve().parent.parent / "schemas" / "train.schema.json"

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
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(problem(path, "", "there is no such file", "give the path of a train.yaml")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(problem(path, "", f"cannot be read: {error}", "make it a readable UTF-8 text file")) from None
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        what = getattr(error, "problem", None) or str(error)
        raise InputError(problem(place, "", f"is not YAML: {what}", "write one `key: value` a line")) from None
    if not isinstance(values, dict):
        raise InputError(problem(path, "", "holds no keys", "write one `key: value` a line")) from None
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
    lines = lines or {}

    def complain(key: str, what: str, fix: str) -> None:
        place = f"{where}:{lines[key]}" if key in lines else where
        problems.append(problem(place, key, what, fix))

    problems: list[str] = []
    unsound = set()
    for error in sorted(jsonschema.Draft202012Validator(schema()).iter_errors(values), key=lambda e: list(e.path)):
        complain(*explain(error, values))
        unsound.update(list(error.path)[:1])
    for complaint in complaints({key: value for key, value in values.items() if key not in unsound}):
        complain(*complaint)
    return problems


def explain(error: jsonschema.ValidationError, values: dict[str, Any]) -> tuple[str, str, str]:
    """Key, problem and fix of one schema error, in words."""
    known = schema()["properties"]
    if error.validator == "additionalProperties" and not error.path:
        unknown = [key for key in values if key not in known]
        key = unknown[0] if len(unknown) == 1 else ", ".join(map(str, unknown))
        hints = []
        for name in unknown:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
            hints.append(f"write {near[0]} for {name}" if near else f"remove {name}; docs/parameters.md lists all keys")
        return key, "is no key of a recipe", "; ".join(hints)
    if error.validator == "required":
        return "model_name_or_path", "is missing", "say which model is the base: a directory or a name on the hub"
    key, spec, value = str(error.path[0]), known[str(error.path[0])], error.instance
    inside = "".join(f"[{part}]" for part in list(error.path)[1:])
    shown = f"{json.dumps(value, ensure_ascii=False, default=str)}"
    if error.validator == "type" and looks_like_number(value):
        return key, f"is {shown}{inside}, which YAML reads as text, not as a number", f"write {float(value):.1e}"
    if error.validator == "enum":
        allowed = [str(option).lower() if isinstance(option, bool) else option for option in error.validator_value]
        return key, f"is {shown}{inside}", f"take one of: {', '.join(allowed)}"
    if error.validator == "pattern":
        return key, f"is {shown}", "give the full commit: 40 hexadecimal digits"
    return key, f"is {shown}{inside}, but {expected(error)}", f"{key} is: {spec['description']}"


def expected(error: jsonschema.ValidationError) -> str:
    """What the schema wants in place of a wrong value."""
    limit = error.validator_value
    if error.validator == "type":
        return f"must be of type {limit if isinstance(limit, str) else ' or '.join(limit)}"
    return {
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "exclusiveMinimum": f"must be more than {limit}",
        "exclusiveMaximum": f"must be less than {limit}",
        "minLength": "must not be empty",
        "minItems": "must not be empty",
        "uniqueItems": "must not repeat an item",
        "oneOf": "must be all-linear or a list of module names",
    }.get(str(error.validator), error.message)


def looks_like_number(value: Any) -> bool:
    """True for text such as 2e-4, which YAML 1.1 does not read as a number."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


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
