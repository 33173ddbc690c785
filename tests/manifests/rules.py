"""What every rendered object must and must not hold; each rule yields the problems of a whole render."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from scripts.cluster.names import OVERLAY, ROLE, RUN, RUNTIMES
from tests.manifests.pod_security import containers_of, pod_specs, violations

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas" / "kubernetes"
FIXED_TAG = re.compile(r".+(:(cpu|cuda|intel)-[0-9a-f]{12}|@sha256:[0-9a-f]{64})")
VALIDATORS: dict[str, jsonschema.Draft202012Validator] = {}
JOBS = {(kind, version) for kind, version, _, _ in RUNTIMES.values()}
Object = dict[str, Any]
Problems = Iterator[str]


def problems_of(objects: list[Object]) -> list[str]:
    """Everything wrong with a render."""
    found = [f"{name_of(one)}: {what}" for one in objects for rule in SINGLE for what in rule(one)]
    return found + [what for rule in TOGETHER for what in rule(objects)]


def name_of(one: Object) -> str:
    """Job/demo"""
    return f"{one['kind']}/{one['metadata']['name']}"


# ---- each object by itself ----


def schema_problems(one: Object) -> Problems:
    """The object is what a strict API server knows; a kind without a schema is a problem too."""
    group, _, version = one["apiVersion"].rpartition("/")
    stem = "_".join(filter(None, [group, version, one["kind"]]))
    if stem not in VALIDATORS:
        path = SCHEMAS / f"{stem}.json"
        if not path.exists():
            yield f"schemas/kubernetes has no {stem}.json"
            return
        VALIDATORS[stem] = jsonschema.Draft202012Validator(json.loads(path.read_text()))
    for error in VALIDATORS[stem].iter_errors(one):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"


def placeholders(one: Object) -> Problems:
    """Nothing of the base's placeholders is left."""
    if "PARAM" in json.dumps(one):
        yield "a placeholder survived"


def secrets(one: Object) -> Problems:
    """A Secret is never rendered, and no variable holds one's content."""
    if one["kind"] == "Secret":
        yield "a rendered Secret"
    for where, pod in pod_specs(one):
        for container in containers_of(pod):
            for variable in container.get("env", []):
                if re.search(r"TOKEN|PASSWORD|SECRET|WEBHOOK|_KEY$", variable["name"]) and "value" in variable:
                    yield f"{where}: {variable['name']} holds a secret in clear"


def resources(one: Object) -> Problems:
    """A promise of CPU and memory, and a limit of memory, for every container; devices by their limits."""
    for where, pod in pod_specs(one):
        for container in containers_of(pod):
            given = container.get("resources", {})
            for part, names in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
                for name in names:
                    if name not in given.get(part, {}):
                        yield f"{where}: {container['name']}: no {part}.{name}"


def images(one: Object) -> Problems:
    """No image by a tag that may move, none pulled where a node has it."""
    for where, pod in pod_specs(one):
        for container in containers_of(pod):
            if not FIXED_TAG.fullmatch(container.get("image", "")):
                yield f"{where}: {container['name']}: mutable image {container.get('image')}"
            if container.get("imagePullPolicy") != "IfNotPresent":
                yield f"{where}: {container['name']}: imagePullPolicy {container.get('imagePullPolicy')}"


def security(one: Object) -> Problems:
    """PodSecurity restricted for every pod that the object will make, and no service account's token in it."""
    for where, pod in pod_specs(one):
        for what in violations(pod):
            yield f"{where}: {what}"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{where}: a service account's token is mounted"


def job_labels(one: Object) -> Problems:
    """A job and what it makes carry the labels by which they are found."""
    labels = one["metadata"].get("labels", {})
    if labels.get("app.kubernetes.io/name") != "tunefleet" and one["kind"] != "ConfigMap":
        yield "no label app.kubernetes.io/name: tunefleet"
    if OVERLAY not in labels:
        yield f"no label {OVERLAY}"
    if RUN not in labels:
        yield f"no label {RUN}"
    for where, labels in template_labels(one):
        if labels.get(ROLE) not in ("trainer", "launcher") or RUN not in labels:
            yield f"{where}: pods without {ROLE} or {RUN}"


def template_labels(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """The labels of every pod template."""
    if isinstance(value, dict):
        if (
            "spec" in value
            and isinstance(value["spec"], dict)
            and "containers" in value["spec"]
            and "kind" not in value
        ):
            yield path, value.get("metadata", {}).get("labels", {})
        for key, inside in value.items():
            yield from template_labels(inside, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from template_labels(inside, f"{path}[{number}]")


# ---- all objects of a run ----


def references(objects: list[Object]) -> Problems:
    """What a pod names is rendered beside it, or belongs to the namespace (k8s/)."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        for where, pod in pod_specs(one):
            at = f"{name_of(one)}: {where}"
            for volume in pod.get("volumes", []):
                own = "configMap" in volume and not volume["configMap"].get("optional")
                if own and ("ConfigMap", volume["configMap"]["name"]) not in names:
                    yield f"{at}: ConfigMap {volume['configMap']['name']} is not there"
                if "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] != "store":
                    yield f"{at}: claim {volume['persistentVolumeClaim']['claimName']} is none of the namespace's"
            mounted = {mount["name"] for container in containers_of(pod) for mount in container.get("volumeMounts", [])}
            if mounted != {volume["name"] for volume in pod.get("volumes", [])}:
                yield f"{at}: mounts {sorted(mounted)} are not the volumes"
            if "subdomain" in pod and ("Service", pod["subdomain"]) not in names:
                yield f"{at}: Service {pod['subdomain']} is not there"
            if pod.get("serviceAccountName") != "trainer":
                yield f"{at}: service account {pod.get('serviceAccountName')}"
        if one["kind"] == "TrainJob" and ("TrainingRuntime", one["spec"]["runtimeRef"]["name"]) not in names:
            yield f"{name_of(one)}: TrainingRuntime {one['spec']['runtimeRef']['name']} is not there"


def one_run(objects: list[Object]) -> Problems:
    """One job, and all that is its own has its name."""
    jobs = [one for one in objects if (one["kind"], one["apiVersion"]) in JOBS]
    if len(jobs) != 1:
        yield f"{len(jobs)} jobs"
        return
    run = jobs[0]["metadata"]["name"]
    for one in objects:
        label = one["metadata"].get("labels", {}).get(RUN, run)
        own = one["metadata"]["name"]
        fits = own == run or (one["kind"] == "ConfigMap" and own.startswith(f"{run}-"))
        if label != run or not fits:
            yield f"{name_of(one)}: is not named for run {run}"
        for where, labels in template_labels(one):
            if labels.get(RUN) != run:
                yield f"{name_of(one)}: {where}: its pods are of run {labels.get(RUN)}"
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    if [policy["spec"]["podSelector"]["matchLabels"] for policy in policies] != [{RUN: run}]:
        yield f"NetworkPolicy does not select just the pods of {run}"


SINGLE = [schema_problems, placeholders, secrets, resources, images, security, job_labels]
TOGETHER = [references, one_run]
