"""The task files that `make eval` is given: found, read with what they include, checked, their rows looked at.

Nothing here imports the harness. What it gets are these very tasks, complete and with absolute paths (`write_task`), so
that what was checked is what runs.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.eval import task_rules as rules
from train.errors import InputError, attempt, problem
from train.files import hash_file
from train.yaml_file import read_mapping

GIVE = "give a task file or a directory of them: TASKS=kustomize/overlays/demo/tasks"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Code:
    """A `!function module.name` in a task file, and the directory of that file."""

    said: str
    directory: Path | None = None

    @property
    def module(self) -> Path | None:
        """The Python file it is in, None where it is in an installed package."""
        path = self.directory / f"{self.said.rpartition('.')[0].replace('.', '/')}.py"
        return path if path.is_file() else None


@dataclass(frozen=True, eq=False)
class Task:
    """One task: its name, its file, and all that it says, with what it includes; paths are absolute."""

    name: str
    file: Path
    config: dict[str, Any]

    def identity(self) -> str:
        """A hash of the task, its rows and its code."""
        files = [*rules.data_files(self.config), *(code.module for code in code_in(self.config) if code.module)]
        parts = {"config": plain(self.config), "files": sorted(hash_file(Path(path)) for path in files)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Loader(yaml.SafeLoader):
    """YAML that knows `!function`, and does not run it."""


Loader.add_constructor("!function", lambda loader, node: Code(loader.construct_scalar(node)))


class Dumper(yaml.SafeDumper):
    """YAML that says `!function` again."""


Dumper.add_representer(Code, lambda dumper, code: dumper.represent_scalar("!function", code.said))


# ---- finding and reading ----


def read_tasks(given: list[str], allowed: set[str]) -> list[Task]:
    """The tasks in these files and directories. Raises InputError with every problem of all of them."""
    problems: list[str] = []
    files = [file for name in dict.fromkeys(given) for file in attempt(problems, find_files, name) or []]
    if not given:
        problems.append(problem("TASKS", "(empty)", "names no task", GIVE))
    tasks: list[Task] = []
    for file in dict.fromkeys(files):
        task = attempt(problems, read_task, file, allowed)
        other = next((one for one in tasks if task and one.name == task.name), None)
        if other:
            problems.append(problem(file, "task", f"is {task.name}, as in {other.file}", "give each a name of its own"))
        tasks += [task] if task else []
    if problems:
        raise InputError(problems)
    return tasks


def find_files(given: str) -> list[Path]:
    """A task file, or those in a directory that no other file there includes."""
    path = Path(given)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(problem("TASKS", given, "is no file and no directory", GIVE))
    files = sorted(one for suffix in SUFFIXES for one in path.rglob(f"*{suffix}"))
    if not files:
        raise InputError(problem("TASKS", given, f"holds no {' or '.join(SUFFIXES)} file", GIVE))
    included = {one.resolve() for file in files for one in includes_of(file)}
    return [file for file in files if file.resolve() not in included]


def includes_of(file: Path) -> list[Path]:
    """The files that a task file includes; none where it cannot be read, which reading it tells."""
    try:
        values, _ = read_file(file)
    except InputError:
        return []
    return listed_includes(values, file)


def listed_includes(values: dict[str, Any], file: Path) -> list[Path]:
    """The paths under `include`, relative ones beside the file."""
    found = values.get("include") or []
    return [file.parent / str(one) for one in (found if isinstance(found, list) else [found])]


def read_file(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """What one file says, and the line of each key. Raises InputError where it is no YAML, or says a key twice."""
    fix = "write one `key: value` a line"
    values, node = read_mapping(file, "task file", fix, fix, Loader)
    lines, twice = {}, []
    for key, _ in node.value:
        if key.value in lines:
            what = f"is given twice (first on line {lines[key.value]})"
            twice.append(problem(f"{file}:{key.start_mark.line + 1}", key.value, what, "keep one"))
        lines.setdefault(key.value, key.start_mark.line + 1)
    if twice:
        raise InputError(twice)
    return absolute(values, file.parent.resolve()), lines


def absolute(values: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The values with their data files and code where they lie, since a file that includes them may lie elsewhere."""

    def settle(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: settle(one) for key, one in value.items()}
        if isinstance(value, list):
            return [settle(one) for one in value]
        return Code(value.said, directory) if isinstance(value, Code) else value

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: place(one) for key, one in value.items()}
        if isinstance(value, list):
            return [place(one) for one in value]
        local = isinstance(value, str) and "://" not in value
        return os.path.normpath(directory / value) if local else value

    settled = settle(values)
    options = settled.get("dataset_kwargs")
    if isinstance(options, dict) and "data_files" in options:
        settled["dataset_kwargs"] = options | {"data_files": place(options["data_files"])}
    return settled


def read_whole(file: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """A task file with what it includes laid under it, and the place (file:line) of each key."""
    values, lines = read_file(file)
    whole: dict[str, Any] = {}
    places: dict[str, str] = {}
    problems: list[str] = []
    above = (*above, file.resolve())
    for one in listed_includes(values, file):
        where = f"{file}:{lines['include']}"
        if one.resolve() in above:
            problems.append(problem(where, "include", f"{one} includes this file again", "include in one direction"))
        elif not one.is_file():
            problems.append(
                problem(where, "include", f"{one} is not there", "correct the path; it begins beside this file")
            )
        elif found := attempt(problems, read_whole, one, above):
            whole |= found[0]
            places |= found[1]
    if problems:
        raise InputError(problems)
    whole |= {key: value for key, value in values.items() if key != "include"}
    places |= {key: f"{file}:{line}" for key, line in lines.items()}
    return whole, places


def read_task(file: Path, allowed: set[str]) -> Task:
    """One task, checked. Raises InputError with every problem of it."""
    config, places = read_whole(file)
    problems: list[str] = []
    columns = attempt(problems, rules.columns_of, config)
    problems += [
        problem(places.get(str(key).partition(".")[0].partition("[")[0], file), key, what, fix)
        for key, what, fix in rules.complaints(config, columns)
    ]
    if "code" not in allowed:
        for code in code_in(config):
            what = f"runs Python code that came with it: {code.said}"
            fix = "read that code, and if you trust it: ALLOW=code"
            problems.append(problem(next(iter(where_code(config, places)), file), "!function", what, fix))
            break
    for code in code_in(config) if "code" in allowed else ():
        if code.module is None and not rules.is_installed(code.said):
            fix = f"put {code.said.rpartition('.')[0] or 'module'}.py beside the task file"
            problems.append(problem(file, "!function", f"{code.said} is in no file of {code.directory}", fix))
    if problems:
        raise InputError(problems)
    return Task(config["task"], file, config)


def code_in(value: Any) -> Iterator[Code]:
    """Every `!function` in a value."""
    if isinstance(value, Code):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from code_in(one)


def where_code(config: dict[str, Any], places: dict[str, str]) -> Iterator[str]:
    """The places of the keys that hold code."""
    return (places[key] for key, value in config.items() if any(code_in(value)))


# ---- for the harness ----


def plain(value: Any) -> Any:
    """A value with code as text, for hashing."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return f"!function {value.said}" if isinstance(value, Code) else value


def write_task(task: Task, directory: Path) -> Path:
    """The task as one file that the harness reads, its Python files linked beside it; returns its directory."""
    place = directory / task.name
    place.mkdir(parents=True)
    for code in code_in(task.config):
        if code.module:
            link = place / code.module.relative_to(code.directory)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(code.module)
    text = yaml.dump(task.config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    (place / "task.yaml").write_text(text)
    return place
