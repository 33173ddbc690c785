"""What differs between two runs of this machine: `make diff-runs RUN="a b"`.

    python -m scripts.diff_runs --run a b [--runs-dir runs] [--json]

Recipe, model and its files, data, layout, number format, versions, hardware, commit and image, the result's hashes, and
the figures. What is equal is counted. Exit status: 0 whether or not anything differs, 2 bad input.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from scripts.record_diff import Difference, brief, differences, grouped
from scripts.runs import find_runs
from train.errors import InputError, attempt, problem, run_program
from train.report import read_run
from train.rouge import NAMES

MOST_TEXT = 48  # characters of a value; JSON has all
FIGURES = ("steps", "seconds", "tokens", "tokens_per_second", "train_loss_first", "train_loss_last", "eval_loss_first",
           "best_eval_loss", "best_step", "peak_memory_gb")  # fmt: skip


def main() -> None:
    """Read two runs, print what differs."""
    arguments = parse_arguments()
    names = list(dict.fromkeys(arguments.run))
    if len(names) != 2:
        given = " ".join(arguments.run) or "(empty)"
        what = f"names {len(names) or 'no'} run{'s' if len(names) != 1 else ''}, and a difference is between two"
        raise InputError(problem("RUN", given, what, 'give two: make diff-runs RUN="a b"; make runs lists them'))
    runs = find_runs(arguments.runs_dir, names)
    problems: list[str] = []
    groups = [attempt(problems, groups_of, run) for run in runs]
    if problems:
        raise InputError(problems)
    found, equal, unknown = differences(*groups)
    if arguments.json:
        listed = [one.as_dict() for one in found]
        print(json.dumps({"runs": names, "differences": listed, "equal": equal, "not_recorded": unknown}, indent=1))
    else:
        print("\n".join(table(names, groups, found, equal, unknown)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", default=[], metavar="NAME", help="names of the two runs")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def groups_of(run: Path) -> dict[str, dict[str, Any]]:
    """All that the run's files say of it."""
    content = read_run(run)
    training = content["training"] or {}
    figures = {key: training[key] for key in FIGURES if training.get(key) is not None}
    for when in ("before", "after"):
        evaluation = content[when] or {}
        if evaluation.get("eval_loss") is not None:
            figures[f"{when}: validation loss"] = evaluation["eval_loss"]
        if evaluation.get("exact_match"):
            figures[f"{when}: exact match"] = evaluation["exact_match"]["share"]
        if evaluation.get("rouge"):
            figures |= {f"{when}: {name}": evaluation["rouge"][key] for key, name in NAMES.items()}
    return grouped(content["record"]) | {"figures": figures}


def table(
    names: list[str], groups: list[dict], found: list[Difference], equal: dict[str, int], unknown: list[str]
) -> list[str]:
    """The lines a person reads."""
    rows = [(f"  {one.key}", cut(brief(one.was, one.now)), cut(brief(one.now, one.was))) for one in found]
    wide = [max(map(len, column)) + 2 for column in zip(("", *names), *rows, strict=True)]
    lines = (
        [f"{'':{wide[0]}}{names[0]:{wide[1]}}{names[1]}"] if found else [f"{names[0]} and {names[1]}: no difference"]
    )
    group = None
    for one, (key, was, now) in zip(found, rows, strict=True):
        if one.group != group:
            group = one.group
            lines.append(group)
        lines.append(f"{key:{wide[0]}}{was:{wide[1]}}{now}".rstrip())
    if equal:
        lines.append("equal: " + ", ".join(f"{count} of {group}" for group, count in equal.items()))
    for group in unknown:
        lacking = next(name for name, one in zip(names, groups, strict=True) if not one.get(group))
        lines.append(f"not compared: {group}, of which {lacking} has no record")
    return lines


def cut(text: str) -> str:
    """A value cut where it is long."""
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


if __name__ == "__main__":
    run_program(main)
