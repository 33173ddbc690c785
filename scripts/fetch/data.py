"""Bring a data set into the store of this machine: from the hub, from a URL with its checksum, or from a file.

    python -m scripts.fetch.data --overlay medical
    python -m scripts.fetch.data --data owner/name --revision main
    python -m scripts.fetch.data --data https://host/rows.jsonl --sha256 DIGEST
    python -m scripts.fetch.data --data rows.jsonl

Behind `make fetch-data`. Exit status: 0 it is there, whole; 1 it did not work this time, the same command goes on;
2 what was given is wrong.
"""

import argparse
import os
import sys
from pathlib import Path

from scripts.fetch import from_file, from_url, hub, one_file
from scripts.fetch.messages import FetchFailed
from scripts.run import find_overlay
from train.errors import InputError, problem, run_program
from train.recipe import read_yaml
from train.stored import VARIABLE


def main() -> int:
    arguments = parse_arguments()
    given, revision = arguments.data, arguments.revision
    if not given:
        given, revision = of_recipe(arguments.overlay, revision)
    check(given, revision, arguments)
    try:
        if arguments.store.startswith("s3://"):
            from scripts.fetch import into_s3  # not in the image: a pod has a store

            if is_file(given) or "://" in given:
                name = from_url.file_name(given) if "://" in given else Path(given).name
                with into_s3.alone("dataset", Path(name).stem):
                    directory = bring(given, revision, arguments.sha256, into_s3.STAGING)
                    into_s3.send("dataset", directory, None, arguments.store)
            else:
                into_s3.fetch_into_bucket("dataset", given, revision or None, arguments.store, hub.fetch)
        else:
            bring(given, revision, arguments.sha256, Path(arguments.store).absolute())
    except FetchFailed as failed:
        print(f"failed: {failed}", file=sys.stderr)
        return 1
    return 0


def bring(given: str, revision: str, sha256: str, store: Path) -> Path:
    """Fetch it into a directory's store; returns where it lies."""
    if "://" in given:
        return from_url.fetch_url(given, sha256.lower(), store)
    if is_file(given):
        return from_file.copy_file(Path(given), sha256.lower(), store)
    return hub.fetch("dataset", given, revision or None, store)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", default="demo", help="use case: the data set that its recipe names")
    parser.add_argument("--data", default="", help="instead of it: a name on the hub, a URL, or a file")
    parser.add_argument(
        "--revision", default="", help="branch, tag or commit on the hub; default: the recipe's, or main"
    )
    parser.add_argument("--sha256", default="", help="hash of the file; needed for a URL")
    parser.add_argument("--store", default=os.environ.get(VARIABLE) or "store", help="directory of the store")
    return parser.parse_args()


def of_recipe(overlay: str, revision: str) -> tuple[str, str]:
    """The data set that a recipe names, and its revision. Raises InputError where it names a file."""
    values, _ = read_yaml(find_overlay(overlay))
    name = values.get("dataset_name")
    if not name:
        what = f"the recipe reads {values.get('train_file')}, a file: there is nothing to fetch"
        fix = "name a data set: DATA=owner/name, DATA=https://… SHA256=…, or DATA=file"
        raise InputError(problem("OVERLAY", overlay, what, fix))
    return str(name), revision or str(values.get("dataset_revision") or "")


def is_file(given: str) -> bool:
    """Whether DATA is a path of this machine, and not a name on the hub."""
    path = Path(given)
    return path.exists() or path.suffix.lower() in one_file.SUFFIXES or given.startswith((".", "/", "~"))


def check(given: str, revision: str, arguments: argparse.Namespace) -> None:
    """Raise InputError with all that is wrong with the words of the make line."""
    problems = []
    if "://" in arguments.store:
        if not arguments.store.startswith("s3://"):
            fix = "give a directory (STORE=store) or a bucket (STORE=s3://bucket/prefix)"
            problems.append(problem("STORE", arguments.store, "is no place to fetch into", fix))
    else:
        problems += hub.store_problems(Path(arguments.store))
    if "://" in given:
        problems += from_url.check_url(given, arguments.sha256.lower())
    elif is_file(given):
        problems += [] if Path(given).is_dir() else one_file.check_name(Path(given).name)
        if arguments.sha256 and not from_url.DIGEST.fullmatch(arguments.sha256.lower()):
            fix = "give its 64 digits, 0 to 9 and a to f, or leave it out: a file is hashed anyway"
            problems.append(problem("SHA256", arguments.sha256, "is no SHA-256", fix))
    elif arguments.sha256:
        fix = "leave it out: a commit of the hub pins every byte; REVISION= names it"
        problems.append(problem("SHA256", arguments.sha256, f"says nothing of {given}, which comes from the hub", fix))
    if revision and ("://" in given or is_file(given)):
        fix = "leave it out; a file is told apart by its hash"
        problems.append(problem("REVISION", revision, f"{from_url.shown(given)} has no revisions", fix))
    if problems:
        raise InputError(problems)


if __name__ == "__main__":
    run_program(main)
