"""Lock the Python packages: requirements*.in -> requirements*.txt, each wheel with its hash.

    make lock

torch and the packages that only its CUDA builds bring stay out: which build fits is a fact of the machine
(docs/decisions/0005-torch-outside-the-lock.md). Addresses of package indexes stay out too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LOCKS = {
    "requirements.in": "requirements.txt",
    "requirements-ansible.in": "requirements-ansible.txt",
    "requirements-dev.in": "requirements-dev.txt",
}
OUTSIDE = re.compile(r"(torch|triton|nvidia-[\w.-]+|cuda-[\w.-]+)==")
OPTIONS = (
    "--quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host "
    "--no-emit-find-links --no-emit-options --resolver=backtracking"
)


def main() -> None:
    for source, target in LOCKS.items():
        print(f"{source} -> {target} (minutes: every wheel of every package is hashed)", flush=True)
        lock(source, Path(target))


def lock(source: str, target: Path) -> None:
    """Resolve one file and write its lock by rename; the pins already there are kept where they still fit."""
    partial = target.with_name(f".{target.name}.partial")
    if target.exists():
        partial.write_text(target.read_text())
    command = [sys.executable, "-m", "piptools", "compile", *OPTIONS.split(), "--output-file", str(partial), source]
    subprocess.run(command, check=True, env={**os.environ, "CUSTOM_COMPILE_COMMAND": "make lock"})
    partial.write_text(without_torch(partial.read_text()))
    partial.replace(target)


def without_torch(text: str) -> str:
    """A lock's text without what belongs to one build of torch; an entry goes on while lines are indented."""
    kept, dropping = [], False
    for line in text.splitlines(keepends=True):
        if not line.startswith(" "):
            dropping = bool(OUTSIDE.match(line))
        if not dropping:
            kept.append(line)
    return "".join(kept)


if __name__ == "__main__":
    main()
