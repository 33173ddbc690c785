"""The first stage of a run on a cluster: find recipe, model and rows, check everything, make or find the run's record.

    python -m scripts.pod_prepare /etc/finetune

Runs where the training's memory and processors are. Exit status 2 with every problem at once: such a run is never
tried again. scripts.run does the same for a run on one machine.
"""

import argparse
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from scripts.chain import ROOT, claim
from scripts.pod_place import Place, read_overlay, read_place
from scripts.runs import identity
from train.errors import InputError, run_program
from train.in_store import find_by_name, holds_files
from train.inputs import find_inputs
from train.layout import Layout
from train.preflight import check_machine
from train.recipe import check_values, read_yaml, with_defaults
from train.stored import read_json

FILES = ("model_name_or_path", "train_file", "validation_file", "dataset_name")
REVISIONS = {"model_name_or_path": "model_revision", "dataset_name": "dataset_revision"}
FIX = "give it another name (RUN= on the make line), or remove it: make delete-run ON=cluster"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="directory with train.yaml and cluster.yaml")
    config = parser.parse_args().config
    place = read_place()
    values, lines = read_yaml(config / "train.yaml")
    values = settle(values, place.store, read_json(place.directory / "run.json").get("artifacts", {}))
    problems = check_values(values, "train.yaml", lines)
    plan = SimpleNamespace(recipe=None, layout=layout_of(place), identity="")
    if not problems:
        fill(plan, values, place, problems)
    if problems:
        raise InputError(problems)
    os.environ["TUNEFLEET_IMAGE"] = place.image
    whole = yaml.safe_load((config / "cluster.yaml").read_text())
    claim(place.directory, plan, values, FIX, runtime=place.runtime, placement=whole["spec"], artifacts=plan.artifacts,
          overlay=read_overlay(config))  # fmt: skip
    print(f"run {place.directory}: {place.nodes} x {plan.layout.reason}", flush=True)


def settle(values: dict[str, Any], store: Path, before: dict[str, Any]) -> dict[str, Any]:
    """The values with the names of models and files as paths on the store, or in this image for the demo's.

    `before` is what an earlier pod of the run found: a branch that has moved since is not followed in mid-run.
    """
    settled = dict(values)
    for key in FILES:
        name = values.get(key)
        if not isinstance(name, str):
            continue
        in_image = ROOT / name if name.startswith("demo/") else None
        candidates = [by_name(key, values, store, before), store / name, in_image]
        found = next((path for path in candidates if path and path.exists() and is_or_holds_files(path)), None)
        if found:
            settled[key] = str(found)
    return settled


def by_name(key: str, values: dict[str, Any], store: Path, before: dict[str, Any]) -> Path | None:
    """The directory on the store of the model or data set that a recipe's key names."""
    if key not in REVISIONS:
        return None
    kind, revision = ("model" if key == "model_name_or_path" else "dataset"), values.get(REVISIONS[key])
    known = before.get(kind) or {}
    found = find_by_name(kind, values[key], known.get("revision"), store) if known.get("name") == values[key] else None
    return found or find_by_name(kind, values[key], revision and str(revision), store)


def is_or_holds_files(path: Path) -> bool:
    """Whether a path is a file, or a directory with files and not with other directories alone."""
    return path.is_file() or holds_files(path)


def layout_of(place: Place) -> Layout:
    """All processes of the run. Their number on each node and their threads are the placement's, not decided here."""
    reason = f"{place.processes} process{'es' if place.processes > 1 else ''} of {place.threads} threads (cluster.yaml)"
    return Layout(place.nodes * place.processes, place.threads, reason)


def fill(plan: SimpleNamespace, values: dict[str, Any], place: Place, problems: list[str]) -> None:
    """Put recipe, model, rows and identity into the plan; what is wrong with any of them goes into `problems`."""
    where = "train.yaml"
    plan.recipe = with_defaults(values)
    vars(plan).update(vars(find_inputs(plan.recipe, where, problems)))
    if plan.model:
        here = Layout(place.processes, place.threads, plan.layout.reason)
        machines = range(place.min_nodes, place.nodes + 1)
        problems += check_machine(plan.recipe, plan.model, here, place.directory, where, machines)
    if not problems:
        plan.identity = identity(plan.recipe, plan.model, plan.sources, plan.layout)


if __name__ == "__main__":
    run_program(main)
