"""The program behind `make sweep`; where this checkout has no scripts.compare, with a stand-in for it.

python -m tests.e2e.sweep_program run --overlay demo …
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from scripts.sweep.sweep import main
from train.errors import run_program


def stand_in() -> ModuleType:
    """A comparison that only names its runs."""
    module = ModuleType("scripts.compare")

    def write_comparison(runs: list[Path], page: Path) -> None:
        page.write_text("<html>" + "\n".join(run.name for run in runs))

    def print_comparison(runs: list[Path]) -> None:
        print("compared:", *(run.name for run in runs))

    module.write_comparison, module.print_comparison = write_comparison, print_comparison
    return module


if __name__ == "__main__":
    if importlib.util.find_spec("scripts.compare") is None:
        sys.modules["scripts.compare"] = stand_in()
    run_program(main)
