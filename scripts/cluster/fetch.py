"""Fetch a model or a data set into the cluster's store: `make fetch-model ON=cluster`, `make fetch-data ON=cluster`.

    python -m scripts.cluster.fetch model --overlay medical
    python -m scripts.cluster.fetch data --data owner/name --revision main
    python -m scripts.cluster.fetch stop --model owner/name          behind `make fetch-stop`

A job there runs what `make fetch-model` runs here; it is followed as if it were here, and goes on when this program
ends. Asking twice follows the same job. Exit status: 0 it is there; 1 it failed; 2 bad input, here or there.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from scripts.cluster.fetch_follow import Follower
from scripts.cluster.fetch_job import ENDPOINT, Wish, begin, job_of, stop
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import NAMESPACE
from scripts.fetch.from_url import check_url, shown
from scripts.run import find_overlay
from train.errors import InputError, problem, run_program
from train.recipe import read_yaml

KEYS = {"model": ("model_name_or_path", "model_revision"), "data": ("dataset_name", "dataset_revision")}


def main() -> int:
    arguments = parse_arguments()
    cluster = Cluster(arguments.context, arguments.namespace)
    try:
        if arguments.what == "stop":
            return stop_all(cluster, arguments)
        wish = wish_of(arguments.what, arguments)
        made = begin(cluster, wish, arguments)
    except Refused as refused:
        raise of_cluster(cluster, refused) from refused
    print(f"{wish.job}: {'started' if made else 'runs already, and is followed'} (namespace {cluster.namespace}); "
          "Ctrl-C ends the view, not the fetch", flush=True)  # fmt: skip
    if endpoint := os.environ.get(ENDPOINT):
        print(f"from {endpoint}, as {ENDPOINT} says here", flush=True)
    follower = Follower(cluster, wish.job)
    try:
        return follower.follow()
    except KeyboardInterrupt:
        print(f"\nthe view is closed, the fetch goes on: {wish.line} shows it again, make fetch-stop ends it")
        return 130
    finally:
        follower.close()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "data", "stop"))
    parser.add_argument(
        "--overlay", default="demo", help="use case: what its recipe names; image and proxy are its too"
    )
    parser.add_argument("--model", default="", help="instead of the recipe's: a name on the hub")
    parser.add_argument("--data", default="", help="instead of the recipe's: a name on the hub, or a URL")
    parser.add_argument("--revision", default="", help="branch, tag or commit; default: the recipe's, or main")
    parser.add_argument("--sha256", default="", help="hash of the file; needed for a URL")
    parser.add_argument("--place", nargs="*", default=[], metavar="KEY=VALUE", help="other values of the placement")
    parser.add_argument("--with", nargs="*", default=[], dest="more", metavar="COMPONENT", help="proxy, pull-secret")
    parser.add_argument("--without", nargs="*", default=[], metavar="COMPONENT", help="components to leave out")
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    return parser.parse_args(namespace=argparse.Namespace(runtime=""))


def wish_of(kind: str, arguments: argparse.Namespace) -> Wish:
    """What is to be fetched: as told, or as the recipe says. Raises InputError where nothing can be fetched there."""
    given, revision = getattr(arguments, kind), arguments.revision
    where, key = kind.upper(), ""
    if not given:
        path = find_overlay(arguments.overlay)
        values, _ = read_yaml(path)
        where, key = f"OVERLAY={arguments.overlay}", KEYS[kind][0]
        given, revision = str(values.get(key) or ""), revision or str(values.get(KEYS[kind][1]) or "")
        if not given:
            fix = "DATA=owner/name for another data set; make deliver DATA=file brings rows of this machine there"
            raise InputError(problem(where, key, "the recipe names none, so there is nothing to fetch", fix))
    problems = check_url(given, arguments.sha256.lower()) if "://" in given else []
    if "://" in given and urlsplit(given).query:
        fix = "make fetch-data DATA='…' SHA256=… brings it to this machine, make deliver DATA=NAME from here to there"
        problems.append(
            problem(where, shown(given), "has a query, maybe a signature, which would stand in the job", fix)
        )
    if "@" in os.environ.get(ENDPOINT, ""):
        fix = "give the address alone; a token is the Secret hub-token's"
        problems.append(problem(ENDPOINT, "", "holds a user or password, which would stand in the job", fix))
    if problems:
        raise InputError(problems)
    if is_path(given):
        fix = f"make deliver {kind.upper()}={given} brings it there"
        raise InputError(problem(where, key, f"{given} is a path of this machine, which no pod can fetch", fix))
    return Wish(kind, given, revision, arguments.sha256 if kind == "data" else "")


def is_path(given: str) -> bool:
    """Whether it is a path of this machine, and no name on the hub and no URL."""
    looks_so = given.startswith((".", "/", "~", "models/")) or given.count("/") > 1
    return "://" not in given and (looks_so or Path(given).exists())


def stop_all(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """End the fetches that were named, or the overlay's; what they have brought stays for the next."""
    kinds = [kind for kind in KEYS if getattr(arguments, kind)] or list(KEYS)
    for kind in kinds:
        try:
            wish = wish_of(kind, arguments)
        except InputError:
            if len(kinds) == 1:
                raise
            continue  # of an overlay's two only one may come from the hub
        if job_of(cluster, wish):
            stop(cluster, wish)
            print(f"{wish.job}: stopped; {wish.line} goes on from what lies in the store")
        else:
            print(f"{wish.job}: no such job (namespace {cluster.namespace})")
    return 0


def of_cluster(cluster: Cluster, refused: Refused) -> Exception:
    """What to say of a cluster that refused: bad input where the namespace is not there, else what it said."""
    if f'namespaces "{cluster.namespace}" not found' in str(refused):
        fix = f"make cluster-setup NAMESPACE={cluster.namespace}, or name another: NAMESPACE="
        return InputError(problem("NAMESPACE", cluster.namespace, "is not on the cluster", fix))
    print(f"failed: {refused}", file=sys.stderr)
    return SystemExit(1)


if __name__ == "__main__":
    run_program(main)
