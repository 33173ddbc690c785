"""Bring what a pod serves from S3 to its volume; the first container of a served model whose store is a bucket.

    python -m scripts.serve.bring runs/NAME        merged or whole model, recipe and record of a run
    python -m scripts.serve.bring models/NAME/...  a model

S3_URL names the bucket; the rest of the environment is every S3 program's (scripts/s3/client.py). Exit status: 0 it is
there, every byte verified; 1 S3 failed; 2 nothing whole lies there.
"""

import argparse
import os
import sys
from pathlib import Path

from scripts.pod_s3 import CA
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.bring import fetch_file, whole
from scripts.s3.objects import reached
from scripts.s3.trouble import S3Failed
from train.errors import InputError, problem, run_program

RECORDS = ("run.json", "train.yaml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="below the bucket's prefix, and below --store here")
    parser.add_argument("--store", type=Path, default=Path("/store"), help="where it is brought")
    arguments = parser.parse_args()
    if CA.is_file():
        os.environ["AWS_CA_BUNDLE"] = str(CA)
    store = parse(os.environ.get("S3_URL", ""))
    try:
        bring(reached(store), store, arguments.path, arguments.store)
    except S3Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


def bring(client, store, path: str, root: Path) -> None:
    """A run's result with its record, or a model. Raises InputError where nothing whole lies there."""
    if not path.startswith("runs/"):
        if not whole(client, store / path, root / path):
            raise InputError(manifests.nothing_whole(client, store / path))
        return
    for made in ("merged", "model"):
        if whole(client, store / path / made, root / path / made):
            break
    else:
        fix = "wait until the run is complete (make watch), or merge it"
        raise InputError(problem(store / path, "", "has no merged model and no whole one", fix))
    for name in RECORDS:
        fetch_file(client, store / path, name, root / path / name)


if __name__ == "__main__":
    run_program(main)
