"""Fetch the base model of a use case, or any other, from the hub into the store; behind `make fetch-model`.

    python -m scripts.fetch.model --overlay medical --store store
    python -m scripts.fetch.model --model owner/name --revision main --store store

Exit status: 0 it lies in the store, 1 it did not work (the same command goes on), 2 bad input.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from scripts.fetch.hub import fetch
from scripts.fetch.messages import FetchFailed
from scripts.fetch.watchdog import STALL
from train.errors import InputError, problem, run_program

PATHS = (".", "/", "~", "models/")  # how a directory is written; no hub has an owner "models"


def main() -> int:
    given = parse_arguments()
    name, revision = wanted(given)
    if Path(name).is_dir() or name.startswith(PATHS):
        print(f"{name} is a directory, so there is nothing to fetch; MODEL=owner/name fetches another model")
        return 0
    try:
        if given.store.startswith("s3://"):
            from scripts.fetch.into_s3 import fetch_into_bucket  # not in the image: a pod fetches to its store

            fetch_into_bucket("model", name, revision, given.store, partial(fetch, stall=given.stall))
        else:
            fetch("model", name, revision, directory_of_store(given.store), given.stall)
    except FetchFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", default="demo", help="use case whose recipe names the model")
    parser.add_argument("--model", help="another model than the recipe's: owner/name")
    parser.add_argument("--revision", help="branch, tag or commit; default: the recipe's, or main")
    parser.add_argument("--store", default="store", help="directory that models and data sets lie in")
    parser.add_argument("--stall", type=float, default=STALL, help="seconds without a byte before it is begun again")
    return parser.parse_args()


def wanted(given: argparse.Namespace) -> tuple[str, str | None]:
    """Name and revision: the make line's, or the recipe's. A recipe's revision is of its own model only."""
    if given.model:
        return given.model, given.revision
    from scripts.run import find_overlay  # a second of imports, which only this branch needs
    from train.recipe import load_recipe

    recipe = load_recipe(find_overlay(given.overlay))
    return recipe.model_name_or_path, given.revision or recipe.model_revision


def directory_of_store(store: str) -> Path:
    """The store as a directory. Raises InputError for one that is none."""
    if "://" in store:
        fix = "give a directory (STORE=store) or a bucket (STORE=s3://bucket/prefix)"
        raise InputError(problem("STORE", store, "is no place to fetch into", fix))
    return Path(store).absolute()


if __name__ == "__main__":
    run_program(main)
