"""Train a run of this machine again from its own record, and say whether the same came out: `make reproduce RUN=name`.

    python -m scripts.reproduce --run demo-13b7f276 [--runs-dir runs] [--to NAME]
    python -m scripts.reproduce --run medical-3 --model DIR --data rows.json

Recipe, model, rows, processes and threads are those of run.json; what differs from it is told before anything starts.
Model or rows that are gone or changed end it; other versions, another processor or another commit are warned of.
The new run is runs/<name>-reproduced: the same command goes on with it, and compares again once it is trained.
Exit status: 0 bit for bit the same weights, 1 not the same or a stage failed, 2 bad input (all problems are listed),
130 or 143 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from scripts.chain import STAGES, claim, loaded_nursery
from scripts.record_diff import Difference
from scripts.reproduce_inputs import check_inputs, check_record, recorded_layout, recorded_values, warnings
from scripts.reproduce_verdict import verdict
from scripts.run import work_through
from scripts.runs import find_runs, identity, lock_run, overlay_of, read_record
from train.allocator import prefer_tcmalloc
from train.errors import InputError, attempt, problem, run_program
from train.inputs import find_inputs
from train.layout import Layout
from train.nursery import Nursery
from train.preflight import check_machine
from train.recipe import with_defaults

UNTIL = STAGES[STAGES.index("train") :]


def main() -> int:
    arguments = parse_arguments()
    # ---- everything that can be known without torch, all problems at once ----
    run, again = find_places(arguments)
    record = read_record(run / "run.json")
    problems = check_record(record, run)
    if problems:
        raise InputError(problems)
    values = attempt(problems, recorded_values, record, run, arguments)
    layout = recorded_layout(record, run, problems)
    if values is None:
        raise InputError(problems)
    # ---- the rest of what differs, with torch, so that all of it is told at once ----
    with loaded_nursery(layout) as nursery:
        plan, differing = make_plan(record, values, layout, run, again, problems)
        return train_again(record, values, plan, differing, run, again, arguments.until, nursery)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="name of the run to train again")
    parser.add_argument("--to", default="", help="name of the new run; default: the run's with -reproduced")
    parser.add_argument("--model", help="where the same base model lies now: a directory, or a name in the store")
    parser.add_argument("--data", help="where the same rows lie now: a file, or a data set's name")
    parser.add_argument("--validation-data", help="where the same validation rows lie now: a file")
    parser.add_argument("--until", choices=UNTIL, default=UNTIL[-1], help="stop after this stage")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args()


def find_places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The run's directory and that of the new one. Raises InputError with what is wrong with either name."""
    problems: list[str] = []
    found = attempt(problems, find_runs, arguments.runs_dir, [arguments.run])
    name = arguments.to or f"{arguments.run}-reproduced"
    if Path(name).name != name or name == arguments.run:
        what = "is the run itself" if name == arguments.run else "is no name of a run"
        problems.append(problem("TO", name, what, f"give the new run's name: TO={arguments.run}-reproduced"))
    elif (arguments.runs_dir / name).exists() and not (arguments.runs_dir / name).is_dir():
        problems.append(problem("TO", str(arguments.runs_dir / name), "is a file", "give another name: TO=…"))
    if problems:
        raise InputError(problems)
    return found[0], arguments.runs_dir / name


def train_again(
    record: dict, values: dict, plan: SimpleNamespace, differing: list[Difference], run: Path, again: Path, until: str,
    nursery: Nursery,
) -> int:  # fmt: skip
    """Train as planned and compare the results; returns the exit status."""
    layout = plan.layout
    again.mkdir(parents=True, exist_ok=True)
    with lock_run(again) as lock:
        claim_again(again, plan, values, run, record)
        print(f"reproduce {run} as {again}\n{layout.processes} x {layout.threads} threads: {layout.reason}")
        tell(differing)
        same = "model, data, recipe, processes: as recorded"
        print(same if differing else f"{same}; versions, processor and commit too", flush=True)
        # ---- the rows first: other tokens can only give another adapter ----
        stages = STAGES[: STAGES.index(until) + 1]
        status = work_through(again, plan, stages[:1], lock, nursery)
        if status:
            return status
        check_digest(record, again)
        return work_through(again, plan, stages[1:], lock, nursery) or verdict(run, again)


def make_plan(
    record: dict, values: dict, layout: Layout, run: Path, again: Path, known: Sequence[str] = ()
) -> tuple[SimpleNamespace, list[Difference]]:
    """The plan of the new run, as scripts.run makes it, and what may make its result another.

    Raises InputError with all that keeps the result from being the same, the `known` problems among it; what may
    make it another is told then too.
    """
    where, problems = run / "run.json", list(known)
    plan = SimpleNamespace(recipe=with_defaults(values), layout=layout, identity=None)
    vars(plan).update(vars(find_inputs(with_recorded_model(plan.recipe, record), where, problems)))
    problems += check_inputs(record, plan, where)
    if plan.model and not problems:
        problems += check_machine(plan.recipe, plan.model, layout, again, where)
    if not problems:
        plan.identity = identity(plan.recipe, plan.model, plan.sources, layout)
    differing = warnings(record, plan)
    if problems:
        tell(differing)
        raise InputError(problems)
    return plan, differing


def tell(differing: list[Difference]) -> None:
    """Say what may give another result."""
    for one in differing:
        print(f"warning: {one.in_words()}", flush=True)


def with_recorded_model(recipe: SimpleNamespace, record: dict) -> SimpleNamespace:
    """The recipe, naming the very directory that the run took, or its revision, before what its name means today."""
    if recipe.model_name_or_path != record["recipe"]["model_name_or_path"]:  # MODEL= says where it lies now
        return recipe
    fetched = (record.get("artifacts") or {}).get("model") or {}
    name, revision = recipe.model_name_or_path, recipe.model_revision
    if Path(record["model_path"]).is_dir():
        name, revision = record["model_path"], None
    elif fetched.get("name"):
        name, revision = fetched["name"], fetched["revision"]
    return SimpleNamespace(**{**vars(recipe), "model_name_or_path": name, "model_revision": revision})


def claim_again(again: Path, plan: SimpleNamespace, values: dict, run: Path, record: dict) -> None:
    """Make the new run, or find it begun. Raises InputError where the directory holds anything else."""
    fix = f"choose another name: TO=…, or remove it: make delete-run RUN={again.name}"
    of = {"name": run.name, "identity": record["identity"]}
    claim(again, plan, values, fix, artifacts=plan.artifacts, overlay=overlay_of(record, run.name), reproduces=of)
    if read_record(again / "run.json").get("reproduces") != of:
        raise InputError(problem(again, "", f"holds a run that is no reproduction of {run.name}", fix))


def check_digest(record: dict, again: Path) -> None:
    """Raise InputError where the rows became other tokens than those of the run."""
    was = record["data"].get("digest")
    now = json.loads((again / "data" / "data_check.json").read_text())["digest"]
    if was and was != now:
        what = f"the same rows became other tokens: was {was[:12]}, is {now[:12]}"
        fix = "take the versions of transformers and tokenizers, and the commit, that run.json names (make diff-runs)"
        raise InputError(problem(again / "data", "digest", what, fix))


if __name__ == "__main__":
    prefer_tcmalloc()
    run_program(main)
