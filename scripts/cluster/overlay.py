"""One run on a cluster, from the make line: overlay, values laid over it, name, and the kustomization that is applied.

The kustomization lies in build/cluster/<run>: the overlay's three files with the values of this run, and nothing that a
person could not have written. `kubectl apply -k build/cluster/<run>` does the same as make deploy.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from scripts.chain import ROOT
from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import IDENTITY, NAMESPACE, RUNTIMES, STARTED_BY
from scripts.cluster.placement import apply_places, check_placement, dump_placement, read_placement
from scripts.run import OVERLAYS, own_recipe
from scripts.runs import WITHOUT_EFFECT
from train.errors import InputError, attempt, problem
from train.processes import check_batch
from train.recipe import dump_recipe, with_defaults

COMPONENTS = ROOT / "kustomize" / "components"
BUILD = ROOT / "build" / "cluster"
NOT_BUILT = "0" * 12  # the image tag of the committed overlays, until an image is built
PLACED = ("run", "image")  # values of a placement that do not make it another run


@dataclass(frozen=True)
class Plan:
    """A run that could be deployed; nothing of it is on the cluster yet."""

    overlay: str
    run: str
    identity: str
    runtime: str
    components: list[str]
    recipe: SimpleNamespace
    placement: dict[str, Any]
    directory: Path
    cluster: Cluster
    command: str = ""  # the make line that describes it


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a run on a cluster, the same for every program that takes one."""
    parser.add_argument("--overlay", default="demo", help="use case: a directory of kustomize/overlays")
    parser.add_argument("--run", default="", help="name of the run; default: overlay and a hash")
    parser.add_argument("--model", help="base model instead of the recipe's: a path on the store")
    parser.add_argument("--data", help="training rows instead of the recipe's: a path on the store")
    parser.add_argument("--validation-data", help="validation rows beside --data: a path on the store")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values of the recipe")
    parser.add_argument("--place", nargs="*", default=[], metavar="KEY=VALUE", help="other values of the placement")
    parser.add_argument("--runtime", default="", help=f"kind of job instead of the overlay's: {', '.join(RUNTIMES)}")
    parser.add_argument("--with", nargs="*", default=[], dest="more", metavar="COMPONENT", help="further components")
    parser.add_argument("--without", nargs="*", default=[], metavar="COMPONENT", help="components to leave out")
    parser.add_argument("--context", default="", help="kubectl's context; default: the current one")
    parser.add_argument("--namespace", default=NAMESPACE, help="namespace of the team")


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The run that the arguments describe, written to build/cluster/<run>. Raises InputError with all that is wrong."""
    source = find_overlay(arguments.overlay)
    problems: list[str] = []
    kustomization = yaml.safe_load((source / "kustomization.yaml").read_text())
    listed = choose_components(kustomization["components"], arguments, problems)
    runtime = next((name.removeprefix("runtime-") for name in listed if name.startswith("runtime-")), "")
    values, wrong = own_recipe(source / "train.yaml", arguments)
    where = (source / "cluster.yaml").relative_to(ROOT)
    placement, lines = read_placement(source / "cluster.yaml")
    placement = apply_places(placement, arguments.place)
    laid = {place.partition("=")[0] for place in arguments.place}
    own_lines = {key: line for key, line in lines.items() if key not in laid}
    problems += wrong + check_placement(placement, listed, runtime, where, own_lines)
    if problems:
        raise InputError(problems)
    recipe = with_defaults(values)
    for nodes in range(placement["minNodes"], placement["nodes"] + 1):
        world = nodes * placement["processesPerNode"]
        attempt(problems, check_batch, recipe, world, (source / "train.yaml").relative_to(ROOT))
        if problems:
            raise InputError(problems)
    identity = identify(recipe, placement, listed)
    run = arguments.run or f"{arguments.overlay}-{identity[:8]}"
    placement |= {"run": run, "image": built_image(placement["image"])}
    problems += check_placement(placement, listed, runtime, "RUN" if arguments.run else where)
    if problems:
        raise InputError(problems)
    plan = Plan(arguments.overlay, run, identity, runtime, listed, recipe, placement, BUILD / run,
                Cluster(arguments.context, arguments.namespace), make_line(arguments))  # fmt: skip
    changed = bool(arguments.set or arguments.model or arguments.data or arguments.validation_data)
    materialise(plan, source, kustomization, values if changed else None)
    return plan


def make_line(arguments: argparse.Namespace) -> str:
    """The command that a person types for this run."""
    values = {"RUN": arguments.run, "MODEL": arguments.model, "DATA": arguments.data,
              "VALIDATION_DATA": arguments.validation_data, "RUNTIME": arguments.runtime,
              "SET": " ".join(arguments.set), "PLACE": " ".join(arguments.place),
              "WITH": " ".join(arguments.more), "WITHOUT": " ".join(arguments.without)}  # fmt: skip
    words = [f"{name}={shlex.quote(value)}" for name, value in values.items() if value]
    return " ".join([f"make deploy OVERLAY={arguments.overlay}", *words])


def find_overlay(name: str) -> Path:
    """The directory of a use case. Raises InputError naming those there are."""
    directory = OVERLAYS / name
    if not re.fullmatch(r"[a-z][a-z0-9]*", name) or not (directory / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml")))
        raise InputError(problem("OVERLAY", name, "is no use case", f"take one of: {known}"))
    return directory


def choose_components(paths: list[str], arguments: argparse.Namespace, problems: list[str]) -> list[str]:
    """Names of the run's components: the overlay's, with other ones from the make line before the runtime, the last."""
    names = [Path(path).name for path in paths if Path(path).name != "base"]
    known = sorted(path.name for path in COMPONENTS.iterdir() if (path / "kustomization.yaml").is_file())
    for name in arguments.more:
        if name not in known:
            problems.append(problem("WITH", name, "is no component", f"there are: {', '.join(known)}"))
        elif name.startswith("runtime-"):
            problems.append(problem("WITH", name, "is a runtime", f"RUNTIME={name.removeprefix('runtime-')}"))
    if arguments.runtime and arguments.runtime not in RUNTIMES:
        problems.append(problem("RUNTIME", arguments.runtime, "is unknown", f"take one of: {', '.join(RUNTIMES)}"))
    for name in arguments.without:
        if name not in names or name.startswith("runtime-"):
            there = ", ".join(name for name in names if not name.startswith("runtime-"))
            problems.append(problem("WITHOUT", name, "is no component of this overlay", f"it has: {there}"))
    placed = [name for name in names if not name.startswith("runtime-") and name not in arguments.without]
    own = [name for name in names if name.startswith("runtime-")]
    runtimes = [f"runtime-{arguments.runtime}"] if arguments.runtime else own
    return [*placed, *(name for name in arguments.more if name not in placed), *runtimes]


def identify(recipe: SimpleNamespace, placement: dict[str, Any], components: list[str]) -> str:
    """A hash of recipe and placement. Not of the image: the same run goes on with a newer one."""
    parts = {
        "recipe": {key: value for key, value in vars(recipe).items() if key not in WITHOUT_EFFECT},
        "placement": {key: value for key, value in placement.items() if key not in PLACED},
        "components": sorted(components),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def built_image(image: str) -> str:
    """The image that was pushed or built here, where the overlay names none of its own but a target."""
    pushed, built = (read_json(ROOT / "build" / name) for name in ("push.json", "image.json"))
    if not built or not image.endswith(f":{built['target']}-{NOT_BUILT}"):
        return image
    if pushed and pushed.get("digest") == built["digest"] and pushed.get("reference"):
        return pushed["reference"]
    return built["name"]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file, None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


# ---- the kustomization of one run ----


def materialise(plan: Plan, source: Path, kustomization: dict[str, Any], values: dict[str, Any] | None) -> None:
    """Write the kustomization of a run: the overlay with this run's values, in place of an earlier one."""
    aside = plan.directory.with_name(f".{plan.run}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("sweep.yaml"))  # which is about many runs
    if values is not None:
        (aside / "train.yaml").write_text(dump_recipe(values))
    (aside / "cluster.yaml").write_text(dump_placement(plan.placement, plan.overlay))
    base = [str(Path("..", "..", "..", "kustomize", "base"))]
    components = [str(Path("..", "..", "..", "kustomize", "components", name)) for name in plan.components]
    own = kustomization | {
        "namespace": plan.cluster.namespace,
        "resources": [moved(entry, source) for entry in kustomization["resources"]],
        "components": [*base, *components],
        "patches": [*kustomization.get("patches", []), marks(plan)],
        "sortOptions": {"order": "fifo"},  # a TrainJob after its runtime
    }
    (aside / "kustomization.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    put_in_place(aside, plan.directory)


def put_in_place(aside: Path, directory: Path) -> None:
    """Let a directory take the place of an earlier one; another make may be doing just this, or read there."""
    with (directory.parent / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if directory.is_dir() and contents(directory) == contents(aside):
            shutil.rmtree(aside)
            return
        old = aside.with_suffix(".old")
        if directory.exists():
            directory.rename(old)
        aside.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a run's kustomization."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def moved(entry: str, source: Path) -> str:
    """A resource of the overlay as seen from the run's own directory; files lie in both."""
    path = source / entry
    return os.path.relpath(path, BUILD / "run") if path.is_dir() else entry


def marks(plan: Plan) -> dict[str, Any]:
    """A patch that puts the run's identity on its job."""
    kind, version, _, _ = RUNTIMES[plan.runtime]
    group, _, number = version.rpartition("/")
    told = {IDENTITY: plan.identity, STARTED_BY: plan.command}
    patch = {"apiVersion": version, "kind": kind, "metadata": {"name": plan.run, "annotations": told}}
    return {"target": {"group": group, "version": number, "kind": kind}, "patch": yaml.safe_dump(patch)}


def render(plan: Plan) -> list[dict[str, Any]]:
    """The objects of a run, as kustomize renders them. Raises InputError where it cannot."""
    return list(yaml.safe_load_all(render_text(plan)))


def render_text(plan: Plan) -> str:
    """The objects of a run as YAML."""
    from scripts.cluster.kubectl import Refused

    try:
        return plan.cluster.run("kustomize", str(plan.directory))
    except Refused as refused:
        where = plan.directory.relative_to(ROOT)
        fix = "look at kustomization.yaml of the overlay and its components"
        raise InputError(problem(where, "", f"does not render: {refused}", fix)) from None
