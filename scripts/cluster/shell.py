"""A shell in the pod that leads a run, or where none runs in the data-access pod, which has the store: `make shell`.

python -m scripts.cluster.shell [--overlay NAME] [--run NAME] [--context NAME] [--namespace NAME] [-- COMMAND …]
"""

import argparse
import subprocess
import sys

from scripts.cluster.checks.reach import tell_refused
from scripts.cluster.jobs import add_follow_options, asked_runs, choose, cluster_of
from scripts.cluster.kubectl import Refused
from scripts.cluster.names import DATA_ACCESS, STORE
from scripts.cluster.pods import is_running, leader_of
from train.errors import run_program

SHELL = ["sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_follow_options(parser)
    parser.add_argument("command", nargs="*", help="what to run there instead of a shell")
    arguments = parser.parse_args()
    cluster = cluster_of(arguments)
    try:
        job = choose(asked_runs(cluster, arguments))
    except Refused as refused:
        return tell_refused(refused)
    leader = leader_of([pod for pod in job.pods if is_running(pod)]) if job else None
    if leader is not None:
        name = leader["metadata"]["name"]
        where = [f"pod/{name}", "-c", leader["spec"]["containers"][0]["name"]]
        print(f"in the leading pod of {job.name}: {name} on {leader['spec']['nodeName']}", file=sys.stderr)
    else:
        where = [f"deployment/{DATA_ACCESS}", "-c", DATA_ACCESS]
        what = f"{job.name} is {job.state} and has no leading pod" if job else "no run"
        print(f"{what}: in the data-access pod, the store is at {STORE}", file=sys.stderr)
    flags = ["-i", "-t"] if sys.stdin.isatty() and not arguments.command else ["-i"]
    return subprocess.run(
        cluster.command("exec", *flags, *where, "--", *(arguments.command or SHELL)), check=False
    ).returncode


if __name__ == "__main__":
    run_program(main)
