"""The harness in a virtual environment of its own: it brings sixty packages that a training does not need."""

from scripts.own_venv import ROOT, OwnVenv, pinned_here

HARNESS = "lm-eval[hf]==0.4.13"
SAME = ("transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers")  # models load as they do here
HOME = ROOT / "build" / "eval"


def environment() -> OwnVenv:
    """What it is made of."""
    packages = (HARNESS, *pinned_here(*SAME))
    fix = "see to pip's access to a package index, once; the same command goes on"
    return OwnVenv(HOME / "venv", packages, ("torch", "lm-eval", *SAME), 3_000_000_000, "make eval", fix)
