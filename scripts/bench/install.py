"""What the others need, in a virtual environment of its own: torch as ours, first and pinned; the rest as released."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from train.errors import InputError, problem

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "bench" / "venv"
PYTHON = PLACE / "bin" / "python"
VERSIONS = PLACE / "versions.json"  # written last: it is there only when the installation is whole
PACKAGES = ("trl", "peft", "transformers", "accelerate", "datasets")
NAMED = ("torch", "trl", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


def install(fresh: bool) -> dict[str, str]:
    """Install the others where they are not, and return the versions of all that decide what is measured.

    With `fresh` they are installed anew, at the releases of today. Raises InputError where pip cannot.
    """
    if VERSIONS.exists() and not fresh:
        return present()
    torch = (ROOT / "requirements-torch.txt").read_text().split()[-1]
    print(f"installing {torch} and {', '.join(PACKAGES)} into {PLACE.relative_to(ROOT)} (once)", flush=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    commands = [
        [sys.executable, "-m", "venv", PLACE],
        [PYTHON, "-m", "pip", "install", "--quiet", torch],
        [PYTHON, "-m", "pip", "install", "--quiet", torch, *PACKAGES],
    ]
    for command in commands:
        if subprocess.run(list(map(str, command)), check=False).returncode:
            what = "the programs to compare with cannot be installed; pip's own message stands above"
            fix = 'see to pip\'s access to a package index; WHAT="ranks data length" needs none of them'
            raise InputError(problem("make bench", "", what, fix))
    VERSIONS.write_text(json.dumps(installed()) + "\n")
    return present()


def present() -> dict[str, str]:
    """The versions that were installed; none where nothing is, or not wholly."""
    return json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {}


def installed() -> dict[str, str]:
    """The versions in that environment."""
    words = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {NAMED}}}))"
    found = subprocess.run([str(PYTHON), "-c", words], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)
