"""Write docs/parameters.md, the table of all keys of a recipe, from schemas/train.schema.json.

python -m scripts.parameters
python -m scripts.parameters --check     # exit 1 if the file is not what it would write
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from train.recipe import schema
from train.recipe_words import allowed, yaml_word

TARGET = Path(__file__).resolve().parent.parent / "docs" / "parameters.md"
HEAD = """<!-- Made by `make parameters` from schemas/train.schema.json; edit that file, not this one. -->
# Parameters of a recipe

A recipe is `kustomize/overlays/<use case>/train.yaml`. It states only what differs from these defaults; an unknown key
is an error. Another value for one run: `make run SET="lora_r=16 learning_rate=1.0e-4"`; `SET="lora_r="` takes the
default again. Floats have a dot, since YAML reads `2e-4` as text. Rules between keys are in `train/recipe_rules.py`;
they are checked before anything starts.
"""


def main() -> int:
    return write_page(__doc__, TARGET, page(schema()))


def write_page(doc: str, target: Path, text: str) -> int:
    """Write a generated page, or with --check say whether it is up to date; returns the exit status."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    if not parser.parse_args().check:
        target.write_text(text)
        return 0
    if target.read_text() == text:
        return 0
    print(f"error: {target.name} is not up to date\n  fix: make parameters", file=sys.stderr)
    return 1


def page(recipe_schema: dict[str, Any]) -> str:
    """The whole page: one table for each group of keys, in the schema's order."""
    groups: dict[str, list[str]] = {}
    for key, spec in recipe_schema["properties"].items():
        needed = key in recipe_schema["required"]
        groups.setdefault(spec["x-group"], []).append(row(key, spec, needed))
    tables = [f"\n## {group}\n\n| Key | Default | Values | Meaning |\n|---|---|---|---|\n" + "".join(rows)
              for group, rows in groups.items()]  # fmt: skip
    return HEAD + "".join(tables)


def row(key: str, spec: dict[str, Any], needed: bool) -> str:
    """One key as a row of the table."""
    default = "**required**" if needed else f"`{cell(yaml_word(spec['default']))}`" if "default" in spec else "none"
    return f"| `{key}` | {default} | {cell(allowed(spec))} | {cell(spec['description'])} |\n"


def cell(text: str) -> str:
    """Text that does not end its cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
