"""The whole matrix, asked of a real API server: strict validation, every admission plugin and webhook, and PodSecurity.

.venv/bin/python -m pytest tests/cluster/test_matrix.py
Nothing is started: all is a dry run of the server's, but for the runtimes that a TrainJob has to find.
"""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest

from scripts.cluster.kubectl import Cluster, environment
from scripts.cluster.names import RUNTIMES
from tests.manifests.matrix import render, variants
from tests.manifests.pod_security import pod_specs

pytestmark = pytest.mark.cluster
NAMESPACE = "ft-matrix"
WORKERS = 2


@pytest.fixture(scope="module")
def namespace():
    """A namespace that enforces PodSecurity restricted, with the account that pods run as and nothing else."""
    cluster = Cluster(namespace=NAMESPACE)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer", "namespace": NAMESPACE}},
    ]
    cluster.run("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    yield cluster
    cluster.run("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Every different object of the matrix, for this namespace; those that differ in nothing but names are one."""
    different = {}
    for variant, rendered in render(variants(), tmp_path_factory.mktemp("matrix")).items():
        for one in rendered:
            one["metadata"]["namespace"] = NAMESPACE
            shape = {key: value for key, value in one.items() if key != "data"}
            different.setdefault(re.sub(rf"\b{variant.name}\b(-\w+)?", "", json.dumps(shape, sort_keys=True)), one)
    return list(different.values())


def refusals(cluster: Cluster, asked: list[dict], *more: str) -> list[str]:
    """What the server says against these objects, one line each; it says as many as it took, too."""

    def ask(some: list[dict]) -> tuple[int, list[str]]:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": some})
        command = cluster.command("create", "--validate=strict", "--output=name", *more, "-f", "-")
        words = {"input": text, "capture_output": True, "text": True, "env": environment()}
        done = subprocess.run(command, **words, check=False, timeout=300)
        return len(done.stdout.splitlines()), done.stderr.splitlines()

    with ThreadPoolExecutor(WORKERS) as pool:
        answers = list(pool.map(ask, [asked[start::WORKERS] for start in range(WORKERS)]))
    said = [line for _, lines in answers for line in lines if line.strip()]
    taken = sum(count for count, _ in answers)
    return said if taken == len(asked) else [f"{taken} of {len(asked)} were taken", *said]


def test_every_object_of_the_matrix_is_admitted(namespace, objects):
    kinds = {one["kind"] for one in objects}
    assert kinds >= {kind for kind, *_ in RUNTIMES.values()} | {"TrainingRuntime", "NetworkPolicy"}
    runtimes = [one for one in objects if one["kind"] == "TrainingRuntime"]
    assert refusals(namespace, runtimes) == []  # for real, because a TrainJob is refused without its own
    # PodMonitor: Prometheus Operator is no part of the testbed; tests/manifests holds the kind against its schema.
    rest = [one for one in objects if one["kind"] not in ("TrainingRuntime", "TrainJob", "PodMonitor")]
    assert len(rest) > 300
    assert refusals(namespace, rest, "--dry-run=server") == []
    made = {one["metadata"]["name"] for one in runtimes}
    jobs = [one for one in objects if one["kind"] == "TrainJob"]
    for one in jobs:  # the runtime of an equal shape, where its own is not there
        if one["spec"]["runtimeRef"]["name"] not in made:
            one["spec"]["runtimeRef"]["name"] = min(made)
    assert refusals(namespace, jobs, "--dry-run=server") == []


def test_every_pod_of_the_matrix_is_admitted_under_restricted(namespace, objects):
    pods = {}
    for one in objects:
        for _, spec in pod_specs(one):
            shape = re.sub(r"\bv\d+\b(-\w+)?", "", json.dumps(spec, sort_keys=True))
            pods.setdefault(shape, bare_pod(spec, f"pod-{len(pods)}"))
    assert len(pods) > 300
    assert refusals(namespace, list(pods.values()), "--dry-run=server") == []


def bare_pod(spec: dict, name: str) -> dict:
    """A pod as the job's controller would make it."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"), "unrestricted capabilities"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "runAsUser=0"),
        (lambda spec: spec.update(hostNetwork=True), "host namespaces"),
        (lambda spec: spec["volumes"].append({"name": "h", "hostPath": {"path": "/"}}), "hostPath"),
        (lambda spec: spec["containers"][0].update(readynessProbe={}), "unknown field"),
        (lambda spec: spec.update(serviceAccountName="somebody"), "service account"),
    ],
    ids=["capabilities", "root", "host-network", "host-path", "misspelt", "account"],
)
def test_the_same_questions_refuse_a_broken_pod(namespace, objects, change, words):
    job = next(one for one in objects if one["kind"] == "Job")
    spec = deepcopy(next(spec for _, spec in pod_specs(job)))
    change(spec)
    assert words in " ".join(refusals(namespace, [bare_pod(spec, "broken")], "--dry-run=server"))
