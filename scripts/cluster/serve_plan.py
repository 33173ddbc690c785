"""What would serve a model on a cluster: found on its store, checked, written to build/cluster/serve-<name>.

`kubectl apply -k` of that directory does what make serve ON=cluster does.
"""

import argparse
import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.chain import ROOT
from scripts.cluster.bucket import bucket_of, named_store
from scripts.cluster.jobs import find_runs, no_such_run
from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import STARTED_BY, STORE
from scripts.cluster.overlay import BUILD, NOT_BUILT, built_image, find_overlay
from scripts.cluster.placement import apply_places, dump_placement, in_words, read_placement, spec_schema
from scripts.cluster.placement_rules import check_image
from scripts.cluster.store_client import Store, overlay_of
from scripts.serve.frame import frame_of
from train.errors import InputError, problem

SCHEMA = ROOT / "schemas" / "serve.schema.json"
ENGINES = ("serve-transformers", "serve-vllm")
VLLM_IMAGE = "docker.io/vllm/vllm-openai:v0.33.0"  # overridden by PLACE="serverImage=…"
MODEL = "tunefleet.io/model"  # annotation: what requests call it
ASKED = "tunefleet.io/asked"  # annotation of what vLLM serves: how the run is asked (scripts/serve/frame.py)
GIB = 1 << 30
# Where neither the run nor its overlay says otherwise; `size` is that of the pod's volume.
AWS = {"endpoint": "https://s3.amazonaws.com", "region": "us-east-1", "addressing": "auto", "size": "50Gi"}


@dataclass(frozen=True)
class Plan:
    """A model that could be served; nothing of it is on the cluster yet."""

    slug: str  # names its objects
    name: str  # what requests call it
    path: str  # below the store: runs/NAME, or a model's directory
    adapter: bool
    values: dict[str, Any]
    engine: str
    directory: Path
    asked: dict[str, Any]  # empty where the server knows it itself


def slug_of(arguments: argparse.Namespace) -> str:
    """The name of its objects: the run's; of a model, which may have any name, its words and a hash.

    Raises InputError where not just one of the two is given.
    """
    if bool(arguments.run) == bool(arguments.model):
        what = "are both given" if arguments.run else "is missing"
        fix = "RUN=name (make runs ON=cluster lists them), or MODEL=name (make models ON=cluster)"
        raise InputError(problem("RUN and MODEL" if arguments.run else "RUN or MODEL", "", what, fix))
    if arguments.run:
        return arguments.run
    words = re.sub("[^a-z0-9]+", "-", arguments.model.lower()).strip("-")[-28:].strip("-")
    return f"m-{words}-{hashlib.sha256(arguments.model.encode()).hexdigest()[:6]}"


def make_plan(cluster: Cluster, arguments: argparse.Namespace) -> Plan:
    """What the arguments describe, written to build/cluster. Raises InputError with all that is wrong."""
    slug = slug_of(arguments)
    engine = engine_of(arguments.more)
    if cluster.get("persistentvolumeclaim", "store") is None and not named_store():
        fix = f"make cluster-setup NAMESPACE={cluster.namespace} makes namespace and store"
        raise InputError(problem(f"namespace {cluster.namespace}", "store", "is not set up: it has no store", fix))
    bucket = named_store() or of_job(cluster, arguments.run)
    found = None if bucket else look(cluster, arguments)
    path, made, size, record = found or (f"runs/{arguments.run}" if arguments.run else arguments.model, "", 0, {})
    overlay = arguments.overlay or (overlay_of(record) if record else "")
    placement = placement_of(overlay)
    values = {
        "run": slug,
        "image": built_image(placement["image"]),
        "serverImage": VLLM_IMAGE,
        "resources": resources(size, engine),
    }
    if bucket:
        values["s3"] = AWS | placement.get("s3", {}) | {key: value for key, value in bucket.items() if value}
    values = apply_places(values, arguments.place)
    problems = check(values, engine)
    if engine == "serve-vllm" and made == "adapter":
        fix = "merge it (a recipe with merge: true), or serve it on CPUs: leave WITH=serve-vllm out"
        problems.append(problem("RUN", arguments.run, "is not merged, and vLLM is given whole models only", fix))
    if problems:
        raise InputError(problems)
    name = arguments.run or arguments.model
    asked = asked_of(Store(cluster), path, made) if engine == "serve-vllm" and record else {}
    plan = Plan(slug, name, path, made == "adapter", values, engine, BUILD / f"serve-{slug}", asked)
    write(cluster, plan, made, make_line(arguments))
    return plan


def engine_of(more: list[str]) -> str:
    """What serves. Raises InputError for another component."""
    if unknown := [name for name in more if name not in ENGINES]:
        raise InputError(problem("WITH", " ".join(unknown), "serves nothing", f"take one of: {', '.join(ENGINES)}"))
    if len(set(more)) > 1:
        raise InputError(problem("WITH", " ".join(more), "names both", f"take one of: {', '.join(ENGINES)}"))
    return more[0] if more else ENGINES[0]


def of_job(cluster: Cluster, run: str) -> dict[str, str] | None:
    """The bucket of a run whose job the cluster still holds, None where it has none."""
    jobs = find_runs(cluster, run=run) if run else []
    return bucket_of([jobs[0].object, *jobs[0].pods]) if jobs else None


def look(cluster: Cluster, arguments: argparse.Namespace) -> tuple[str, str, int, dict]:
    """Path on the store, what was made of it, its bytes, the run's entry. Raises InputError where it is not there."""
    store = Store(cluster)
    if arguments.model:
        places = [arguments.model.removeprefix(f"{STORE}/").strip("/"), f"models/{arguments.model.strip('/')}"]
        found = store.ask("find", *[f"{place}/config.json" for place in places], *places)
        for place in places:
            if found[f"{place}/config.json"]["exists"]:
                return place, "merged", found[place]["size"], {}
        fix = (
            "make models ON=cluster lists them: MODEL=owner/name/revision; "
            f"make fetch-model ON=cluster MODEL={arguments.model} brings one"
        )
        raise InputError(problem("MODEL", arguments.model, "is no model of the store", fix))
    records = {record["name"]: record for record in store.ask("runs")}
    record = records.get(arguments.run)
    if record is None:
        raise no_such_run(arguments, list(records))
    for made in ("merged", "model", "adapter"):
        if made in record["has"]:
            size = store.ask("find", f"runs/{arguments.run}/{made}")[f"runs/{arguments.run}/{made}"]["size"]
            return f"runs/{arguments.run}", made, size, record
    fix = f"make watch RUN={arguments.run} shows how far it is; make deploy goes on with it"
    raise InputError(problem("RUN", arguments.run, f"has learned nothing yet: {STORE}/runs/{arguments.run}", fix))


def asked_of(store: Store, path: str, made: str) -> dict[str, Any]:
    """How a run wants to be asked, by its recipe and what its model brings."""
    files = ("chat_template.jinja", "tokenizer_config.json")
    return frame_of(store.text(path, "train.yaml"), *(store.text(f"{path}/{made}", file) for file in files))


def placement_of(overlay: str) -> dict[str, Any]:
    """The placement of a use case, for image and bucket; the demo's where the run's own is gone."""
    try:
        source = find_overlay(overlay or "demo")
    except InputError:
        source = find_overlay("demo")
    return read_placement(source / "cluster.yaml")[0]


def resources(size: int, engine: str) -> dict[str, dict[str, str]]:
    """What a server of so many bytes of weights needs: them once as they lie, or twice where they become float32."""
    times, more = (1.25, 8) if engine == "serve-vllm" else (2.25, 2)
    memory = f"{int(size * times / GIB + more + 0.999)}Gi"
    gpu = {"nvidia.com/gpu": "1"} if engine == "serve-vllm" else {}
    cpus = "4" if engine == "serve-vllm" else "2"
    return {"requests": {"cpu": "1", "memory": memory, **gpu}, "limits": {"cpu": cpus, "memory": memory, **gpu}}


def rules() -> dict[str, Any]:
    """The schema of these values: its own keys, and those that are a placement's."""
    own = json.loads(SCHEMA.read_text())
    of_placement = spec_schema()["properties"]
    return own | {"properties": own["properties"] | {key: of_placement[key] for key in own["x-of-a-placement"]}}


def check(values: dict[str, Any], engine: str) -> list[str]:
    """Every problem of the values."""
    problems = in_words(values, rules(), "PLACE", {})
    if problems:
        return problems
    for key in ("image", "serverImage"):
        problems += [
            problem("PLACE", key, what, fix) for _, what, fix in check_image({"image": values[key]}, set(), "")
        ]
    needs_own = engine == "serve-transformers" or "s3" in values
    if needs_own and values["image"].endswith(NOT_BUILT):
        fix = "make image push builds it and brings it there, or PLACE=image=registry/name:cpu-…"
        problems.append(problem("image", values["image"], "is not known: none was built here", fix))
    if engine == "serve-vllm" and not values["resources"]["limits"].get("nvidia.com/gpu"):
        fix = 'PLACE="resources.limits.nvidia.com/gpu=1 resources.requests.nvidia.com/gpu=1"'
        problems.append(problem("PLACE", "resources.limits", "have no nvidia.com/gpu, and vLLM's image needs one", fix))
    return problems


def make_line(arguments: argparse.Namespace) -> str:
    """The command that a person types for it."""
    told = {"RUN": arguments.run, "MODEL": arguments.model, "WITH": " ".join(arguments.more),
            "PLACE": " ".join(arguments.place)}  # fmt: skip
    return " ".join(["make serve ON=cluster", *(f"{key}={shlex.quote(value)}" for key, value in told.items() if value)])


# ---- its kustomization ----


def write(cluster: Cluster, plan: Plan, made: str, line: str) -> None:
    """The kustomization of a served model."""
    up = Path("..", "..", "..", "kustomize")
    components = ["serve", plan.engine, *(["serve-s3"] if "s3" in plan.values else [])]
    plan.directory.mkdir(parents=True, exist_ok=True)
    (plan.directory / "cluster.yaml").write_text(dump_placement(plan.values))
    whole = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": cluster.namespace,
        "nameSuffix": f"-{plan.slug}",
        "resources": ["cluster.yaml"],
        "components": [str(up / name) for name in components],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(patch(plan, made, line))}],
    }
    (plan.directory / "kustomization.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))


def patch(plan: Plan, made: str, line: str) -> list[dict[str, Any]]:
    """What makes the Deployment serve just this, on the nodes that were told."""
    pod = "/spec/template/spec"
    if plan.engine == "serve-vllm":
        directory = f"{STORE}/{plan.path}" + (f"/{made or 'merged'}" if plan.path.startswith("runs/") else "")
        words = [directory, f"--served-model-name={plan.name}"]
    elif plan.path.startswith("runs/"):
        words = [f"--run={plan.slug}"]
    else:
        words = [f"--model={STORE}/{plan.path}", f"--name={plan.name}"]
    operations = [{"op": "add", "path": f"{pod}/containers/0/args/-", "value": word.replace("$(", "$$(")}
                  for word in words]  # fmt: skip
    told = {STARTED_BY: line, MODEL: plan.name} | ({ASKED: json.dumps(plan.asked)} if plan.asked else {})
    operations.append({"op": "add", "path": "/metadata/annotations", "value": told})
    if "s3" in plan.values:
        operations.append({"op": "add", "path": f"{pod}/initContainers/0/args/-", "value": plan.path})
    if taint := plan.values.get("nodeTaint"):
        one = {"key": taint, "operator": "Exists"}
        # serve-vllm has some; an empty list in the base would make every apply a change.
        path, value = ("tolerations/-", one) if plan.engine == "serve-vllm" else ("tolerations", [one])
        operations.append({"op": "add", "path": f"{pod}/{path}", "value": value})
    if labels := plan.values.get("nodeSelector"):
        operations.append({"op": "add", "path": f"{pod}/nodeSelector", "value": labels})
    return operations
