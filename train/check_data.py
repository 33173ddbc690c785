"""Prepare a recipe's rows for a model, and show what the model will see.

    python -m train.check_data --recipe RUN/train.yaml --model DIR --output RUN/data [--no-plot]

Writes the tokens, data_check.json and lengths.png to --output. Rows that would train wrong are errors.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from train.data_xray import draw_lengths, terminal_width, xray_text
from train.errors import InputError, problem, run_program
from train.recipe import load_recipe


def main() -> None:
    options = parse_arguments()

    # --- the recipe, before anything heavy is loaded
    recipe = load_recipe(options.recipe)

    # --- the tokens
    from train.prepare import prepare_data

    check = prepare_data(recipe, options.model, options.output, where=options.recipe)

    # --- what they are
    print_xray(check)
    if options.plot:
        write_plot(check, options.output / "lengths.png")
    print(summary(check, options.output))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="the run's train.yaml")
    parser.add_argument("--model", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--output", type=Path, required=True, help="directory for the prepared rows")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help="write no lengths.png")
    return parser.parse_args()


def print_xray(check: dict[str, Any]) -> None:
    """Print the X-ray: in colour on a terminal, with markers elsewhere or where NO_COLOR is set."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(xray_text(check, colour, terminal_width()))


def write_plot(check: dict[str, Any], path: Path) -> None:
    """Draw the lengths, unless they are drawn already for these very rows."""
    if check.get("reused") and path.is_file():
        return
    try:
        draw_lengths(check, path)
    except OSError as error:
        fix = "make room, or give --no-plot"
        raise InputError(problem(path, "", f"cannot be written: {error.strerror or error}", fix)) from None


def summary(check: dict[str, Any], output: Path) -> str:
    """What was done, in a line."""
    if check.get("reused"):
        return f"{output}: prepared before from the same rows, recipe and tokenizer; used again."
    return f"{output}: prepared in {check['seconds']:.1f} s ({check['rows_per_second']:,.0f} rows/s)."


if __name__ == "__main__":
    run_program(main)
