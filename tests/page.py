"""A page of docs/ that is run as it stands: its files and commands, in a copy of this checkout."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: Path, label: str) -> list[tuple[str, str]]:
    """The fenced blocks whose first word is this label: what follows the word, and the text."""
    found = re.findall(rf"^```{label}(?: (\S+))?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no {label} block"
    return found


def copy_of_checkout(directory: Path) -> Path:
    """The files that git knows, with what was built and the same virtual environment."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in [*names, "build/image.json", "build/push.json"]:
        if name and (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(ROOT / ".venv")
    return directory


def type_in(directory: Path, line: str, seconds: float = 900, **variables: str) -> str:
    """What a command prints, typed there by a person with these variables set. Fails where the command fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")} | variables
    done = subprocess.run(["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True,
                          check=False, timeout=seconds)  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def follow(page: Path, directory: Path) -> dict[str, str]:
    """Do what the page says up to where it needs a cluster: its commands' output, by command."""
    lines = [line for mark, text in blocks(page, "sh") if mark != "cluster" for line in text.splitlines()]
    files = blocks(page, "yaml")
    printed = {lines[0]: type_in(directory, lines[0])}  # the copy, then the files over it
    for name, text in files:
        assert (directory / name).exists(), f"{name} is none of the template's files"
        (directory / name).write_text(text)
    return printed | {line: type_in(directory, line) for line in lines[1:]}
