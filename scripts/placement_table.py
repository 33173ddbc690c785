"""Write docs/placement.md, the table of all keys of a placement, from schemas/cluster.schema.json.

python -m scripts.placement_table
python -m scripts.placement_table --check     # exit 1 if the file is not what it would write
"""

import sys
from pathlib import Path
from typing import Any

from scripts.cluster.placement import spec_schema
from scripts.cluster.placement_words import allowed, leaves
from scripts.parameters import cell, write_page

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "placement.md"
HEAD = """<!-- Made by `make parameters` from schemas/cluster.schema.json; edit that file, not this one. -->
# Values of a placement

A placement is `kustomize/overlays/<use case>/cluster.yaml`: where a recipe is learned, and with how much. It is
complete, without defaults, because `kubectl apply -k` alone must do; the values stand under `spec`. Another value for
one run: `make deploy PLACE="nodes=1 resources.limits.cpu=2"`; `PLACE="queue="` takes a key away. Rules between values
are in `scripts/cluster/placement_rules.py`; they are checked before anything is rendered.
"""
COMPONENTS = """
## Components

What is true of a place is a component, listed in `kustomization.yaml` between `base` and the runtime, in any order. The
runtime comes last: it takes over the pod that the others have put together. For one run: `make deploy
WITH="spread shm"`, `RUNTIME=trainjob`. A value that is given while its component is not listed is an error, and so is
the reverse.

| Component | Values | What it says |
|---|---|---|
"""


def main() -> int:
    return write_page(__doc__, TARGET, page(spec_schema()))


def page(schema: dict[str, Any]) -> str:
    """The whole page: one table for each group of keys, in the schema's order, then the components."""
    groups: dict[str, list[str]] = {}
    for key, spec, needed in leaves(schema):
        top = schema["properties"][key.split(".")[0]]
        always = needed and "x-components" not in top
        groups.setdefault(top["x-group"], []).append(row(key, spec, always, top.get("x-components", [])))
    tables = [f"\n## {title(group)}\n\n| Key | Given | Values | Meaning |\n|---|---|---|---|\n" + "".join(rows)
              for group, rows in groups.items()]  # fmt: skip
    return HEAD + "".join(tables) + COMPONENTS + "".join(components(schema))


def title(group: str) -> str:
    """The heading over a group of keys."""
    return "Used by components" if group == "Components" else group


def row(key: str, spec: dict[str, Any], always: bool, used_by: list[str]) -> str:
    """One key as a row of the table."""
    given = "always" if always else f"with `{used_by[0]}`" if used_by else "where it helps"
    return f"| `{key}` | {given} | {cell(allowed(spec))} | {cell(spec['description'])} |\n"


def components(schema: dict[str, Any]) -> list[str]:
    """One row for each component: the values it uses, and the comment that its file begins with."""
    rows = []
    for path in sorted((ROOT / "kustomize" / "components").iterdir()):
        used = [key for key, spec in schema["properties"].items() if path.name in spec.get("x-components", [])]
        values = ", ".join(f"`{key}`" for key in used)
        rows.append(f"| `{path.name}` | {values} | {cell(comment(path / 'kustomization.yaml'))} |\n")
    return rows


def comment(path: Path) -> str:
    """The comment at the head of a file, as one line."""
    lines = path.read_text().split("\n")
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in head)


if __name__ == "__main__":
    sys.exit(main())
