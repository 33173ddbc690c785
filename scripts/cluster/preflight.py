"""Can this run start on this cluster, and will it end well? Every question at once, nothing changed; `make preflight`.

    python -m scripts.cluster.preflight --overlay medical [--set lora_r=16] [--place nodes=1] [--json]

Each answer is passed, failed or unknown, with what was found and, where it is not passed, the fix.
Exit status: 0 nothing failed, 1 something did, 2 the overlay or the make line is wrong.
"""

import argparse
import sys
from types import SimpleNamespace

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, as_json
from scripts.cluster.checks.everything import check
from scripts.cluster.overlay import add_run_options, make_plan, render
from train.errors import run_program


def main() -> int:
    arguments = parse_arguments()
    plan = make_plan(arguments)
    answers = check(plan, render(plan))
    if arguments.json:
        print(as_json(answers))
    else:
        for answer in answers:
            print(answer)
        print(summary(plan, answers), file=sys.stderr)
    return int(any(answer.status == FAILED for answer in answers))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    return parser.parse_args()


def summary(plan: SimpleNamespace, answers: list[Answer]) -> str:
    """One line for all of them."""
    count = {status: sum(answer.status == status for answer in answers) for status in (PASSED, FAILED, UNKNOWN)}
    end = "deploy would fail or wait" if count[FAILED] else "ready: make deploy"
    return f"{plan.run}: {count[PASSED]} passed, {count[FAILED]} failed, {count[UNKNOWN]} unknown; {end}"


if __name__ == "__main__":
    run_program(main)
