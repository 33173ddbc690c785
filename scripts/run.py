"""The whole job on this machine, behind `make run`: check, prepare, train, merge, prove, evaluate, report.

    python -m scripts.run --overlay demo
    python -m scripts.run --overlay medical --model DIR --data rows.json --set lora_r=16 num_train_epochs=1

Everything lands in runs/<name>/. The name holds a hash of recipe, model, data and processes: the same command finds its
own run again and goes on where it stopped; anything else is a new run beside it. Exit status: 0 done, 1 a stage failed,
2 bad input (all problems are listed, nothing was started), 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from scripts.runs import identity, lock_run, run_status
from train.errors import InputError, attempt, problem, run_program
from train.files import write_json
from train.layout import Layout, choose_layout, thread_settings
from train.orphans import LAUNCHER_PID
from train.preflight import check_machine
from train.prepared import PROMPTS
from train.recipe import apply_settings, check_values, dump_recipe, read_yaml, with_defaults
from train.rows import describe_files, find_training, find_validation
from train.sources import find_model

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ROOT / "kustomize" / "overlays"
STAGES = ("check-data", "before", "train", "merge", "after", "report")


def main() -> int:
    arguments = parse_arguments()
    # ---- everything that can be known beforehand, all problems at once ----
    recipe_path = find_overlay(arguments.overlay)
    values, problems = own_recipe(recipe_path, arguments)
    plan = make_plan(values, arguments, recipe_path, problems)
    if problems:
        raise InputError(problems)
    # ---- the run: found again, or new ----
    run = arguments.runs_dir / (arguments.run or f"{arguments.overlay}-{plan.identity[:8]}")
    run.mkdir(parents=True, exist_ok=True)
    with lock_run(run) as lock:
        claim(run, plan, values)
        if run_status(run) == "complete" and arguments.until == STAGES[-1]:
            return show_again(run)
        print(f"run {run}\n{plan.layout.processes} x {plan.layout.threads} threads: {plan.layout.reason}", flush=True)
        return work_through(run, plan, arguments, lock)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", default="demo", help="use case: a directory of kustomize/overlays")
    parser.add_argument(
        "--model", help="base model instead of the recipe's: a directory, or a hub name on this machine"
    )
    parser.add_argument("--data", help="training rows instead of the recipe's: a file")
    parser.add_argument("--validation-data", help="validation rows beside --data: a file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values for this run's recipe")
    parser.add_argument(
        "--nproc", type=int, help="processes; default: one a NUMA node (the demo: 2 where there are 2 cores)"
    )
    parser.add_argument("--threads", type=int, help="threads of each process; default: its share of the cores")
    parser.add_argument("--run", help="name of the run; default: overlay and a hash")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="stop after this stage")
    return parser.parse_args()


def find_overlay(name: str) -> Path:
    """The recipe of a use case. Raises InputError naming those there are."""
    path = OVERLAYS / name / "train.yaml"
    if not path.is_file():
        known = ", ".join(sorted(directory.parent.name for directory in OVERLAYS.glob("*/train.yaml")))
        raise InputError(problem("OVERLAY", name, "is no use case", f"take one of: {known}"))
    return path


def own_recipe(path: Path, arguments: argparse.Namespace) -> tuple[dict, list[str]]:
    """The values of this run's recipe, the make line's words laid over the overlay's, and their problems."""
    values, lines = read_yaml(path)
    if arguments.model:
        values["model_name_or_path"] = arguments.model
        values.pop("model_revision", None)
    if arguments.data:
        for key in [key for key in values if key.startswith("dataset_")] + ["train_file", "validation_file"]:
            values.pop(key, None)
        values["train_file"] = arguments.data
    if arguments.validation_data:
        values.pop("validation_size", None)
        values["validation_file"] = arguments.validation_data
    elif arguments.data and not values.get("validation_size"):
        values["validation_size"] = 0.1
    values = apply_settings(values, arguments.set)
    where = path.relative_to(ROOT)
    changed = {setting.partition("=")[0] for setting in arguments.set}
    return values, check_values(values, where, {key: line for key, line in lines.items() if key not in changed})


def make_plan(values: dict, arguments: argparse.Namespace, path: Path, problems: list[str]) -> SimpleNamespace:
    """Recipe, layout, model, data and identity of the run; what is wrong with any of them goes into `problems`."""
    where = path.relative_to(ROOT)
    plan = SimpleNamespace(recipe=None, layout=None, model=None, sources={}, identity="")
    plan.layout = attempt(problems, choose_layout, wanted_processes(arguments), arguments.threads)
    if problems:
        return plan
    plan.recipe = with_defaults(values)
    plan.model = attempt(problems, find_model, plan.recipe, where)
    for origin in (attempt(problems, find_training, plan.recipe, where), find_validation(plan.recipe)):
        plan.sources.update((attempt(problems, describe_files, origin) or {}) if origin else {})
    if plan.model:
        run = arguments.runs_dir / (arguments.run or arguments.overlay)
        problems += check_machine(plan.recipe, plan.model, plan.layout, run, where)
    if not problems:
        plan.identity = identity(plan.recipe, plan.model, plan.sources, plan.layout)
    return plan


def wanted_processes(arguments: argparse.Namespace) -> int | None:
    """The processes asked for; the demo shows two meeting wherever there are two cores."""
    if arguments.nproc is None and arguments.overlay == "demo":
        return min(2, choose_layout().processes * choose_layout().threads)
    return arguments.nproc


def claim(run: Path, plan: SimpleNamespace, values: dict) -> None:
    """Write the run's recipe and record, or make sure that they are this very run's. Raises InputError if not."""
    record_path = run / "run.json"
    if record_path.exists():
        record = json.loads(record_path.read_text())
        if record["identity"] != plan.identity:
            what = "holds another run: recipe, model, data or processes differ from this command's"
            fix = f"choose another RUN=name, or remove it: make delete-run RUN={run.name}"
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
            "data": {"sources": plan.sources},
            "layout": plan.layout.as_dict(),
            "seed": plan.recipe.seed,
            "git": git_commit(),
            "image": os.environ.get("TUNEFLEET_IMAGE"),
            "stages": {},
        },
    )


def show_again(run: Path) -> int:
    """Say how a finished run went; the same command does nothing twice."""
    from train.report import print_summary

    print(f"run {run}\ncomplete; another value or another RUN=name makes another run.")
    print_summary(run)
    return 0


def work_through(run: Path, plan: SimpleNamespace, arguments: argparse.Namespace, lock: int) -> int:
    """Run the stages that are not done yet, up to --until; returns the exit status."""
    commands = stage_commands(run, plan)
    for stage in STAGES[: STAGES.index(arguments.until) + 1]:
        if stage not in commands:
            continue
        result, command = commands[stage]
        if result and result.exists():
            print(f"--- {stage}: done before ({result})", flush=True)
            continue
        print(f"--- {stage}", flush=True)
        started = time.monotonic()
        status = run_stage(command, plan.layout, stage, lock)
        if status:
            return status
        update_record(run, stage, time.monotonic() - started)
    return 0


def stage_commands(run: Path, plan: SimpleNamespace) -> dict[str, tuple[Path | None, list[str]]]:
    """Of each stage of this recipe: the path that is there once it is done (None: always run), and its command."""
    recipe, model, data = str(run / "train.yaml"), str(plan.model), str(run / "data")
    full, merged = plan.recipe.method == "full", plan.recipe.merge and plan.recipe.method != "full"
    trained = ["--model", str(run / "model")] if full else ["--model", model, "--adapter", str(run / "adapter")]
    if merged:
        trained = ["--model", str(run / "merged")]
    evaluate = ["-m", "train.evaluate", "--recipe", recipe, "--data", data]
    layout = ["--nproc", str(plan.layout.processes), "--threads", str(plan.layout.threads)]
    finetune = ["--recipe", recipe, "--model", model, "--data", data, "--output", str(run)]
    commands = {
        "check-data": (None, ["-m", "train.check_data", "--recipe", recipe, "--model", model, "--output", data]),
        "before": (run / "before.json", [*evaluate, "--model", model, "--output", str(run / "before.json")]),
        "train": (run / ("model" if full else "adapter"), ["-m", "train.launch", *layout, "--", *finetune]),
        "merge": (run / "merged", ["-m", "train.merge", "--base", model, "--adapter", str(run / "adapter"),
                                   "--output", str(run / "merged"), "--prompts", str(run / "data" / PROMPTS)]),
        "after": (run / "after.json", [*evaluate, *trained, "--output", str(run / "after.json")]),
        "report": (None, ["-m", "train.report", "--run", str(run)]),
    }  # fmt: skip
    if not merged:
        del commands["merge"]
    return commands


def run_stage(command: list[str], layout: Layout, stage: str, lock: int) -> int:
    """Run one program to its end and pass signals on to it; returns the chain's exit status for how it ended."""
    environment = os.environ | {LAUNCHER_PID: str(os.getpid()), "PYTHONPATH": str(ROOT)}
    if stage != "train":  # one process with all the cores; the launcher sets those of the training itself
        environment |= thread_settings(layout.processes * layout.threads)
    received: list[int] = []
    # The child holds the lock too: it is free only when no process of this run is left.
    process = subprocess.Popen([sys.executable, *command], env=environment, pass_fds=(lock,))

    def pass_on(number, frame):
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        print(f"stopped in stage {stage}; the same command goes on from there.", file=sys.stderr)
        return 128 + received[0]
    if status < 0:
        print(f"error: stage {stage} was killed by {signal.Signals(-status).name}; run the same command again.",
              file=sys.stderr)  # fmt: skip
        return 1
    return status


def update_record(run: Path, stage: str, seconds: float) -> None:
    """Bring run.json up to date after a stage: its seconds, and what the stage found out."""
    record = json.loads((run / "run.json").read_text())
    record["stages"][stage] = {"seconds": round(seconds, 1)}
    if stage == "check-data":
        record["data"]["digest"] = json.loads((run / "data" / "data_check.json").read_text())["digest"]
    if stage == "train":
        training = json.loads((run / "training.json").read_text())
        for key in ("dtype", "dtype_reason", "versions", "hardware", "base_model", "matmul_gflops"):
            record[key] = training.pop(key)
        record["training"] = training
    record["status"] = run_status(run)
    if record["status"] == "complete":
        record.setdefault("finished", now())
    write_json(run / "run.json", record)


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of this checkout, None outside of one. An image holds no git, and is told by who starts it."""
    told = os.environ.get("TUNEFLEET_COMMIT")
    if told is not None or not shutil.which("git"):
        return told or None
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


if __name__ == "__main__":
    run_program(main)
