"""A run's base and what it learned, measured on task files: `make eval TASKS=… RUN=…`, `make eval-remove`.

    python -m scripts.eval.eval --tasks kustomize/overlays/demo/tasks --run demo-13b7f276 [--limit-rows 50]
    python -m scripts.eval.eval --tasks tickets.yaml urgency.yaml --model DIR [--allow code]
    python -m scripts.eval.eval --remove [--run demo-13b7f276] [--yes]

EleutherAI's lm-evaluation-harness asks, in an environment of its own that is made once (build/eval/venv); it reads task
files and rows of this machine alone. The results lie in RUN/eval, of a model in build/eval/models; the same again does
only what is missing. Exit status: 0 done, 1 the harness failed, 2 bad input (every problem is listed, nothing asked).
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts import own_venv
from scripts.allow import read_allowed
from scripts.eval import install, results
from scripts.eval.tasks import Task, read_tasks, write_task
from scripts.runs import find_runs, lock_run
from train.errors import InputError, attempt, problem, run_program
from train.layout import choose_layout, thread_settings
from train.libraries import set_up_libraries

ALLOW = {"code": "tasks may run Python that came with them"}


def main() -> int:
    set_up_libraries()
    arguments = parse_arguments()
    if arguments.remove:
        remove(arguments)
        return 0
    # ---- everything that is wrong, all at once, before anything is installed or loaded ----
    problems: list[str] = []
    if arguments.on == "cluster":
        fix = f"bring the run here first: make results RUN={arguments.run or '…'}; then the same without ON=cluster"
        problems.append(problem("ON", "cluster", "measures nothing: what is measured lies on this machine", fix))
    allowed = attempt(problems, read_allowed, arguments.allow, ALLOW)
    limit = attempt(problems, read_limit, arguments.limit_rows)
    tasks = attempt(problems, read_tasks, arguments.tasks, allowed if allowed is not None else set(ALLOW))
    subject = attempt(problems, find_subject, arguments)
    if problems:
        raise InputError(problems)
    versions = own_venv.install(install.environment())
    # ---- what is missing ----
    with lock_run(subject.home.parent) if arguments.run else contextlib.nullcontext():
        about = subject.about() | {"limit": limit, "harness": versions}
        places = {
            task: results.result_path(subject.home, task.name, about | {"task": task.identity()}) for task in tasks
        }
        print(f"{subject.name} is asked {subject.way}, in {subject.dtype}")
        for side in subject.sides:
            if status := measure(subject, side, places, about, "code" in allowed):
                return status
        found = [results.read(path) for path in places.values()]
        if arguments.run and (subject.home.parent / "report.html").is_file():
            write_report_again(subject.home.parent)
    print("\n" + "\n".join(results.table(found)))
    print(f"\nresults: {subject.home}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=[], metavar="PATH", help="task files, or directories of them")
    parser.add_argument("--run", default="", help="name of a run: its base and its result are asked")
    parser.add_argument("--model", default="", help="a model instead: a directory, or a name in the store")
    parser.add_argument("--limit-rows", default="", help="only so many rows of each task; default: all")
    parser.add_argument("--allow", default="", help="code: tasks may run Python that came with them")
    parser.add_argument("--on", default="here", help="here; a run on a cluster is copied first")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    parser.add_argument("--remove", action="store_true", help="take away the environment, or with --run its results")
    parser.add_argument("--yes", action="store_true", help="remove without a question")
    return parser.parse_args()


def read_limit(text: str) -> int | None:
    """How many rows of each task; None for all. Raises InputError for what is no such number."""
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            problem("LIMIT_ROWS", text, "is no number of rows", "give a whole number from 1, or leave it out")
        )
    return int(text)


def find_subject(arguments: argparse.Namespace) -> Any:
    """Whom to ask; loads the libraries that look at models."""
    from scripts.eval import subject

    return subject.find_subject(arguments.run, arguments.model, arguments.runs_dir)


# ---- asking ----


def measure(subject: Any, side: str, places: dict[Task, Path], about: dict[str, Any], code: bool) -> int:
    """Ask one model the tasks that it was not asked yet; returns the exit status."""
    missing = {task: path for task, path in places.items() if side not in results.read(path).get("sides", {})}
    one = subject.sides[side]
    if not missing:
        print(f"--- {side}: done before")
        return 0
    print(f"--- {side}: {one.directory}{f' with {one.adapter}' if one.adapter else ''}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tunefleet-eval-") as work:
        for task in missing:
            write_task(task, Path(work, "tasks"))
        job = {
            "side": side, "model": str(one.directory.resolve()), "batch_size": subject.batch_size, "about": about,
            "adapter": str(one.adapter.resolve()) if one.adapter else None, "code": code, "tasks_dir": f"{work}/tasks",
            "tasks": [{"name": task.name, "output": str(path.resolve()), "about": about | {"task": task.identity()}}
                      for task, path in missing.items()],
        }  # fmt: skip
        Path(work, "job.json").write_text(json.dumps(job))
        status = ask_harness(Path(work))
    if status:
        kept = "what was measured before is kept, and the same command goes on behind it"
        print(f"error: the harness ended with status {status}, its message stands above; {kept}", file=sys.stderr)
        return 1
    return 0


def ask_harness(work: Path) -> int:
    """Run the harness over the job in `work`; returns its status."""
    layout = choose_layout()
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    quiet |= {} if sys.stderr.isatty() else {"TQDM_MININTERVAL": "15"}
    own = {"HF_DATASETS_CACHE": str(work / "datasets"), "PYTHONPATH": str(own_venv.ROOT)}
    environment = os.environ | thread_settings(layout.processes * layout.threads) | offline | quiet | own
    command = [str(install.environment().python), "-m", "scripts.eval.harness", str(work / "job.json")]
    return subprocess.run(command, env=environment, check=False).returncode


def write_report_again(run: Path) -> None:
    """Bring the run's page up to date."""
    from train.report import write_report

    write_report(run)


# ---- taking away ----


def remove(arguments: argparse.Namespace) -> None:
    """Remove a run's results, or environment and results of models, after a question or an explicit word."""
    if arguments.run:
        (run,) = find_runs(arguments.runs_dir, [arguments.run])
        doomed, what = run / "eval", f"make eval-remove RUN={arguments.run} YES=1"
    else:
        doomed, what = install.HOME, "make eval-remove YES=1"
    if not doomed.is_dir():
        print(f"nothing to remove: {doomed} is not there")
        return
    size = sum(path.stat().st_size for path in doomed.rglob("*") if path.is_file() and not path.is_symlink())
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError(problem(doomed, "", "removing needs a yes", what))
        if input(f"remove {doomed} ({size / 1e6:,.1f} MB) for good? Type yes: ").strip() != "yes":
            print("nothing removed")
            return
    aside = doomed.rename(doomed.with_name(f".{doomed.name}.removed.tmp"))  # a kill in the middle leaves no half of it
    shutil.rmtree(aside)
    if arguments.run and (run / "report.html").is_file():
        write_report_again(run)
    print(f"removed {doomed} ({size / 1e6:,.1f} MB)")


if __name__ == "__main__":
    run_program(main)
