"""The job that fetches one model or data set into a cluster's store: its name, its kustomization, begun or joined.

The kustomization lies in build/cluster/<name>: kustomize/fetch with what is to be fetched, and with the components of
the overlay that concern the way out and the image. `kubectl create -k` does the same.
"""

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.chain import ROOT
from scripts.cluster.bucket import COMPONENT, named_store
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import STARTED_BY
from scripts.cluster.overlay import BUILD, built_image, choose_components, find_overlay
from scripts.cluster.placement import apply_places, check_placement, dump_placement, read_placement
from train.errors import InputError, problem

COMPONENTS = ("proxy", "pull-secret")  # what of an overlay's placement concerns a pod that fetches
ENDPOINT = "HF_ENDPOINT"  # of the hub; a mirror's address, no secret
WORDS = {"model": "MODEL", "data": "DATA"}


@dataclass(frozen=True)
class Wish:
    """What is to be fetched: model or data; revision and sha256 may be empty."""

    kind: str
    name: str
    revision: str
    sha256: str = ""

    @property
    def job(self) -> str:
        """The name of its job: the same for everybody who wants the same."""
        text = json.dumps([self.kind, self.name, self.revision, self.sha256])
        return f"fetch-{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def arguments(self) -> list[str]:
        """What the job's program is called with."""
        told = {f"--{self.kind}": self.name, "--revision": self.revision, "--sha256": self.sha256}
        words = [word for flag, value in told.items() if value for word in (flag, value)]
        return ["python", "-m", f"scripts.fetch.{self.kind}", *words, "--store", "/store"]

    @property
    def line(self) -> str:
        """The make line that asks for it."""
        told = {WORDS[self.kind]: self.name, "REVISION": self.revision, "SHA256": self.sha256}
        words = " ".join(f"{key}={value}" for key, value in told.items() if value)
        return f"make fetch-{self.kind} ON=cluster {words}"


def begin(cluster: Cluster, wish: Wish, arguments: argparse.Namespace) -> bool:
    """Make its job, if none runs; whether it was made. Raises InputError where the namespace is not ready for it."""
    check_reads(wish, arguments)
    found = job_of(cluster, wish)
    if found and not is_over(found):
        return False
    check_claim(cluster)
    text = cluster.run("kustomize", str(write(cluster, wish, arguments)))
    if found:
        stop(cluster, wish)
    try:
        cluster.run("create", "-f", "-", given=text)
    except Refused as refused:
        if "already exists" not in str(refused):
            raise
        return False  # somebody else's, made a moment ago
    return True


def job_of(cluster: Cluster, wish: Wish) -> dict | None:
    """Its job, None where there is none. Raises InputError where there is no such namespace."""
    return cluster.get("job", wish.job)


def stop(cluster: Cluster, wish: Wish) -> None:
    """Delete its job and wait until its pod is gone; what lies in the store stays."""
    cluster.run("delete", "job", wish.job, "--ignore-not-found", "--cascade=foreground", "--timeout=120s", seconds=150)


def is_over(job: dict) -> bool:
    """Whether a job has ended, well or not."""
    said = {one["type"] for one in job.get("status", {}).get("conditions", []) if one["status"] == "True"}
    return bool(said & {"Complete", "Failed"}) or "deletionTimestamp" in job["metadata"]


def check_reads(wish: Wish, arguments: argparse.Namespace) -> None:
    """Raises InputError where the run would read from a bucket, and not from the store that the job fetches into."""
    source = find_overlay(arguments.overlay)
    problems: list[str] = []
    listed = yaml.safe_load((source / "kustomization.yaml").read_text())["components"]
    components = choose_components(listed, arguments, problems)
    placement = apply_places(read_placement(source / "cluster.yaml")[0], arguments.place)
    named = named_store()
    if named or COMPONENT in components:
        url = (named or placement.get("s3") or {}).get("url", "s3://bucket/prefix")
        by = f"STORE={url}" if named else f"overlay {arguments.overlay} has its models and data in {url}"
        fix = f"{wish.line.replace('ON=cluster ', '')} STORE={url}, with your keys in the environment (docs/s3.md)"
        what = f"fetches into the namespace's store, where no run looks: {by}"
        problems.append(problem("ON", "cluster", what, fix))
    if problems:
        raise InputError(problems)


def check_claim(cluster: Cluster) -> None:
    """Raises InputError where the namespace has no store."""
    if cluster.get("persistentvolumeclaim", "store") is None:
        fix = f"make cluster-setup NAMESPACE={cluster.namespace} makes namespace and store"
        what = "there is no claim of that name, so no store to fetch into"
        raise InputError(problem(f"namespace {cluster.namespace}", "store", what, fix))


# ---- its kustomization ----


def write(cluster: Cluster, wish: Wish, arguments: argparse.Namespace) -> Path:
    """The job's kustomization; returns its directory. Raises InputError with all that is wrong with the placement."""
    source = find_overlay(arguments.overlay)
    problems: list[str] = []
    listed = yaml.safe_load((source / "kustomization.yaml").read_text())["components"]
    components = choose_components(listed, arguments, problems)
    runtime = next((name.removeprefix("runtime-") for name in components if name.startswith("runtime-")), "")
    placement, lines = read_placement(source / "cluster.yaml")
    placement = apply_places(placement, arguments.place)
    placement |= {"image": built_image(placement["image"])}
    problems += check_placement(placement, components, runtime, (source / "cluster.yaml").relative_to(ROOT), lines)
    if problems:
        raise InputError(problems)
    chosen = ["hub-token", *(name for name in COMPONENTS if name in components)]
    up = Path("..", "..", "..", "kustomize")
    directory = BUILD / wish.job
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cluster.yaml").write_text(dump_placement(placement))
    whole = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": cluster.namespace,
        "nameSuffix": wish.job.removeprefix("fetch"),
        "resources": ["cluster.yaml"],
        "components": [str(up / "fetch"), *(str(up / "components" / name) for name in chosen)],
        "patches": [{"target": {"kind": "Job"}, "patch": json.dumps(patch(wish))}],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    return directory


def patch(wish: Wish) -> list[dict[str, Any]]:
    """What makes the job fetch just this."""
    container = "/spec/template/spec/containers/0"
    words = [word.replace("$(", "$$(") for word in wish.arguments]  # else Kubernetes puts a variable's value there
    operations = [
        {"op": "replace", "path": f"{container}/args", "value": words},
        {"op": "add", "path": "/metadata/annotations", "value": {STARTED_BY: wish.line}},
    ]
    if endpoint := os.environ.get(ENDPOINT):
        operations.append({"op": "add", "path": f"{container}/env/-", "value": {"name": ENDPOINT, "value": endpoint}})
    return operations
