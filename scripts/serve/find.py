"""What is to be served: a run's result or a model's directory, and how it was trained to be asked."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from scripts.runs import run_status
from train.errors import InputError, problem
from train.in_store import find_by_name
from train.recipe import load_recipe
from train.run_names import find_run
from train.sources import check_model


@dataclass(frozen=True)
class Served:
    """A model under the name that requests use; `adapter` where a run was not merged, `recipe` where a run made it."""

    name: str
    directory: Path
    adapter: Path | None = None
    recipe: SimpleNamespace | None = None


def find_served(run: str, model: str, runs: Path) -> Served:
    """The run of this name, or this model. Raises InputError where there is none that can answer."""
    if bool(run) == bool(model):
        what = "are both given" if run else "is missing"
        fix = "make serve RUN=name (make runs lists them), or make serve MODEL=directory"
        raise InputError(problem("RUN and MODEL" if run else "RUN or MODEL", "", what, fix))
    served = of_run(runs, run) if run else of_model(model)
    if problems := check_model(served.directory, "lora"):
        raise InputError(problems)
    return served


def of_run(runs: Path, name: str) -> Served:
    """What a run made: merged, else every weight trained, else the adapter on its base."""
    run = find_run(runs, name)
    recipe = load_recipe(run / "train.yaml")
    for made in ("merged", "model"):
        if (run / made).is_dir():
            return Served(name, run / made, None, recipe)
    if not (run / "adapter").is_dir():
        fix = "run it to its end (make run goes on where it stopped), or serve its base: make serve MODEL=…"
        raise InputError(problem("RUN", name, f"has learned nothing yet ({run_status(run)})", fix))
    base = Path(json.loads((run / "run.json").read_text())["model_path"])
    if not base.is_dir():
        fix = "bring the base back there, or merge the run on the machine where it is"
        raise InputError(problem("RUN", name, f"is not merged, and its base {base} is not here", fix))
    return Served(name, base, run / "adapter", recipe)


def of_model(given: str) -> Served:
    """A directory, or a model of the store by its name; requests name it as it was given."""
    found = find_by_name("model", given, None) or Path(given)
    if not found.is_dir():
        fix = "give a directory with config.json, tokenizer and safetensors, or a name that make models lists"
        raise InputError(problem("MODEL", given, "is no directory, and no model of the store", fix))
    return Served(given.rstrip("/"), found)
