"""What a key of cluster.yaml may hold, and what is wrong with what it holds, in words a person can act on.

Serves scripts/cluster/placement.py and docs/placement.md, so that a message and the manual say the same.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import jsonschema

from train.recipe_words import KINDS, LIMITS, one_of, shown

Complaints = Iterator[tuple[str, str, str]]  # key, problem, fix
Schema = dict[str, Any]


def explain(error: jsonschema.ValidationError, schema: Schema) -> Complaints:
    """One broken rule of the schema in words. Yields (key with dots, problem, fix)."""
    path, value = list(error.path), error.instance
    spec = at(schema, path)
    if error.validator == "additionalProperties":
        for key in [key for key in value if key not in spec["properties"]]:
            yield dotted([*path, key]), "is no key of a placement", unknown_key(schema, path, str(key))
        return
    if error.validator == "required":
        for key in [key for key in error.validator_value if key not in value]:
            inside = spec["properties"][key]
            yield dotted([*path, key]), "is missing", f"add it: {allowed(inside)}. It means: {inside['description']}"
        return
    if error.validator == "propertyNames" or "propertyNames" in error.schema_path:
        if path and path[0] == "resources":
            fix = "write cpu, memory, ephemeral-storage or a name with its domain, such as nvidia.com/gpu"
            yield dotted([*path, value]), "is no resource of a node", near(str(value), spec["properties"]) or fix
        else:
            fix = "write letters, digits, dashes, dots: zone, example.com/zone"
            yield dotted([*path, value]), "is no label's key", fix
        return
    whole = spec if "description" in spec else at(schema, path[:-1])  # an item of a list is described with its list
    fix = f"give {allowed(whole)}. It means: {whole['description']}"
    if isinstance(value, str) and value.strip().isdecimal() and spec.get("type") == "integer":
        fix = f"write {value.strip()}, without quotes"
    elif isinstance(value, (bool, int, float)) and ("string" in kinds(spec) or spec.get("const") == str(value).lower()):
        fix = f'write "{str(value).lower()}", in quotes'
    safe = re.sub(r"//[^/@]*@", "//...@", shown(value))  # a proxy's password is no word for a log
    yield dotted(path), f"is {safe}, but {wanted(error)}", fix


def at(schema: Schema, path: list[Any]) -> Schema:
    """The part of the schema that describes the value at this path."""
    for part in path:
        if isinstance(part, int):
            schema = schema["items"]
        elif part in schema.get("properties", {}):
            schema = schema["properties"][part]
        else:
            schema = schema["additionalProperties"] or {}  # false where the key is unknown
    return schema


def leaves(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Schema, bool]]:
    """Every key that holds a value, with dots, what it may hold, and whether it must be given where its parent is."""
    for key, spec in schema["properties"].items():
        if "properties" in spec:
            yield from leaves(spec, (*path, key))
        else:
            yield dotted([*path, key]), spec, key in schema["required"]


def unknown_key(schema: Schema, path: list[Any], key: str) -> str:
    """What to write instead of a key that no placement has: one of its neighbours, or the same word elsewhere."""
    known = [name for name, _, _ in leaves(schema)]
    sections = {name.rpartition(".")[0] for name in known}
    same = [name for name in [*known, *sorted(sections)] if name.rpartition(".")[2] == key]
    if same:
        return f"write {one_of(same)}" + ("" if path else ": it stands there")
    return (
        near(key, at(schema, path)["properties"])
        or near(key, known)
        or ("look it up in docs/placement.md, which lists every key, or remove it")
    )


def near(key: str, known: Any) -> str:
    """`write` and the known key that looks most like this one; empty where none does."""
    lower = {name.lower().replace("_", "").replace("-", ""): name for name in known}
    found = difflib.get_close_matches(key.lower().replace("_", "").replace("-", ""), lower, n=1, cutoff=0.7)
    return f"write {lower[found[0]]}" if found else ""


def allowed(spec: Schema) -> str:
    """What a key may hold: its own words, its options, or its kind and range."""
    if "x-values" in spec:
        return spec["x-values"]
    if "const" in spec:
        return f"`{spec['const']}`"
    if "enum" in spec:
        return one_of([f"`{option}`" for option in spec["enum"]])
    if spec["type"] == "object":
        names = list(spec.get("properties", {}))
        return f"{', '.join(names)}, each with its value" if names else "names with values, {name: value}"
    limits = [f"{word} {spec[limit]}" for limit, word in LIMITS.items() if limit in spec]
    return " ".join([KINDS[spec["type"]], *limits])


def wanted(error: jsonschema.ValidationError) -> str:
    """What the schema wants in place of a wrong value."""
    limit = error.validator_value
    words = {
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "minLength": "must not be empty",
        "minItems": "must not be empty",
        "minProperties": "must not be empty",
        "maxLength": f"may have at most {limit} characters",
        "uniqueItems": "must not repeat an item",
        "enum": "must be one of those known",
        "const": f"must be {limit}",
        "pattern": "is not written so",
    }
    if error.validator == "type":
        return f"must be {' or '.join(KINDS[kind] for kind in kinds({'type': limit}))}"
    return words.get(str(error.validator), error.message)


def kinds(spec: Schema) -> list[str]:
    """The types a value may have."""
    kind = spec.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)


def dotted(path: list[Any]) -> str:
    """A path as a person writes it: resources.limits.cpu, deviceGroups[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")
