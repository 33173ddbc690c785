"""Whether this machine can do what the recipe asks: everything that can be known before a weight is loaded, at once."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

from train.errors import attempt, problem
from train.hardware import memory_available
from train.layout import Layout

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}


def check_machine(
    recipe: SimpleNamespace, model: Path, layout: Layout, run: Path, where: object, machines: range = range(1, 2)
) -> list[str]:
    """Every reason why the recipe cannot be trained from `model` on this machine; an empty list for none.

    `machines`: how many like this one may take part; an elastic training must fit any of these numbers.
    """
    from train.processes import check_batch, require_backend
    from train.sources import check_model

    problems: list[str] = []
    for count in machines:
        attempt(problems, check_batch, recipe, layout.processes * count, where)
    if recipe.ddp_backend != "auto":
        attempt(problems, require_backend, recipe.ddp_backend, where)
    absent = check_packages(recipe, where)
    broken = check_model(model, recipe.method)
    problems += absent + broken
    if not absent and not broken:
        problems += check_fit(recipe, model, layout, where, machines[0])
    problems += check_place(recipe, model, run)
    return problems


def check_packages(recipe: SimpleNamespace, where: object) -> list[str]:
    """Problems of packages that only some recipes need."""
    problems = []
    for tracker in recipe.report_to:
        if importlib.util.find_spec(tracker) is None:
            fix = f"install it: .venv/bin/pip install {TRACKERS[tracker]}, or take {tracker} out"
            problems.append(problem(where, "report_to", f"{tracker} is not installed", fix))
    if recipe.use_ipex:
        from train.model import require_ipex

        attempt(problems, require_ipex, where)
    if recipe.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        what = "flash_attention_2 needs a GPU and the package flash-attn, which is not installed"
        problems.append(problem(where, "attn_implementation", what, "set attn_implementation: sdpa"))
    return problems


def check_fit(recipe: SimpleNamespace, model: Path, layout: Layout, where: object, machines: int) -> list[str]:
    """Problems between the recipe and the model's shapes: names of modules, memory of all processes."""
    from train.hardware import choose_dtype
    from train.memory import check_memory
    from train.model import check_targets, empty_model

    problems = check_targets(recipe, empty_model(model), where)
    if problems:  # an adapter that cannot be placed has no memory to estimate
        return problems
    dtype, _ = choose_dtype(recipe.dtype)
    config = json.loads((model / "config.json").read_text())
    ranks, memory = layout.processes * machines, memory_available()
    problems += check_memory(recipe, config, ranks, dtype.itemsize, memory, where, machines)
    return problems


def check_place(recipe: SimpleNamespace, model: Path, run: Path) -> list[str]:
    """Problems of the place the run is written to: not writable, or too small for what will lie there."""
    directory = run
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        fix = "choose another place: RUNS=directory on the make line"
        return [problem(run, "", f"cannot be written: {directory} is not a writable directory", fix)]
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    # Full training keeps weights and two optimiser moments in float32 a checkpoint; an adapter's are small beside them.
    # One more checkpoint than kept stands there while it is written.
    each = weights * 2 * 3 if recipe.method == "full" else weights // 20
    needed = each * (recipe.save_total_limit + 1) + weights + 64 * 2**20
    free = shutil.disk_usage(directory).free
    if free < needed:
        what = f"has {free / 2**30:.1f} GiB free, but checkpoints and the result need about {needed / 2**30:.1f} GiB"
        fix = "free space, choose another disk (RUNS=directory), or lower save_total_limit"
        return [problem(directory, "", what, fix)]
    return []
