"""What the others need, in a virtual environment of its own: torch as ours, first and pinned; the rest as released."""

from scripts import own_venv
from scripts.own_venv import ROOT, OwnVenv

PACKAGES = ("trl", "peft", "transformers", "accelerate", "datasets")
NAMED = ("torch", "trl", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
FIX = 'see to pip\'s access to a package index; WHAT="ranks data length" needs none of them'
OTHERS = OwnVenv(ROOT / "build" / "bench" / "venv", PACKAGES, NAMED, 2_000_000_000, "make bench", FIX)
PYTHON = OTHERS.python


def install(fresh: bool) -> dict[str, str]:
    """Install the others where they are not, and return the versions of all that decide what is measured.

    With `fresh` they are installed anew, at the releases of today. Raises InputError where pip cannot.
    """
    return own_venv.install(OTHERS, fresh)


def present() -> dict[str, str]:
    """The versions that were installed; none where nothing is, or not wholly."""
    return own_venv.present(OTHERS)
