"""The whole job on this machine, behind `make run`: check, prepare, train, merge, prove, evaluate, report.

    python -m scripts.run --overlay demo
    python -m scripts.run --overlay medical --model DIR --data rows.json --set lora_r=16 num_train_epochs=1

Everything lands in runs/<name>/. The name holds a hash of recipe, model, data and processes: the same command finds its
own run again and goes on where it stopped; anything else is a new run beside it. Exit status: 0 done, 1 a stage failed,
2 bad input (all problems are listed, nothing was started), 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from scripts import webhook
from scripts.chain import ROOT, STAGES, claim, loaded_nursery, run_child, stage_commands, update_record
from scripts.runs import identity, lock_run, run_status
from train.allocator import prefer_tcmalloc
from train.errors import InputError, attempt, problem, run_program
from train.inputs import find_inputs
from train.layout import Layout, choose_layout, thread_settings
from train.nursery import Nursery
from train.orphans import LAUNCHER_PID
from train.preflight import check_machine
from train.recipe import apply_settings, check_values, read_yaml, with_defaults

OVERLAYS = ROOT / "kustomize" / "overlays"
FILES = (".json", ".jsonl", ".csv", ".parquet", ".txt", ".tsv", ".gz", ".zip", ".xlsx")  # rows, or mistaken for them


def main() -> int:
    arguments = parse_arguments()
    # ---- everything that can be known beforehand, all problems at once ----
    recipe_path = find_overlay(arguments.overlay)
    values, problems = own_recipe(recipe_path, arguments)
    address = attempt(problems, webhook.take_address)
    layout = attempt(problems, choose_layout, wanted_processes(arguments), arguments.threads)
    if problems:
        raise InputError(problems)
    # ---- from here on with torch: imported once, for the checks and for all stages ----
    with loaded_nursery(layout) as nursery:
        return check_and_run(values, layout, arguments, recipe_path, nursery, address)


def check_and_run(
    values: dict, layout: Layout, arguments: argparse.Namespace, recipe_path: Path, nursery: Nursery, address: str
) -> int:
    """Check recipe, model, data and machine against each other, then work through the run; returns the exit status."""
    plan = make_plan(values, layout, arguments, recipe_path)
    # ---- the run: found again, or new ----
    run = arguments.runs_dir / (arguments.run or f"{arguments.overlay}-{plan.identity[:8]}")
    run.mkdir(parents=True, exist_ok=True)
    with lock_run(run) as lock:
        fix = f"choose another RUN=name, or remove it: make delete-run RUN={run.name}"
        claim(run, plan, values, fix, artifacts=plan.artifacts, overlay=arguments.overlay)
        if run_status(run) == "complete" and arguments.until == STAGES[-1]:
            return show_again(run)
        print(f"run {run}\n{plan.layout.processes} x {plan.layout.threads} threads: {plan.layout.reason}", flush=True)
        stages = STAGES[: STAGES.index(arguments.until) + 1]
        status = work_through(run, plan, stages, lock, nursery)
        if 0 < status < 128:
            reason = f"a stage ended with status {status}; its error stands where make run was started"
            webhook.send(address, webhook.message(run, arguments.overlay, "failed", reason))
        elif status == 0 and run_status(run) == "complete":
            webhook.send(address, webhook.message(run, arguments.overlay, "complete", ""))
        return status


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--run", help="name of the run; default: overlay and a hash")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="stop after this stage")
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is learned and by how many processes, the same for one run and a sweep of them."""
    parser.add_argument("--overlay", default="demo", help="use case: a directory of kustomize/overlays")
    parser.add_argument(
        "--model", help="base model instead of the recipe's: a directory, or a hub name on this machine"
    )
    parser.add_argument("--data", help="rows instead of the recipe's: a file, or a data set's name")
    parser.add_argument("--validation-data", help="validation rows beside --data: a file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values for this run's recipe")
    parser.add_argument(
        "--nproc", type=int, help="processes; default: one a NUMA node (the demo: 2 where there are 2 cores)"
    )
    parser.add_argument("--threads", type=int, help="threads of each process; default: its share of the cores")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")


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
        values["dataset_name" if is_name_of_data(arguments.data) else "train_file"] = arguments.data
    if arguments.validation_data:
        values.pop("validation_size", None)
        values["validation_file"] = arguments.validation_data
    elif arguments.data and not values.get("validation_size"):
        values["validation_size"] = 0.1
    values = apply_settings(values, arguments.set)
    where = path.relative_to(ROOT)
    changed = {setting.partition("=")[0] for setting in arguments.set}
    return values, check_values(values, where, {key: line for key, line in lines.items() if key not in changed})


def is_name_of_data(given: str) -> bool:
    """Whether DATA is a data set's name, or its directory, and not a file of rows."""
    return not Path(given).is_file() and Path(given).suffix.lower() not in FILES


def make_plan(values: dict, layout: Layout, arguments: argparse.Namespace, path: Path) -> SimpleNamespace:
    """Recipe, layout, model, data and identity of the run. Raises InputError with what is wrong with any of them."""
    where, problems = path.relative_to(ROOT), []
    plan = SimpleNamespace(recipe=with_defaults(values), layout=layout)
    vars(plan).update(vars(find_inputs(plan.recipe, where, problems)))
    if plan.model:
        run = arguments.runs_dir / (arguments.run or arguments.overlay)
        problems += check_machine(plan.recipe, plan.model, plan.layout, run, where)
    if problems:
        raise InputError(problems)
    plan.identity = identity(plan.recipe, plan.model, plan.sources, plan.layout)
    return plan


def wanted_processes(arguments: argparse.Namespace) -> int | None:
    """The processes asked for; the demo shows two meeting wherever there are two cores."""
    if arguments.nproc is None and arguments.overlay == "demo":
        return min(2, choose_layout().processes * choose_layout().threads)
    return arguments.nproc


def show_again(run: Path) -> int:
    """Say how a finished run went; the same command does nothing twice."""
    from train.report import print_summary

    print(f"run {run}\ncomplete; another value or another RUN=name makes another run.")
    print_summary(run)
    return 0


def work_through(run: Path, plan: SimpleNamespace, stages: Sequence[str], lock: int, nursery: Nursery) -> int:
    """Run those of the stages that are not done yet; returns the exit status."""
    layout = ["--nproc", str(plan.layout.processes), "--threads", str(plan.layout.threads)]
    commands = stage_commands(run, plan.recipe, plan.model, layout)
    for stage in stages:
        if stage not in commands:
            continue
        result, command = commands[stage]
        if result and result.exists():
            print(f"--- {stage}: done before ({result})", flush=True)
            continue
        print(f"--- {stage}", flush=True)
        started = time.monotonic()
        status = run_stage(command, plan.layout, stage, lock, nursery)
        if status:
            return status
        update_record(run, stage, time.monotonic() - started)
    return 0


def run_stage(command: list[str], layout: Layout, stage: str, lock: int, nursery: Nursery) -> int:
    """Run one program to its end and pass signals on to it; returns the chain's exit status for how it ended."""
    environment = os.environ | {LAUNCHER_PID: str(os.getpid()), "PYTHONPATH": str(ROOT)}
    if stage != "train":  # one process with all the cores; the launcher sets those of the training itself
        environment |= thread_settings(layout.processes * layout.threads)
    status, received = run_child(command, environment, lock, nursery=nursery)
    if received:
        print(f"stopped in stage {stage}; the same command goes on from there.", file=sys.stderr)
        return 128 + received
    if status < 0:
        print(f"error: stage {stage} was killed by {signal.Signals(-status).name}; run the same command again.",
              file=sys.stderr)  # fmt: skip
        return 1
    return status


if __name__ == "__main__":
    prefer_tcmalloc()
    run_program(main)
