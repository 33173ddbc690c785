"""From the results of runs to rows with ratios and spreads, and those as text, Markdown and a picture's numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REFERENCE = "ours"
PACKING = ("trl-packing", "trl-packing-one")  # with other sizes of a micro-batch


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds: its median, least and greatest."""

    median: float
    least: float
    greatest: float

    def words(self, form: str) -> str:
        """`3.52 (3.48-3.57)`, or the median alone where all rounds agree or there was one."""
        middle, low, high = (format(value, form) for value in (self.median, self.least, self.greatest))
        return middle if low == high else f"{middle} ({low}-{high})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest of some values."""
    return Spread(statistics.median(values), min(values), max(values))


def summarise(runs: list[dict[str, Any]], gflops: list[float], flop_per_token: float) -> list[dict[str, Any]]:
    """One row a variant, in the order of the runs. Ratios compare runs of the same round, which share rows and seed.

    `ratio` says how many times as fast ours is, `memory` what part of its peak memory ours takes; `share` is tokens/s
    times the FLOP of a plain LoRA step over the matrix-multiply rate, so work that is saved counts as done.
    """
    names = list(dict.fromkeys(run["variant"] for run in runs))
    by_name = {name: [run for run in runs if run["variant"] == name] for name in names}
    rate = statistics.median(gflops) * 1e9
    rows = []
    for name in names:
        mine, ours = by_name[name], {run["round"]: run for run in by_name.get(REFERENCE, [])}
        pairs = [(run, ours[run["round"]]) for run in mine if run["round"] in ours]
        rows.append({
            "variant": name,
            "words": mine[0]["words"],
            "format": number_format(mine[0]["facts"]),
            "rounds": len(mine),
            "tokens_per_second": spread([run["tokens_per_second"] for run in mine]),
            "share": statistics.median(run["tokens_per_second"] for run in mine) * flop_per_token / rate,
            "peak_gb": spread([run["peak_gb"] for run in mine]),
            "first_step_seconds": spread([run["first_step_seconds"] for run in mine]),
            "train_loss": spread([run["train_loss"] for run in mine]),
            "eval_loss": spread([run["eval_loss"] for run in mine]),
            "reference": mine[0]["reference"],
            "off_reference": off_reference(mine, runs),
            "ratio": spread([our["tokens_per_second"] / run["tokens_per_second"] for run, our in pairs] or [math.nan]),
            "memory": spread([our["peak_gb"] / run["peak_gb"] for run, our in pairs] or [math.nan]),
        })  # fmt: skip
    return rows


def number_format(facts: dict[str, Any]) -> str:
    """`float32 / bfloat16`: what the frozen base weights are kept in, and what autocast turns them into."""
    kept = [kind.removesuffix(" frozen") for kind in facts["weights"] if kind.endswith(" frozen")]
    return f"{', '.join(kept)} / {'bfloat16' if facts['autocast_bf16'] else 'none'}"


def verdict(rows: list[dict[str, Any]]) -> str:
    """Ours beside TRL's default and beside the better of its two rows with packing; empty where none of them ran."""
    found = {row["variant"]: row for row in rows if not math.isnan(row["ratio"].median)}
    packing = [found[name] for name in PACKING if name in found]
    against = [found["trl"]] if "trl" in found else []
    against += [min(packing, key=lambda row: row["ratio"].median)] if packing else []
    said = [
        f"{row['ratio'].words('.2f')} times as fast as {row['words']}, in {row['memory'].words('.2f')} of its memory"
        for row in against
    ]
    return f"Ours is {'; '.join(said)}. " if said else ""


def off_reference(mine: list[dict[str, Any]], runs: list[dict[str, Any]]) -> float | None:
    """The largest relative difference of a step's loss to that of the reference in its round, which is the first.

    None where the reference did not run, is this row, or trained on other rows a step.
    """
    exact = {run["round"]: run["losses"] for run in runs if run["reference"]}
    pairs = [(run["losses"], exact[run["round"]]) for run in mine
             if run["round"] in exact and run["same_rows"] and not run["reference"]]  # fmt: skip
    return max((abs(loss / true - 1) for pair in pairs for loss, true in zip(*pair, strict=True)), default=None)


HEAD = ("", "weights / autocast", "tokens/s", "ours is … times as fast", "of matmul rate", "peak GB", "ours takes",
        "s to first step")  # fmt: skip
LOSS_HEAD = ("", "weights / autocast", "last training loss", "largest difference to float32", "validation loss")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's cells on speed and memory as text, in the order of HEAD."""
    ours = row["variant"] == REFERENCE or math.isnan(row["ratio"].median)
    return (
        row["words"],
        row["format"],
        row["tokens_per_second"].words(",.0f"),
        "" if ours else row["ratio"].words(".2f"),
        f"{row['share']:.0%}",
        row["peak_gb"].words(".2f"),
        "" if ours else f"{row['memory'].words('.2f')} of it",
        row["first_step_seconds"].words(".0f"),
    )


def loss_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's cells on what it learnt, in the order of LOSS_HEAD."""
    off = row["off_reference"]
    return (
        row["words"],
        row["format"],
        row["train_loss"].words(".4f"),
        "reference" if row["reference"] else "" if off is None else f"{off:.1e}",
        row["eval_loss"].words(".4f"),
    )


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Lines with columns below each other; the first column stands left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = row
        rest = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
