"""A YAML file that a person wrote: its mapping and where its keys stand; what is no YAML is told with its line."""

from pathlib import Path
from typing import Any

import yaml

from train.errors import InputError, problem


def read_mapping(
    path: Path, kind: str, line_fix: str, empty_fix: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader
) -> tuple[dict[str, Any], yaml.MappingNode]:
    """The mapping in a YAML file, and the same as nodes with their places.

    `kind` is the file's usual name; the fixes are for text that is no YAML and YAML without keys; a `loader` may know
    more tags. Raises InputError.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(problem(path, "", "there is no such file", f"give the path of a {kind}")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(problem(path, "", f"cannot be read: {error}", "make it a readable UTF-8 text file")) from None
    try:
        values = yaml.load(text, Loader=loader)
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        what = getattr(error, "problem", None) or str(error)
        fix = "indent with spaces" if "'\\t'" in what else line_fix
        raise InputError(problem(place, "", f"is not YAML: {what}", fix)) from None
    if not isinstance(values, dict):
        raise InputError(problem(path, "", "holds no keys", empty_fix))
    return values, node
