"""`make test-cluster` and `make test-operations`: brings the testbed up once, then runs what can be run at a time.

    python -m tests.cluster.everything use-cases|operations

What only asks runs beside the use cases; what breaks nodes or operators, or strikes runs, runs alone, last. More
arguments go to pytest.
"""

import argparse
import contextlib
import os
import subprocess
import sys

from tests.cluster import testbed

TESTS = {"use-cases": "cluster and not operations", "operations": "cluster and operations"}
PHASES = (("not breaks", ["--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"]), ("breaks", []))
AGAIN = ["--last-failed", "--last-failed-no-failures", "none"]
NOTHING_LEFT = 5  # pytest's status when it ran no test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TESTS)
    arguments, flags = parser.parse_known_args()
    own = os.environ.get("TUNEFLEET_TEST_CLUSTER") == "1"
    try:
        with contextlib.nullcontext() if own else testbed.running():
            return max(run(f"{TESTS[arguments.what]} and {which}", flags, beside) for which, beside in PHASES)
    except testbed.CannotRun as why:
        print(f"skipped: {arguments.what} on a cluster: {why}")
        return 0


def run(chosen: str, flags: list[str], beside: list[str]) -> int:
    """Run one phase; what fails is run once more by itself, because nodes and clocks are real, and both are seen."""
    command = [sys.executable, "-m", "pytest", "tests/cluster", "-m", chosen, *flags]
    status = subprocess.run([*command, *beside]).returncode
    if status not in (0, NOTHING_LEFT):
        print("what failed is run once more, alone", flush=True)
        status = subprocess.run([*command, *AGAIN]).returncode
    return 0 if status == NOTHING_LEFT else status


if __name__ == "__main__":
    sys.exit(main())
