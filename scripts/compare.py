"""Runs of this machine beside each other: `make compare RUN="a b c"`, or `make compare OVERLAY=demo`.

    python -m scripts.compare --run a b c [--runs-dir runs] [--to comparison.html]
    python -m scripts.compare --overlay demo

Prints a table and writes one page that needs nothing but a browser: what differs in the recipes, the curves over each
other, figures with the best of each marked, the same held-out rows answered by each. A run that is not finished is
shown as far as it came; of an overlay only finished runs are taken.
Exit status: 0 done, 2 bad input (all problems are listed).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from scripts import compare_facts as facts
from scripts.runs import find_runs, overlay_of, read_record, run_status
from train.errors import InputError, attempt, problem, run_program
from train.report import templates, write_page
from train.report_plots import Series, line_chart

TEMPLATE = "compare_page.html.j2"
HUES = 10  # colours of the style sheet; later runs have the same ones with dashes
MOST_TEXT = 26  # characters of a value in the terminal


def main() -> None:
    """Find the runs, print their table, write their page."""
    arguments = parse_arguments()
    problems: list[str] = []
    runs = attempt(problems, chosen_runs, arguments) or []
    page = attempt(problems, page_path, arguments)
    if problems:
        raise InputError(problems)
    print_comparison(runs)
    write_comparison(runs, page)
    print(f"page: {page}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", default=[], metavar="NAME", help="names of the runs, two or more")
    parser.add_argument("--overlay", default="", help="all finished runs of this use case, where no run is named")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    parser.add_argument("--to", default="", help="the page; default: compare.html among the runs")
    return parser.parse_args()


def chosen_runs(arguments: argparse.Namespace) -> list[Path]:
    """The runs that are named, else the overlay's finished ones, oldest first. Raises InputError for fewer than 2."""
    directory, names = arguments.runs_dir, list(dict.fromkeys(arguments.run))
    if names:
        found = find_runs(directory, names)
        if len(found) < 2:
            fix = f'name another beside it: RUN="{names[0]} …"; make runs lists them'
            raise InputError(problem("RUN", names[0], "is one run, and a comparison needs two", fix))
        return found
    if not arguments.overlay:
        fix = 'make compare RUN="a b", or make compare OVERLAY=demo for all finished runs of a use case'
        raise InputError(problem("RUN", "(empty)", "names no runs", fix))
    found = []
    for path in directory.glob("*/run.json"):
        record = read_record(path)
        if overlay_of(record, path.parent.name) == arguments.overlay and run_status(path.parent) == "complete":
            found.append((record.get("started", ""), path.parent))
    if len(found) < 2:
        what = f"has {len(found) or 'no'} finished run{'s' if len(found) != 1 else ''} in {directory}"
        fix = 'make another (make run), or name runs, finished or not: RUN="a b"'
        raise InputError(problem("OVERLAY", arguments.overlay, f"{what}, and a comparison needs two", fix))
    return [path for _, path in sorted(found)]


def page_path(arguments: argparse.Namespace) -> Path:
    """Where the page goes. Raises InputError where it cannot."""
    if not arguments.to:
        name = "compare.html" if arguments.run else f"compare-{arguments.overlay}.html"
        return arguments.runs_dir / name
    page = Path(arguments.to)
    if page.suffix.lower() not in (".html", ".htm"):  # nothing else is ever written over
        raise InputError(problem("TO", arguments.to, "is no name of a page", "give a name that ends in .html"))
    if page.is_dir():
        raise InputError(problem("TO", arguments.to, "is a directory", f"give a file: TO={page / 'compare.html'}"))
    if not page.parent.is_dir():
        raise InputError(problem("TO", arguments.to, "lies in no directory that exists", f"mkdir -p {page.parent}"))
    return page


# ---- the terminal ----


def print_comparison(runs: list[Path]) -> None:
    """The runs as tables that fit the terminal: what all have in common, what differs, figures; * marks the best."""
    compared = facts.read_runs(runs)
    settings, metrics = facts.settings(compared), facts.metrics(compared)
    print(f"\n{len(runs)} runs. In common: {facts.in_words(facts.common(settings))}.")
    columns = [("run", [run["name"] for run in compared])]
    columns += [(row["key"], [cut(value) for value in row["values"]]) for row in settings if row["differs"]]
    for metric in metrics:
        cells = [f"{cell['shown']}{'*' if cell['best'] else ' '}" for cell in metric["cells"]]
        columns.append((metric["name"], cells))
    columns.append(("status", [run["status"] for run in compared]))
    for block in blocks(columns, shutil.get_terminal_size((120, 24)).columns):
        print()
        for line in range(-1, len(compared)):
            print("  ".join(cell_of(column, line) for column in block).rstrip())
    print()
    for note in ["* the best of its column", *facts.notes(compared)]:
        print(note)


def cut(text: str) -> str:
    """A value in one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def blocks(columns: list[tuple[str, list[str]]], width: int) -> list[list[tuple[str, list[str]]]]:
    """The columns in as many tables as the width needs, each with the first column, the runs' names."""
    found: list[list[tuple[str, list[str]]]] = [[columns[0]]]
    for column in columns[1:]:
        if len(found[-1]) > 1 and sum(width_of(one) + 2 for one in [*found[-1], column]) - 2 > width:
            found.append([columns[0]])
        found[-1].append(column)
    return found


def width_of(column: tuple[str, list[str]]) -> int:
    """Characters of a column."""
    return max(map(len, [column[0], *column[1]]))


def cell_of(column: tuple[str, list[str]], line: int) -> str:
    """A cell as wide as its column; line -1 is the head."""
    return (column[0] if line < 0 else column[1][line]).ljust(width_of(column))


# ---- the page ----


def write_comparison(runs: list[Path], page: Path) -> None:
    """Write the page under a temporary name and rename it."""
    compared = facts.read_runs(runs)
    settings, metrics = facts.settings(compared), facts.metrics(compared)
    for number, run in enumerate(compared):
        run["style"] = f"hue{number % HUES} dash{number // HUES % 3} run{number}"
    text = templates(Path(__file__).resolve().parent).get_template(TEMPLATE).render(
        runs=compared,
        common=facts.common(settings),
        settings=[row for row in settings if row["differs"]],
        metrics=metrics,
        notes=facts.notes(compared),
        best=facts.best_in_words(compared, metrics),
        charts=charts(compared),
        samples=facts.samples(compared),
    )  # fmt: skip
    write_page(page, text)


def charts(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves over each other, each with its title; those without a point are left out."""
    found = []
    for title, curve, dots in (
        ("Training loss, smoothed", facts.training_curve, False),
        ("Validation loss", facts.validation_curve, True),
    ):
        series = [Series(run["name"], curve(run), run["style"], dots) for run in compared]
        found.append({"title": title, "picture": line_chart(title, series, height=340, legend=False)})
    return [chart for chart in found if chart["picture"]]


if __name__ == "__main__":
    run_program(main)
