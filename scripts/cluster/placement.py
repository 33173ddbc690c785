"""One reader for every placement (`cluster.yaml`): read it, check it, lay values over it, write it.

All problems are given together, each with the file, the line, the key, the value and the fix.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from scripts.cluster.names import OVERLAY
from scripts.cluster.placement_rules import complaints
from scripts.cluster.placement_words import Schema, at, dotted, explain, kinds
from train.errors import InputError, problem
from train.yaml_file import read_mapping

SCHEMA_PATH = Path(__file__).resolve().parents[2] / "schemas" / "cluster.schema.json"
HEAD = {
    "apiVersion": "tunefleet.io/v1",
    "kind": "RunParameters",
    "metadata": {"name": "cluster", "annotations": {"config.kubernetes.io/local-config": "true"}},
}
Lines = dict[str, int]  # key with dots -> line of the file


def schema() -> dict[str, Any]:
    """The schema of cluster.yaml, as it lies in schemas/."""
    return json.loads(SCHEMA_PATH.read_text())


def spec_schema() -> dict[str, Any]:
    """The part of the schema that describes `spec`, where all values are."""
    return schema()["properties"]["spec"]


def read_placement(path: Path) -> tuple[dict[str, Any], Lines]:
    """The spec of a cluster.yaml and the line of each of its keys. Raises InputError where it is no such object."""
    whole, lines = read_object(path)
    head = schema() | {"required": ["apiVersion", "kind", "metadata", "spec"]}
    head["properties"]["spec"] = {"type": "object", "description": "The values of the placement."}
    problems = in_words(whole, head, path, lines, schema())
    if problems:
        spec = whole.get("spec")
        inside = {key.removeprefix("spec."): line for key, line in lines.items()}
        raise InputError(problems + (in_words(spec, spec_schema(), path, inside) if isinstance(spec, dict) else []))
    return whole["spec"], {key.removeprefix("spec."): line for key, line in lines.items() if key.startswith("spec.")}


def read_object(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file and the lines of its keys; a key given twice is an error."""
    line_fix = "write one `key: value` a line, indented as in template"
    whole, node = read_mapping(path, "cluster.yaml", line_fix, "copy kustomize/overlays/template/cluster.yaml")
    lines: Lines = {}
    twice = []
    for key, line in keys_with_lines(node, []):
        if key in lines:
            what = f"is given twice (first on line {lines[key]})"
            twice.append(problem(f"{path}:{line}", key.removeprefix("spec."), what, "keep one"))
        lines.setdefault(key, line)
    if twice:
        raise InputError(twice)
    return whole, lines


def keys_with_lines(node: yaml.Node, path: list[str]) -> Iterator[tuple[str, int]]:
    """Every key of nested mappings, with dots, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inside = [*path, str(key.value)]
            yield dotted(inside), key.start_mark.line + 1
            yield from keys_with_lines(value, inside)


def in_words(values: Any, rules: Schema, where: object, lines: Lines, whole: Schema | None = None) -> list[str]:
    """Every problem that the schema has with these values; `whole` has the words where `rules` leave some out."""
    errors = sorted(jsonschema.Draft202012Validator(rules).iter_errors(values), key=lambda error: dotted(error.path))
    told_once = dict.fromkeys(complaint for error in errors for complaint in explain(error, whole or rules))
    return [told(where, lines, *complaint) for complaint in told_once]


def told(where: object, lines: Lines, key: str, what: str, fix: str) -> str:
    """One problem with its line: that of the key, or of the nearest one above it that has one."""
    above = key
    while above and above not in lines:
        above = above.rpartition("[" if above.endswith("]") else ".")[0]
    return problem(f"{where}:{lines[above]}" if above else where, key, what, fix)


def check_placement(
    spec: dict[str, Any], components: list[str], runtime: str, where: object, lines: Lines | None = None
) -> list[str]:
    """Every problem of a placement with these components and this runtime: keys, values, and rules between them."""
    lines = lines or {}
    problems = in_words(spec, spec_schema(), where, lines)
    errors = jsonschema.Draft202012Validator(spec_schema()).iter_errors(spec)
    unsound = {str(part) for error in errors for part in list(error.path)[:1]}
    sound = {key: value for key, value in spec.items() if key not in unsound}
    for complaint in complaints(sound, set(spec), components, runtime, spec_schema()):
        problems.append(told(where, lines, *complaint))
    return problems


def apply_places(spec: dict[str, Any], places: list[str]) -> dict[str, Any]:
    """The spec with `key=value` laid over it (`resources.limits.cpu=2`); `key=` takes the key away."""
    changed, problems = deepcopy(spec), []
    for place in places:
        key, equals, text = place.partition("=")
        if not equals or not key:
            fix = 'write PLACE="nodes=1 resources.limits.cpu=2"'
            problems.append(problem("PLACE", place, "is no key=value", fix))
            continue
        try:
            lay(changed, path_of(key), text)
        except yaml.YAMLError:
            problems.append(problem("PLACE", key, f"{text!r} is not YAML", "quote it as YAML wants it"))
    if problems:
        raise InputError(problems)
    return changed


def path_of(key: str) -> list[str]:
    """A key with dots as a path; a name with dots of its own, such as nvidia.com/gpu, stays one part."""
    spec, parts, path = spec_schema(), key.split("."), []
    while parts:
        if (
            "additionalProperties" in spec
            and spec["additionalProperties"]
            and parts[0] not in spec.get("properties", {})
        ):
            return [*path, ".".join(parts)]
        path.append(parts.pop(0))
        spec = spec.get("properties", {}).get(path[-1], {})
    return path


def lay(values: dict[str, Any], path: list[str], text: str) -> None:
    """Put the value at this path, or take it away where the text is empty."""
    *above, last = path
    for part in above:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    if text:
        values[last] = value_of(path, text)
    else:
        values.pop(last, None)


def value_of(path: list[str], text: str) -> Any:
    """The text as YAML reads it, but as text where the key wants text: 2 CPUs are "2"."""
    value = yaml.safe_load(text)
    try:
        spec = at(spec_schema(), path)
    except (KeyError, TypeError):
        return value  # no key of a placement: check_placement says so
    return text if "string" in kinds(spec) and not isinstance(value, (str, list, dict)) else value


def dump_placement(spec: dict[str, Any], overlay: str = "") -> str:
    """The text of a whole cluster.yaml with this spec, and of which overlay it is, for the run's record."""
    metadata = HEAD["metadata"]
    if overlay:
        metadata = metadata | {"annotations": metadata["annotations"] | {OVERLAY: overlay}}
    return yaml.safe_dump(HEAD | {"metadata": metadata, "spec": spec}, sort_keys=False, allow_unicode=True, width=120)
