"""The rows a recipe names: found, read, filtered, and brought to the fields of its data_format.

Row numbers count from 1, as in the file (see data_files).
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from train.data_files import Numbered, named_rows, read_file, unreadable
from train.data_hub import dataset_files, find_dataset, read_dataset
from train.data_shape import rename_hint, to_messages, to_text
from train.errors import InputError, problem
from train.files import hash_file
from train.recipe_rules import FORMAT_FIELDS

OPTIONAL = {"input"}  # may be absent from a row and from the file


@dataclass(frozen=True)
class Row:
    """One row: its number in the source, and the fields of its data_format (text; for messages a list of dicts)."""

    number: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where rows come from: `name` for messages, and the files that hold them under the names that are recorded."""

    name: str
    files: dict[str, Path]
    directory: Path | None = None


@dataclass(frozen=True)
class Source:
    """Rows that were read: `total` counts those before row_filter."""

    name: str
    total: int
    rows: list[Row] = field(repr=False)


def find_training(recipe: SimpleNamespace, where: object) -> Origin:
    """Where the recipe's training rows lie. Raises InputError when they are not on this machine."""
    if recipe.train_file:
        return Origin(recipe.train_file, {recipe.train_file: Path(recipe.train_file)})
    directory = find_dataset(recipe.dataset_name, recipe.dataset_revision, where)
    files = {f"{recipe.dataset_name}/{path.relative_to(directory)}": path for path in dataset_files(directory)}
    return Origin(recipe.dataset_name, files, directory)


def find_validation(recipe: SimpleNamespace) -> Origin | None:
    """Where the recipe's own validation rows lie, if it names a file of them."""
    if not recipe.validation_file:
        return None
    return Origin(recipe.validation_file, {recipe.validation_file: Path(recipe.validation_file)})


def describe_files(origin: Origin) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file of a source."""
    described = {}
    for name, path in origin.files.items():
        try:
            digest = hash_file(path)
        except OSError as error:
            raise InputError(unreadable(path, error)) from None
        described[name] = {"size": path.stat().st_size, "sha256": digest}
    return described


def read_rows(recipe: SimpleNamespace, origin: Origin, where: object) -> Source:
    """The rows of a source in the fields of the recipe's data_format. Raises InputError with all that is wrong."""
    if origin.directory is None:
        numbered = read_file(Path(origin.name))
    else:
        split = recipe.dataset_split
        numbered = read_dataset(origin.directory, recipe.dataset_name, recipe.dataset_config_name, split, where)
    kept = filter_rows(numbered, recipe.row_filter, origin.name, where)
    names = field_names(numbered, recipe, origin.name, where)
    return Source(origin.name, len(numbered), shape_rows(kept, names, recipe.data_format, origin.name))


def filter_rows(numbered: list[Numbered], wanted: dict[str, Any], source: str, where: object) -> list[Numbered]:
    """The rows whose fields have the wanted values; values are compared as text, since a CSV holds nothing else."""
    if not wanted:
        return numbered
    problems = []
    for name in wanted:
        if not any(name in row for _, row in numbered):
            there = ", ".join(known_fields(numbered))
            problems.append(problem(where, "row_filter", f"{source} has no field {name}", f"it has: {there}"))
    if problems:
        raise InputError(problems)
    texts = {name: plain(value) for name, value in wanted.items()}
    kept = [item for item in numbered if all(plain(item[1].get(name)) == text for name, text in texts.items())]
    if not kept:
        name = next(iter(wanted))
        values = sorted({plain(row.get(name)) for _, row in numbered})[:10]
        fix = f"values of {name} there: {', '.join(values)}"
        raise InputError(problem(where, "row_filter", f"{wanted} leaves no row of {source}", fix))
    return kept


def plain(value: Any) -> str:
    """A value as text for a comparison; yes and no as YAML and JSON write them."""
    return str(value).lower() if isinstance(value, bool) or value in ("True", "False") else str(value)


def known_fields(numbered: list[Numbered]) -> list[str]:
    """The names of all fields in the rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for _, row in numbered for name in row))


def field_names(numbered: list[Numbered], recipe: SimpleNamespace, source: str, where: object) -> dict[str, str]:
    """For each field of the data_format, its name in the rows. Raises InputError where one is in no row."""
    there = known_fields(numbered)
    shape = FORMAT_FIELDS[recipe.data_format]
    names = {name: recipe.columns.get(name, name) for name in shape}
    renamed = [name for name in recipe.columns if names[name] not in there]
    missing = [name for name in shape if names[name] not in there and name not in OPTIONAL and name not in renamed]
    listed = ", ".join(there) or "none"
    problems = [
        problem(where, f"columns[{name}]", f"{source} has no field {names[name]}", f"take one of: {listed}")
        for name in renamed
    ]
    if missing:
        what = f"data_format {recipe.data_format} reads {', '.join(missing)}, which no row has; there are: {listed}"
        problems.append(problem(source, "", what, rename_hint(there, missing, recipe.data_format, source)))
    if problems:
        raise InputError(problems)
    return {name: own for name, own in names.items() if own in there}


def shape_rows(numbered: list[Numbered], names: dict[str, str], data_format: str, source: str) -> list[Row]:
    """The rows with just the fields of the data_format. Raises InputError naming every row that has them wrong."""
    convert = to_messages if data_format == "messages" else to_text
    rows: list[Row] = []
    wrong: dict[tuple[str, str], list[int]] = {}
    for number, values in numbered:
        fields = {}
        for name, own in names.items():
            if own not in values and name not in OPTIONAL:
                wrong.setdefault((f"lacks the field {own}", f"add {own}, or remove the row"), []).append(number)
                continue
            fields[name], complaint = convert(values.get(own))
            if complaint:
                wrong.setdefault((f"{own} {complaint[0]}", complaint[1]), []).append(number)
        rows.append(Row(number, fields))
    if wrong:
        raise InputError([problem(source, named_rows(rows), what, fix) for (what, fix), rows in wrong.items()])
    return rows
