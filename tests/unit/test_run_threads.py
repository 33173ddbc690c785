"""make run: the number of threads is in the environment before a library is loaded that reads it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
import os, sys
from scripts import chain, run

def loaded():
    print([name for name in ("numpy", "torch") if name in sys.modules], os.environ.get("OMP_NUM_THREADS"))
    raise SystemExit(0)

chain.import_libraries = loaded
run.main()
"""


def test_threads_are_set_before_the_libraries_are_loaded(tmp_path):
    command = [sys.executable, "-c", PROGRAM, "--nproc", "1", "--threads", "1", "--runs-dir", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[] 1", done.stderr
