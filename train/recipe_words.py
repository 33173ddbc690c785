"""What a recipe's key may hold, and what is wrong with what it holds, in words a person can act on.

Serves the recipe's loader and docs/parameters.md, so that a message and the manual say the same.
"""

import difflib
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

Complaints = Iterator[tuple[str, str, str]]  # key, problem, fix
KINDS = {
    "string": "text",
    "boolean": "`true` or `false`",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "names with values, {name: value}",
}
LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def explain(error: jsonschema.ValidationError, values: dict[str, Any], known: dict[str, Any]) -> Complaints:
    """One broken rule of the schema in words. Yields (key, problem, fix)."""
    if error.validator == "additionalProperties" and not error.path:
        for key in [key for key in values if key not in known]:
            yield str(key), "is no key of a recipe", unknown_key(str(key), values[key], known)
        return
    if error.validator == "required":
        for key in [key for key in error.validator_value if key not in values]:
            yield key, "is missing", f"add it: {known[key]['description']}"
        return
    top, *inside = error.path
    key, spec, value = f"{top}{''.join(f'[{part}]' for part in inside)}", known[top], error.instance
    what = f"is {shown(value)}"
    fix = f"give {allowed(spec)}{default(spec)}. It means: {spec['description']}"
    if error.validator == "type" and looks_like_number(value):
        plain = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        yield key, f"{what}, which YAML reads as text, not as a number", f"write {number(plain)}"
    elif error.validator == "enum" and value is False and "no" in error.validator_value:
        yield key, "is false: so YAML reads a bare no", "write 'no', in quotes"
    else:
        yield key, f"{what}, but {wanted(error, spec)}", fix


def unknown_key(key: str, value: Any, known: dict[str, Any]) -> str:
    """What to write instead of a key that no recipe has."""
    if isinstance(value, dict):
        return f"a recipe has no sections: move what stands under {key} to the left margin, and remove {key}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return f"write {near[0]}" if near else "look it up in docs/parameters.md, which lists every key, or remove it"


def wanted(error: jsonschema.ValidationError, spec: dict[str, Any]) -> str:
    """What the schema wants in place of a wrong value."""
    limit = error.validator_value
    words = {
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "exclusiveMinimum": f"must be more than {limit}",
        "exclusiveMaximum": f"must be less than {limit}",
        "minLength": "must not be empty",
        "minItems": "must not be empty",
        "uniqueItems": "must not repeat an item",
        "oneOf": f"must be {allowed(spec)}, each named once",
        "enum": "must be one of those known",
        "pattern": "must be a full commit",
    }
    if error.validator == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        return f"must be {' or '.join(KINDS[kind] for kind in kinds)}"
    return words.get(str(error.validator), error.message)


def allowed(spec: dict[str, Any]) -> str:
    """What a key may hold: its options, or its kind and range."""
    if "enum" in spec:
        return one_of([f"`{yaml_word(option)}`" for option in spec["enum"]])
    if "oneOf" in spec:
        return one_of([f"`{part['const']}`" if "const" in part else allowed(part) for part in spec["oneOf"]])
    if spec["type"] == "array":
        return f"a list of {allowed(spec['items'])}"
    if spec["type"] == "object":
        inside = spec["additionalProperties"]
        kinds = inside["type"] if isinstance(inside["type"], list) else None
        return f"names, each with {one_of([KINDS[kind] for kind in kinds]) if kinds else allowed(inside)}"
    limits = [f"{word} {number(spec[limit])}" for limit, word in LIMITS.items() if limit in spec]
    commit = ["of 40 hexadecimal digits"] if "pattern" in spec else []
    return " ".join([KINDS[spec["type"]], *limits, *commit])


def default(spec: dict[str, Any]) -> str:
    """The default in brackets, where a key has a short one."""
    text = yaml_word(spec["default"]) if "default" in spec else ""
    return f" (default `{text}`)" if text and len(text) < 30 else ""


def one_of(options: list[str]) -> str:
    """a, b or c"""
    return " or ".join([", ".join(options[:-1]), options[-1]]) if options[1:] else options[0]


def shown(value: Any) -> str:
    """A value as it stands in a message."""
    if isinstance(value, float):
        return number(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def yaml_word(value: Any) -> str:
    """A default or an option as YAML writes it; a text of several lines with its line ends as \\n."""
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) and "\n" not in value else json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    """A number as it may stand in YAML: small ones with a dot and an exponent (2.0e-4)."""
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.15e}".split("e")
        digits = mantissa.rstrip("0")
        return f"{digits}{'0' if digits.endswith('.') else ''}e{int(exponent)}"
    return str(value)


def looks_like_number(value: Any) -> bool:
    """True for text such as 2e-4, which YAML 1.1 does not read as a number."""
    if not isinstance(value, str):
        return False
    try:
        return abs(float(value)) < float("inf")
    except ValueError:
        return False
