"""A model's exports beside it in one table for terminal and report: size, perplexity, how answers end, speed."""

import json
from pathlib import Path
from typing import Any

from train import export_place as place

HEADER = ("", "size, MB", "perplexity", "answers that end", "computed in", "first token, ms", "tokens/s",
          "model's then")  # fmt: skip
QUANTISED = "quantise.json"  # beside the record of a quantised model, what was found of it


def read_exports(home: Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """What was found of each export in a run's directory, or of those beside a model whose names begin with its own."""
    found = {}
    for kind in ("quantised", "gguf"):
        for directory in sorted(home.glob(f"{prefix}{kind}-*bit")):
            if place.is_export(directory):
                names = [name for name in (place.RECORD, QUANTISED) if (directory / name).is_file()]
                record = {key: value for name in names for key, value in read(directory / name).items()}
                found[directory.name] = record
    return found


def read(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def rows(exports: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table, its header first; empty where nothing was measured."""
    measured = [record for record in exports.values() if "figures" in record]
    if not measured:
        return []
    # A GGUF's reader computes in float32, and so does the model beside it: what is served is rather as the others say.
    served = [record for record in measured if record.get("format") != "gguf"] or measured
    return [HEADER, row("the model", served[-1]["figures"]["model"]), *map(row_of, measured)]


def row_of(record: dict[str, Any]) -> tuple[str, ...]:
    """The row of an export."""
    name = f"{'GGUF, ' if record.get('format') == 'gguf' else ''}{record['bits']} bits"
    name += ", FORCE=1" if record.get("kept_in_spite_of") else ""
    old, new = (record["figures"][key] for key in ("model", *(key for key in record["figures"] if key != "model")))
    return row(name, new, f"{old['tokens_per_second']:.1f}")


def row(name: str, figures: dict[str, Any], beside: str = "") -> tuple[str, ...]:
    """A row; `beside` is the model's speed when this was measured, since another time the machine may be as busy."""
    return (
        name,
        f"{figures['size'] / 1e6:,.2f}",
        "-" if figures["perplexity"] is None else f"{figures['perplexity']:.4f}",
        f"{figures['stopped']} of {figures['asked']}",
        figures["dtype"],
        f"{figures['first_token'] * 1e3:.1f}",
        f"{figures['tokens_per_second']:.1f}",
        beside,
    )


def in_words(table: list[tuple[str, ...]]) -> str:
    """The table for a terminal."""
    wide = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *others in table:
        cells = (cell.rjust(width) for cell, width in zip(others, wide[1:], strict=True))
        lines.append("  ".join([f"  {first.ljust(wide[0])}", *cells]).rstrip())
    return "\n".join(lines)


def of_source(source: place.Source, name: str = "", record: dict[str, Any] | None = None) -> str:
    """The table of a model, in words; with the record of one that is not in its place yet."""
    home, prefix = (source.run, "") if source.run else (source.model.parent, f"{source.model.resolve().name}-")
    made_of = place.stamp(source)
    exports = {name: one for name, one in read_exports(home, prefix).items() if one["source"] == made_of}
    return in_words(rows(exports | ({name: record} if record else {})))
