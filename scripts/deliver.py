"""Bring a model or a data set from this machine to where nothing can be fetched: `make deliver`.

    python -m scripts.deliver --model owner/name [--revision REVISION] [--to cluster|s3://bucket/prefix]
    python -m scripts.deliver --data rows.jsonl

What lies in the store of this machine (STORE) goes by name, anything else by its path. Into a cluster it goes through
the data-access pod: a cut goes on where it was, every file is read back there and its hash compared, one rename
publishes it. Exit status: 0 it is there; 1 it could not be brought there; 2 bad input. docs/into-a-cluster.md
"""

import argparse
import sys
from pathlib import Path

from scripts.cluster.deliver_store import deliver_to_cluster
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import NAMESPACE
from scripts.deliver_parcel import WORDS, Parcel, find_parcel
from scripts.transfer_view import amount
from train import stored
from train.errors import InputError, attempt, problem, run_program


def main() -> int:
    arguments = parse_arguments()
    to_s3 = arguments.to.startswith("s3://")
    problems: list[str] = []
    if arguments.to not in ("", "cluster") and not to_s3:
        problems.append(
            problem("TO", arguments.to, "is no place to deliver to", "TO=cluster, or TO=s3://bucket/prefix")
        )
    kind, given = attempt(problems, what_to_send, arguments) or ("", "")
    parcel = attempt(problems, find_parcel, kind, given, arguments.revision, arguments.store) if kind else None
    if problems:
        raise InputError(problems)
    print(f"{parcel.artifact}: {len(parcel.files)} files, {amount(parcel.size)}")
    if to_s3:
        return to_bucket(parcel, arguments.to)
    cluster = Cluster(arguments.context, arguments.namespace)
    try:
        deliver_to_cluster(cluster, parcel)
    except Refused as refused:
        print(f"failed: {refused}; the same command goes on where this one stopped", file=sys.stderr)
        return 1
    name, revision = parcel.artifact.name, parcel.artifact.revision
    print(
        f"use:  make deploy {WORDS[kind]}=/store/{parcel.artifact.path}, or in a recipe {name} in revision {revision}"
    )
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a name in the store of this machine, or a directory")
    parser.add_argument("--data", default="", help="a name in the store of this machine, a directory, or a file")
    parser.add_argument("--revision", help="commit, branch or tag; default: what was fetched last without one")
    parser.add_argument("--to", default="", help="cluster (the default), or s3://bucket/prefix")
    parser.add_argument("--store", type=Path, default=stored.local_store(), help="the store of this machine")
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    return parser.parse_args()


def what_to_send(arguments: argparse.Namespace) -> tuple[str, str]:
    """Kind, and the name or path. Raises InputError where it is not just one."""
    if arguments.model and arguments.data:
        raise InputError(problem("MODEL, DATA", "", "both are given", "deliver the one, then the other"))
    if not arguments.model and not arguments.data:
        raise InputError(problem("MODEL, DATA", "", "neither is given", "MODEL=owner/name, or DATA=rows.jsonl"))
    return ("model", arguments.model) if arguments.model else ("dataset", arguments.data)


def to_bucket(parcel: Parcel, url: str) -> int:
    """The parcel to S3; the exit status."""
    # boto3 takes a second to load, and a cluster's delivery has no use for it.
    from scripts.deliver_s3 import deliver_to_s3
    from scripts.s3.trouble import S3Failed

    try:
        deliver_to_s3(parcel, url)
    except S3Failed as failed:
        print(f"failed: {failed}; the same command goes on where this one stopped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_program(main)
