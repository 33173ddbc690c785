"""Virtual environments under build/ for what .venv is not to hold: torch as ours, first and pinned; then the rest."""

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from train.errors import InputError, problem

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class OwnVenv:
    """Where it lies, what pip is asked for beside torch, whose versions are recorded, and the bytes that it takes."""

    place: Path
    packages: tuple[str, ...]
    named: tuple[str, ...]
    room: int
    target: str  # of make, for messages
    fix: str  # what to do where pip fails

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.place / "bin" / "python"

    @property
    def versions(self) -> Path:
        """Written last: it is there only when the installation is whole."""
        return self.place / "versions.json"


def torch_pin() -> str:
    """torch as .venv has it: torch==2.13.0."""
    return (ROOT / "requirements-torch.txt").read_text().split()[-1]


def install(venv: OwnVenv, fresh: bool = False) -> dict[str, str]:
    """Install what is asked for where it is not there, and return the versions of what is named.

    With `fresh` it is installed anew, at the releases of today. Raises InputError where pip cannot.
    """
    if is_as_asked(venv) and not fresh:
        return present(venv)
    check_room(venv)
    venv.place.parent.mkdir(parents=True, exist_ok=True)
    with (venv.place.parent / ".installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes in two terminals would write into the same place
        if not is_as_asked(venv) or fresh:
            make(venv)
    return present(venv)


def make(venv: OwnVenv) -> None:
    """Remove what is there, and install."""
    torch, named = torch_pin(), ", ".join(venv.packages)
    shown = venv.place.relative_to(ROOT) if venv.place.is_relative_to(ROOT) else venv.place
    print(f"installing {torch} and {named} into {shown} (once; minutes)", flush=True)
    shutil.rmtree(venv.place, ignore_errors=True)
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    pip = [venv.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", venv.place], [*pip, *index, torch], [*pip, torch, *venv.packages]):
        if subprocess.run(list(map(str, command)), check=False).returncode:
            what = f"{named} cannot be installed; pip's own message stands above"
            raise InputError(problem(venv.target, "", what, venv.fix))
    venv.versions.write_text(json.dumps(installed(venv)) + "\n")


def check_room(venv: OwnVenv) -> None:
    """Raise InputError where the disk has no room for it."""
    free = shutil.disk_usage(next(path for path in venv.place.parents if path.exists())).free
    if free < venv.room:
        what = f"needs {venv.room / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise InputError(problem(venv.place, "", what, "free space there; make delete-run removes a run"))


def present(venv: OwnVenv) -> dict[str, str]:
    """The versions that were installed; none where nothing is, or not wholly."""
    return json.loads(venv.versions.read_text()) if venv.versions.exists() else {}


def is_as_asked(venv: OwnVenv) -> bool:
    """Whether it is there whole, with every version that is pinned."""
    there = present(venv)
    pins = [re.split(r"(?:\[.*\])?==", package) for package in (torch_pin(), *venv.packages) if "==" in package]
    return bool(there) and all(there.get(name, version).partition("+")[0] == version for name, version in pins)


def installed(venv: OwnVenv) -> dict[str, str]:
    """The versions in that environment."""
    words = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {venv.named}}}))"
    found = subprocess.run([str(venv.python), "-c", words], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def pinned_here(*names: str) -> tuple[str, ...]:
    """Packages in the versions that this program itself runs with."""
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in names)
