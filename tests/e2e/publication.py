"""Publish a run as `make publish` does, and run the Python that its card shows."""

import re
import subprocess
import sys
from pathlib import Path

from tests.makefile import make
from tests.tiny import environment


def publish(run: Path, to: Path, **variables: str) -> subprocess.CompletedProcess:
    """What a person gets who types make publish."""
    return make("publish", RUN=run.name, RUNS=str(run.parent), TO=str(to), **variables)


def snippet(directory: Path) -> str:
    """The card's Python."""
    return re.search(r"^```python\n(.*?)^```$", (directory / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]


def run_snippet(directory: Path) -> str:
    """What the card's Python prints, in the published directory, without network. Fails where it fails."""
    offline = environment() | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", snippet(directory)],
        cwd=directory,
        env=offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
