"""Run the chain behind `make run` as a program, in a directory of the test's own."""

import json
import subprocess
import sys
from pathlib import Path

from tests.tiny import ROOT, environment


def chain_command(runs: Path, overlay: str, *arguments: str) -> list[str]:
    """The command line of one `make run`."""
    return [sys.executable, "-m", "scripts.run", "--overlay", overlay, "--runs-dir", str(runs), *arguments]


def run_chain(runs: Path, overlay: str, *arguments: str) -> tuple[Path, str]:
    """Run the chain to its end; returns the run's directory and what was printed. Fails where the chain fails."""
    command = chain_command(runs, overlay, *arguments)
    done = subprocess.run(command, cwd=ROOT, env=environment(2), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first = next(line for line in done.stdout.splitlines() if line.startswith("run "))
    return Path(first.removeprefix("run ")), done.stdout


def read(run: Path, name: str) -> dict:
    """One of the run's JSON files."""
    return json.loads((run / name).read_text())
