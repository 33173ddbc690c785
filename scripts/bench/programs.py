"""The product's programs and the others', as a user starts them, and what they leave."""

import json
import sys
from pathlib import Path
from typing import Any

from scripts.bench.install import PYTHON
from scripts.bench.watch import watch
from train.layout import thread_settings

OURS = sys.executable


def prepare(recipe: Path, model: Path, place: Path, threads: int = 2) -> Any:
    """`make check-data`: the recipe's rows as tokens in place/data."""
    command = [OURS, "-m", "train.check_data", "--recipe", recipe, "--model", model, "--output", place / "data"]
    return watch([*command, "--no-plot"], thread_settings(threads), place / "check-data.log")


def train_ours(recipe: Path, model: Path, data: Path, output: Path, processes: int, threads: int) -> Any:
    """`make run`'s training, watched."""
    command = [OURS, "-m", "train.launch", "--nproc", processes, "--threads", threads, "--"]
    command += ["--recipe", recipe, "--model", model, "--data", data, "--output", output]
    return watch(command, {}, output / "log.txt", output / "metrics.jsonl")


def train_other(job: dict[str, Any], threads: int) -> Any:
    """One of the others, watched; its job is written beside its results."""
    output = Path(job["output"])
    output.mkdir(parents=True, exist_ok=True)
    (output / "job.json").write_text(json.dumps(job, indent=1) + "\n")
    command = [PYTHON, "-m", "scripts.bench.competitor", output / "job.json"]
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return watch(command, environment, output / "log.txt", output / "metrics.jsonl")


def validate(recipe: Path, model: Path, adapter: Path, data: Path, output: Path, threads: int) -> float:
    """The validation loss of an adapter, whoever trained it, by our own evaluation."""
    command = [OURS, "-m", "train.evaluate", "--recipe", recipe, "--model", model, "--adapter", adapter]
    result = output / "after.json"
    watch([*command, "--data", data, "--output", result], thread_settings(threads), output / "evaluate.log")
    return json.loads(result.read_text())["eval_loss"]


def matmul_rate(dtype: str, threads: int, log: Path) -> float:
    """The machine's matrix-multiply rate in this number format now, in GFLOP/s, in a process of its own."""
    watch([OURS, "-m", "scripts.bench.matmul", dtype], thread_settings(threads), log)
    return float(log.read_text().split()[-1])
