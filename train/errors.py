"""The one error type of every program here: all problems at once, each with the place, the key and the fix."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.orphans import die_with_parent

# 2 says "what you gave is wrong": a Kubernetes podFailurePolicy never retries it, unlike 1 (a crash, a lost peer).
EXIT_BAD_INPUT = 2
FIRST_PROBLEM = "TUNEFLEET_FIRST_PROBLEM"  # in the environment: a file that gets it, for who started this program


class InputError(Exception):
    """Everything found wrong with what the user gave; `problems` holds one message each."""

    def __init__(self, problems: Sequence[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def problem(where: object, key: str, what: str, fix: str) -> str:
    """One message: `where: key: what`, and on the next line the fix. `key` may be empty."""
    place = f"{where}: {key}" if key else f"{where}"
    return f"{place}: {what}\n  fix: {fix}"


def see(runbook: str) -> str:
    """The end of a message whose trouble has a runbook."""
    return f" (docs/runbooks/{runbook}.md)"


def attempt(problems: list[str], function: Callable, *arguments: Any) -> Any:
    """The function's result, or None with its InputError's problems added to the list, to find all at once."""
    try:
        return function(*arguments)
    except InputError as error:
        problems.extend(error.problems)
        return None


def report_problems(error: InputError) -> None:
    """Print every problem to stderr, and how many there are when it is more than one."""
    for message in error.problems:
        print(f"error: {message}", file=sys.stderr)
    if len(error.problems) > 1:
        print(f"{len(error.problems)} problems", file=sys.stderr)
    if target := os.environ.get(FIRST_PROBLEM):
        with contextlib.suppress(OSError):  # it stands in the log as well
            Path(target).write_text(in_one_line(error.problems[0]))


def in_one_line(message: str) -> str:
    """A problem and its fix, for a place that has one line."""
    return message.replace("\n  fix:", ";")


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's `main` and leave with its exit status; InputError leaves with EXIT_BAD_INPUT, Ctrl-C with 130."""
    die_with_parent()
    try:
        status = main() or 0
    except InputError as error:
        report_problems(error)
        status = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        status = 130
    sys.exit(status)
