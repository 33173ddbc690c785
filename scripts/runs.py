"""The runs on this machine: what identifies one, who works on it, which there are; `make runs` and `make delete-run`.

python -m scripts.runs list   [--runs-dir runs]
python -m scripts.runs delete NAME [--yes] [--runs-dir runs]
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from train.errors import InputError, problem, run_program
from train.layout import Layout
from train.run_names import RECORD, find_run, is_name, known_runs, no_such_run
from train.stored import MANIFEST

# What a run's result does not depend on: keys that may differ without making it another run.
WITHOUT_EFFECT = ("report_to",)
SECONDS_TO_WAIT = 15.0
EVALUATIONS = ("before.json", "after.json")


def identity(recipe: SimpleNamespace, model: Path, sources: dict, layout: Layout) -> str:
    """A hash of all that decides what is learned: recipe, base model, rows, number of processes."""
    parts = {
        "recipe": {key: value for key, value in vars(recipe).items() if key not in WITHOUT_EFFECT},
        "model": fingerprint(model),
        "data": sorted(source["sha256"] for source in sources.values()),
        "processes": layout.processes,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fingerprint(model: Path) -> dict[str, str]:
    """Name and content of a model's files; of weights only size and header, since reading them all takes minutes.

    Names a run; whether the weights are those the adapter was trained on is proven by their full hash at the merge.
    """
    found = {}
    for path in sorted(model.glob("*.json")) + sorted(model.glob("*.jinja")):
        if path.name == MANIFEST:  # says when and from where it was fetched; the same model by hand has none
            continue
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = f"{path.stat().st_size} {hashlib.sha256(file.read(1 << 20)).hexdigest()}"
    return found


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[int]:
    """Hold the run for this process and its children; yields the lock's descriptor. Raises InputError if it is held."""
    descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 32, 0).decode() or "unknown"
                os.close(descriptor)
                fix = f"wait for it, or stop it: kill {holder}"
                raise InputError(problem(run, "", f"is being worked on by process {holder}", fix)) from None
            time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find_runs(runs: Path, names: list[str], variable: str = "RUN") -> list[Path]:
    """The directories of runs by their names. Raises InputError with each name that is none, and those there are."""
    problems = []
    for name in dict.fromkeys(names):
        if not is_name(name) or not (runs / name).is_dir():
            problems.append(no_such_run(runs, name, variable))
        elif not (runs / name / RECORD).is_file():
            fix = f"make the run again (make run), or copy it whole from where it is; there are: {known_runs(runs)}"
            problems.append(problem(variable, name, f"has no record: {runs / name / RECORD} is not there", fix))
    if problems:
        raise InputError(problems)
    return [runs / name for name in names]


def read_record(path: Path) -> dict[str, Any]:
    """A run.json. Raises InputError where it is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "copy it again from where the run was made, or make the run again"
        raise InputError(problem(path, "", f"is not readable JSON: {error}", fix)) from None
    if not isinstance(record, dict):
        raise InputError(problem(path, "", "is no JSON object", "copy it again from where the run was made"))
    return record


def overlay_of(record: dict, name: str) -> str:
    """The use case of a run: as its record says, else what its command or its name says."""
    words = record.get("command", "").split()
    said = words[words.index("--overlay") + 1] if "--overlay" in words[:-1] else ""
    return record.get("overlay") or said or name.rpartition("-")[0] or name


def run_status(run: Path) -> str:
    """complete, or the last stage that is done."""
    done = [
        name for name in ("data", "before.json", "adapter", "model", "merged", "after.json") if (run / name).exists()
    ]
    if (run / "report.html").exists() and "after.json" in done:
        return "complete"
    return f"incomplete, has {done[-1]}" if done else "empty"


def is_held(run: Path) -> bool:
    """Whether some process works on the run now."""
    descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def list_runs(runs: Path) -> None:
    """Print one line a run: name, status, start, losses."""
    records = sorted(runs.glob("*/run.json"), key=lambda path: json.loads(path.read_text())["started"])
    if not records:
        print(f"no runs in {runs}; make run makes one")
        return
    answers = {path.parent: [evaluated(path.parent / name) for name in EVALUATIONS] for path in records}
    with_rouge = any(one["rougeL"] is not None for pair in answers.values() for one in pair)
    rouge = f"{'ROUGE-L':15} " if with_rouge else ""
    print(f"{'run':28} {'started':20} {'validation loss':18} {'exact match':14} {rouge}status")
    for path in records:
        record, run = json.loads(path.read_text()), path.parent
        training = record.get("training", {})
        loss = arrow(training.get("eval_loss_first"), training.get("best_eval_loss"), "{:.4f}")
        shares = arrow(*(one["share"] for one in answers[run]), "{:.0%}")
        rouge = f"{arrow(*(one['rougeL'] for one in answers[run]), '{:.3f}'):15} " if with_rouge else ""
        status = "running" if is_held(run) else run_status(run)
        print(f"{run.name:28} {record['started'][:19]:20} {loss:18} {shares:14} {rouge}{status}")


def arrow(first: float | None, last: float | None, form: str) -> str:
    """Two figures as before -> after; a dash for one that is not there."""
    return " -> ".join("-" if value is None else form.format(value) for value in (first, last))


def evaluated(path: Path) -> dict[str, float | None]:
    """Of an evaluation the share of exact matches and ROUGE-L; None for what was not measured."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {"share": (found.get("exact_match") or {}).get("share"), "rougeL": (found.get("rouge") or {}).get("rougeL")}


def delete_run(runs: Path, name: str, yes: bool) -> None:
    """Remove a run's directory for good, after a question or an explicit word. Raises InputError if it may not go."""
    run = find_run(runs, name, elsewhere="one on a cluster goes by make delete-run ON=cluster RUN={name}")
    if is_held(run):
        raise InputError(problem(run, "", "is being worked on", "stop it first (Ctrl-C where it runs)"))
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(problem(run, "", "deleting needs a yes", f"make delete-run RUN={name} YES=1"))
        if input(f"delete {run} ({size / 1e6:.0f} MB) for good? Type its name: ").strip() != name:
            print("nothing deleted")
            return
    doomed = run.rename(runs / f".{name}.deleted.tmp")  # a kill in the middle leaves no half of a run behind
    shutil.rmtree(doomed)
    print(f"deleted {run} ({size / 1e6:.0f} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("list", "delete"))
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--yes", action="store_true", help="delete without a question")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    arguments = parser.parse_args()
    if arguments.action == "list":
        list_runs(arguments.runs_dir)
    else:
        delete_run(arguments.runs_dir, arguments.name, arguments.yes)


if __name__ == "__main__":
    run_program(main)
