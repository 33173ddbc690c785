"""Where the time of a training step goes: behind `make profile`.

    python -m scripts.bench.profile --overlay demo [--model DIR] [--data FILE] [--set lora_r=16 …]

Prepares the rows of a use case as `make run` does, trains a few steps, and prints seconds by kind of work. The run lies
in build/profile, with profile.json and trace.json (open it in chrome://tracing or Perfetto) in its directory profile/.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.bench.table import as_text
from train.errors import InputError, problem, run_program
from train.profiling import FIRST_STEP, STEPS

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "profile"
SHORT = (
    f"max_steps={FIRST_STEP + STEPS - 1}",
    "num_train_epochs=",
    "eval_strategy='no'",
    "load_best_model_at_end=false",
    "report_to=[]",
)


def main() -> int:
    given = parse_arguments()
    status, run = prepare(given)
    if status or not run:
        return status
    status = train(run)
    if status:
        return status
    found = run / "profile" / "profile.json"
    if not found.exists():
        what = f"the run ended before step {FIRST_STEP}, so that nothing was profiled"
        raise InputError(problem(run, "rows", what, "give more rows, or a smaller global_batch_size with SET"))
    print(f"\n{show(json.loads(found.read_text()))}\ntrace: {found.with_name('trace.json')}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", required=True, help="use case")
    parser.add_argument("--model", default="", help="base model instead of the recipe's")
    parser.add_argument("--data", default="", help="training rows instead of the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="other recipe values")
    return parser.parse_args()


def prepare(given: argparse.Namespace) -> tuple[int, Path | None]:
    """`make check-data`, with the recipe made short; returns its exit status and the run's directory."""
    words = [sys.executable, "-m", "scripts.run", "--overlay", given.overlay, "--runs-dir", str(PLACE)]
    words += ["--until", "check-data", "--nproc", "1"]
    for name in ("model", "data"):
        words += [f"--{name}", getattr(given, name)] if getattr(given, name) else []
    PLACE.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [*words, "--set", *SHORT, *given.set], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    named = re.search(r"^run (\S.*)$", ended.stdout, re.MULTILINE)
    return ended.returncode, ROOT / named[1] if named else None


def train(run: Path) -> int:
    """The training alone, from its first step."""
    record = json.loads((run / "run.json").read_text())
    for left in ("checkpoints", "adapter", "model", "profile"):
        shutil.rmtree(run / left, ignore_errors=True)
    (run / "metrics.jsonl").unlink(missing_ok=True)
    layout = record["layout"]
    words = [sys.executable, "-m", "train.launch", "--nproc", str(layout["processes"])]
    words += ["--threads", str(layout["threads"]), "--", "--recipe", run / "train.yaml"]
    words += ["--model", record["model_path"], "--data", run / "data", "--output", run, "--profile", run / "profile"]
    return subprocess.run(list(map(str, words)), cwd=ROOT, check=False).returncode


def show(found: dict[str, Any]) -> str:
    """The kinds of work with most time first, as a table."""
    kinds = sorted(found["kinds"], key=lambda kind: -kind["seconds"])
    kinds = [kind for kind in kinds if kind["seconds"] > 0]
    rows = [("kind of work", "s a step", "share")]
    rows += [(kind["kind"], f"{kind['seconds'] / found['steps']:.3f}", f"{kind['share']:.1%}") for kind in kinds]
    rows.append(("all", f"{found['seconds'] / found['steps']:.3f}", "100.0%"))
    mostly = ["mostly", *(", ".join(kind["mostly"]) for kind in kinds), f"{found['threads']} threads"]
    lines = [f"{line}  {words}" for line, words in zip(as_text(rows).splitlines(), mostly, strict=True)]
    return "\n".join([f"{found['steps']} steps, after {FIRST_STEP - 1} of warm-up", *lines])


if __name__ == "__main__":
    run_program(main)
