"""`make test-cluster`: brings the testbed up once, then all tests of a cluster, as many at a time as they stand.

    python -m tests.cluster.everything

What only asks runs beside the use cases; what breaks nodes or operators runs alone, last. Arguments go to pytest.
"""

import contextlib
import os
import subprocess
import sys

from tests.cluster import testbed

PHASES = (
    (["-m", "cluster and not breaks"], ["--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"]),
    (["-m", "cluster and breaks and not faults"], []),
)
AGAIN = ["--last-failed", "--last-failed-no-failures", "none"]
NOTHING_LEFT = 5  # pytest's status when it ran no test


def main() -> int:
    own = os.environ.get("TUNEFLEET_TEST_CLUSTER") == "1"
    try:
        with contextlib.nullcontext() if own else testbed.running():
            return max(run(chosen, beside) for chosen, beside in PHASES)
    except testbed.CannotRun as why:
        print(f"skipped: all tests of a cluster: {why}")
        return 0


def run(chosen: list[str], beside: list[str]) -> int:
    """Run one phase; what fails is run once more by itself, because nodes and clocks are real, and both are seen."""
    command = [sys.executable, "-m", "pytest", *chosen, *sys.argv[1:]]
    status = subprocess.run([*command, *beside]).returncode
    if status not in (0, NOTHING_LEFT):
        print("what failed is run once more, alone", flush=True)
        status = subprocess.run([*command, *AGAIN]).returncode
    return 0 if status == NOTHING_LEFT else status


if __name__ == "__main__":
    sys.exit(main())
