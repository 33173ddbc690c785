"""Several recipes of a use case one after the other on this machine, and compared; `make sweep`, `make sweep-status`.

    python -m scripts.sweep.sweep run    --overlay argilla [--sweep FILE] [--model DIR] [--data FILE] [--set K=V …]
    python -m scripts.sweep.sweep status --overlay argilla [--run NAME]

A point of kustomize/overlays/<overlay>/sweep.yaml is what SET= would give `make run`, and has the same run. Whatever is
wrong is said before anything starts. The same command again does only what is missing. Exit status: 0 every point is
done, 1 a point failed (the others ran all the same), 2 bad input, 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.chain import STAGES, loaded_nursery
from scripts.cluster.progress import duration
from scripts.run import add_options, check_and_run, find_overlay, make_plan, own_recipe, wanted_processes
from scripts.runs import run_status
from scripts.sweep.check import TRIED, find_sweep, gather, note_on_rows, of_point
from scripts.sweep.file import SweepFile
from scripts.sweep.points import words
from scripts.sweep.record import HERE, load_record, make_record, save_record, show, state_here
from scripts.webhook import take_address
from train.allocator import prefer_tcmalloc
from train.errors import EXIT_BAD_INPUT, InputError, attempt, problem, report_problems, run_program
from train.layout import Layout, choose_layout
from train.nursery import Nursery

STOPPED = (130, 143)  # a run's exit status after Ctrl-C or SIGTERM


def main() -> int:
    arguments = parse_arguments()
    if arguments.what == "status":
        record = load_record(arguments.runs_dir, arguments.overlay, HERE, name=arguments.run)
        show(record, arguments.runs_dir, states(record, arguments.runs_dir))
        return 0
    # ---- everything that can be known beforehand, all problems at once ----
    problems: list[str] = []
    if arguments.run:
        problems.append(problem("RUN", arguments.run, "names one run, and a sweep has many", "leave RUN out"))
    sweep = attempt(problems, find_sweep, arguments)
    address = attempt(problems, take_address)
    layout = attempt(problems, choose_layout, wanted_processes(arguments), arguments.threads)
    if problems:
        raise InputError(problems)
    # ---- from here on with torch, imported once for all stages of all runs ----
    with loaded_nursery(layout) as nursery:
        return plan_and_run(sweep, layout, arguments, nursery, address)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "status"))
    add_options(parser)
    parser.add_argument("--sweep", default="", help="another file than the overlay's sweep.yaml")
    parser.add_argument("--run", default="", help="status: name of the sweep; default: the overlay's newest")
    return parser.parse_args()


def plan_and_run(
    sweep: SweepFile, layout: Layout, arguments: argparse.Namespace, nursery: Nursery, address: str
) -> int:
    """Check every point with model, rows and machine, keep the sweep's record, and work through the points."""
    recipe_path, runs = find_overlay(arguments.overlay), arguments.runs_dir

    def start(point: dict[str, Any]) -> int:
        own = argparse.Namespace(**vars(of_point(arguments, point)) | {"until": STAGES[-1]})
        return check_and_run(own_recipe(recipe_path, own)[0], layout, own, recipe_path, nursery, address)

    def plan(point: dict[str, Any]) -> SimpleNamespace:
        own = of_point(arguments, point)
        return make_plan(own_recipe(recipe_path, own)[0], layout, own, recipe_path)

    names = [f"{arguments.overlay}-{one.identity[:8]}" for one in gather(sweep, plan)]
    record = make_record(sweep, arguments.overlay, HERE, "", names)
    save_record(runs, record)
    done = states(record, runs).count("complete")
    print(f"{record['name']}: {len(names)} points of {sweep.path}, best by {TRIED[sweep.metric]}; {done} are done")
    if note := note_on_rows(sweep):
        print(note)
    return work_through(record, runs, start)


def work_through(record: dict[str, Any], runs: Path, start: Callable[[dict[str, Any]], int]) -> int:
    """Run the points that are not done, whatever becomes of the one before; returns the exit status."""
    points, failed = record["points"], []
    for number, point in enumerate(points, 1):
        head, run = f"{number} of {len(points)}: {words(point['values'])}", runs / point["run"]
        if state_here(run) == "complete":
            print(f"\n=== {head}  done before ({run})", flush=True)
            continue
        print(f"\n=== {head}{time_left(record, runs, number - 1)}", flush=True)
        try:
            status = start(point["values"])
        except InputError as error:
            report_problems(error)
            status = EXIT_BAD_INPUT
        except KeyboardInterrupt:
            status = STOPPED[0]
        if status in STOPPED:
            return tell_stopped(record, runs, status)
        if status:
            failed.append((head, point["run"], status))
            print(f"=== {head}  failed with exit status {status}; the others go on", file=sys.stderr, flush=True)
    print("\n=== all points\n")
    show(record, runs, states(record, runs))
    for head, run, status in failed:
        print(
            f"failed: {head}  (exit status {status}); make sweep again goes on with it: {runs / run}", file=sys.stderr
        )
    return 1 if failed else 0


def time_left(record: dict[str, Any], runs: Path, before: int) -> str:
    """About how long the points from here on take, by those that are done; empty where none is."""
    done = [runs / point["run"] for point in record["points"] if run_status(runs / point["run"]) == "complete"]
    if not done:
        return ""
    seconds = [sum(stage["seconds"] for stage in json.loads((run / "run.json").read_text())["stages"].values())
               for run in done]  # fmt: skip
    later = [point for point in record["points"][before:] if run_status(runs / point["run"]) != "complete"]
    return f"  (about {duration(sum(seconds) / len(seconds) * len(later))} left)"


def tell_stopped(record: dict[str, Any], runs: Path, status: int) -> int:
    """Say what is done and what goes on from here; the exit status."""
    found = states(record, runs)
    for point, state in zip(record["points"], found, strict=True):
        print(f"  {words(point['values'])}: {state}", file=sys.stderr)
    print(
        f"stopped: {found.count('complete')} of {len(found)} points are done; the same command goes on.",
        file=sys.stderr,
    )
    return status


def states(record: dict[str, Any], runs: Path) -> list[str]:
    """How each point stands on this machine."""
    return [state_here(runs / point["run"]) for point in record["points"]]


if __name__ == "__main__":
    prefer_tcmalloc()
    run_program(main)
