"""The chain of a run: its stages and their commands, its record; the same on a machine (scripts.run) and in a pod."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.runs import fingerprint, run_status
from train.checkpoint import MANIFEST
from train.errors import InputError, problem
from train.files import PROMPTS, write_json
from train.layout import Layout, thread_settings
from train.libraries import import_libraries
from train.nursery import Nursery
from train.recipe import dump_recipe

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("check-data", "before", "train", "merge", "after", "report")


def stage_commands(
    run: Path, recipe: SimpleNamespace, model: Path, layout: list[str]
) -> dict[str, tuple[Path | None, list[str]]]:
    """Of each stage of this recipe: the path that is there once it is done (None: always run), and its command.

    `layout` holds the arguments of train.launch that say which processes train, and how they meet.
    """
    recipe_path, base, data = str(run / "train.yaml"), str(model), str(run / "data")
    full, merged = recipe.method == "full", recipe.merge and recipe.method != "full"
    trained = ["--model", str(run / "model")] if full else ["--model", base, "--adapter", str(run / "adapter")]
    if merged:
        trained = ["--model", str(run / "merged")]
    evaluate = ["-m", "train.evaluate", "--recipe", recipe_path, "--data", data]
    finetune = ["--recipe", recipe_path, "--model", base, "--data", data, "--output", str(run)]
    commands = {
        "check-data": (None, ["-m", "train.check_data", "--recipe", recipe_path, "--model", base, "--output", data]),
        "before": (run / "before.json", [*evaluate, "--model", base, "--output", str(run / "before.json")]),
        "train": (run / ("model" if full else "adapter"), ["-m", "train.launch", *layout, "--", *finetune]),
        "merge": (run / "merged", ["-m", "train.merge", "--base", base, "--adapter", str(run / "adapter"),
                                   "--output", str(run / "merged"), "--prompts", str(run / "data" / PROMPTS)]),
        "after": (run / "after.json", [*evaluate, *trained, "--output", str(run / "after.json")]),
        "report": (None, ["-m", "train.report", "--run", str(run)]),
    }  # fmt: skip
    if not merged:
        del commands["merge"]
    return commands


def claim(run: Path, plan: SimpleNamespace, values: dict, fix: str, **more: Any) -> None:
    """Write the run's recipe and record, or make sure that they are this very run's.

    `plan` has recipe, layout, model, sources and identity; `more` goes into the record. Raises InputError, with `fix`,
    where the directory holds another run.
    """
    record_path = run / "run.json"
    if record_path.exists():
        record = json.loads(record_path.read_text())
        if record["identity"] != plan.identity:
            what = "holds another run: recipe, model, data or processes differ from this command's"
            raise InputError(problem(run, "", what, fix))
        return
    (run / "train.yaml").write_text(dump_recipe(values))
    write_json(
        record_path,
        {
            "name": run.name,
            "identity": plan.identity,
            "status": "running",
            "started": now(),
            "command": " ".join(sys.orig_argv[1:]),
            "recipe": vars(plan.recipe),
            "model_path": str(plan.model),
            "model_files": fingerprint(plan.model),
            "data": {"sources": plan.sources},
            "layout": plan.layout.as_dict(),
            "seed": plan.recipe.seed,
            "git": git_commit(),
            "image": present_image(),
            "stages": {},
        }
        | more,
    )


def run_child(
    words: list[str],
    environment: dict[str, str],
    lock: int,
    instead: dict[int, int] | None = None,
    beside: Callable[[subprocess.Popen], AbstractContextManager] = nullcontext,
    nursery: Nursery | None = None,
) -> tuple[int, int | None]:
    """Run one program to its end and pass SIGINT and SIGTERM on to it, or the signal `instead` of them.

    `beside` gets the process, and is a context that lasts as long as it. With a nursery, `words` are Python's, "-m" the
    first of them. Returns its status (negative: the signal that killed it) and the first signal that was passed on,
    None for none.
    """
    received: list[int] = []
    # The child holds the lock too: it is free only when no process of this run is left.
    if nursery:
        process = nursery.start(words, environment, lock)
    else:
        process = subprocess.Popen(words, env=environment, pass_fds=(lock,) if lock >= 0 else ())

    def pass_on(number, frame):
        received.append(number)
        process.send_signal((instead or {}).get(number, number))

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with beside(process):
            status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status, received[0] if received else None


def update_record(run: Path, stage: str, seconds: float) -> None:
    """Bring run.json up to date after a stage: its seconds, and what the stage found out."""
    record = json.loads((run / "run.json").read_text())
    record["stages"][stage] = {"seconds": round(seconds, 1)}
    if stage == "check-data":
        record["data"]["digest"] = json.loads((run / "data" / "data_check.json").read_text())["digest"]
    if stage == "train" or is_unrecorded(run, record):
        training = json.loads((run / "training.json").read_text())
        for key in ("dtype", "dtype_reason", "versions", "hardware", "base_model", "matmul_gflops"):
            record[key] = training.pop(key)
        record["training"] = training
        record["result"] = result_files(run, record["recipe"])
    record["status"] = run_status(run)
    if record["status"] == "complete":
        record.setdefault("finished", now())
    write_json(run / "run.json", record)


def is_unrecorded(run: Path, record: dict[str, Any]) -> bool:
    """Whether a training was done when a signal came, before that was written down."""
    needed = ("training.json", f"{result_directory(record['recipe'])}/{MANIFEST}")
    return "training" not in record and all((run / name).is_file() for name in needed)


def result_directory(recipe: dict[str, Any]) -> str:
    """The directory of what is trained, inside the run."""
    return "model" if recipe["method"] == "full" else "adapter"


def result_files(run: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The directory of what was trained, and the SHA-256 of each of its files, as it was sealed with."""
    directory = result_directory(recipe)
    sealed = json.loads((run / directory / MANIFEST).read_text())
    return {"directory": directory, "files": {name: entry["sha256"] for name, entry in sealed.items()}}


def loaded_nursery(layout: Layout) -> Nursery:
    """The nursery of a run, with the libraries imported in this program too, whose checks need them."""
    settings = thread_settings(layout.processes * layout.threads)
    os.environ.update(settings)  # OpenMP and OpenBLAS read them when they are loaded
    import_libraries()
    return Nursery(settings)


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def present_image() -> str | None:
    """The image that this program runs in, as who started it says; None outside of one."""
    return os.environ.get("TUNEFLEET_IMAGE")


def git_commit() -> str | None:
    """The commit of this checkout, None outside of one. An image holds no git, and is told by who starts it."""
    told = os.environ.get("TUNEFLEET_COMMIT")
    if told is not None or not shutil.which("git"):
        return told or None
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
