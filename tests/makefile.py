"""The Makefile as tests see it: its text, its targets, its variables, and a way to run it."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run make as a person would, without what a make around these tests has put into the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    for name in user_variables():
        environment.pop(name, None)
    words = [*arguments, *(f"{name}={value}" for name, value in variables.items())]
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def targets() -> dict[str, str]:
    """Every target that a person types, and its rule's text."""
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)(.*\n(?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert rules
    return dict(rules)


def user_variables() -> list[str]:
    return re.findall(r"^([A-Z][A-Z0-9_]*) \?=", MAKEFILE, re.MULTILINE)
