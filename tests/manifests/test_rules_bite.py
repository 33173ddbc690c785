"""The rules of tests/manifests find what they are for: each broken object is found, and by the right rule.

.venv/bin/python -m pytest tests/manifests/test_rules_bite.py
"""

from copy import deepcopy

import pytest

from tests.manifests.matrix import OVERLAYS, ROOT, kustomize
from tests.manifests.pod_security import pod_specs, violations
from tests.manifests.rules import problems_of

CONTAINER = {
    "name": "one",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def pod(**changes):
    """A pod that passes, with changes to its spec, or to its container's security context by `own`."""
    own = changes.pop("own", {})
    more = changes.pop("container", {})
    one = deepcopy(CONTAINER) | more
    one["securityContext"] |= own
    return {"containers": [one]} | changes


def test_a_pod_by_the_rules_passes():
    assert list(violations(pod())) == []
    assert list(violations(pod(own={"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}))) == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (pod(hostNetwork=True), "hostNetwork"),
        (pod(hostPID=True), "hostPID"),
        (pod(hostIPC=True), "hostIPC"),
        (pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "hostPath"),
        (pod(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}]), "nfs"),
        (pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "sysctl kernel.msgmax"),
        (pod(securityContext={"runAsUser": 0}), "runAsUser 0"),
        (pod(own={"runAsUser": 0}), "runAsUser 0"),
        (pod(own={"privileged": True}), "privileged"),
        (pod(own={"allowPrivilegeEscalation": None}), "allowPrivilegeEscalation"),
        (pod(own={"capabilities": {}}), "drop lacks ALL"),
        (pod(own={"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}), "capabilities.add"),
        (pod(own={"runAsNonRoot": False}), "runAsNonRoot"),
        (pod(own={"seccompProfile": {"type": "Unconfined"}}), "seccompProfile"),
        (pod(own={"procMount": "Unmasked"}), "procMount"),
        (pod(own={"seLinuxOptions": {"type": "spc_t"}}), "seLinuxOptions"),
        (pod(own={"appArmorProfile": {"type": "Unconfined"}}), "AppArmor"),
        (pod(container={"ports": [{"containerPort": 1, "hostPort": 1}]}), "hostPort"),
        (pod(container={"livenessProbe": {"httpGet": {"host": "h", "port": 1}}}), "names a host"),
        (pod(container={"lifecycle": {"preStop": {"tcpSocket": {"host": "h", "port": 1}}}}), "names a host"),
        (pod(initContainers=[{"name": "init"}]), "init: allowPrivilegeEscalation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pod_that_breaks_a_rule_is_found_by_it(broken, words):
    assert words in "\n".join(violations(broken))


def test_a_context_of_the_pod_counts_for_its_containers():
    loose = pod(own={"runAsNonRoot": None, "seccompProfile": None})
    for key in ("runAsNonRoot", "seccompProfile"):
        del loose["containers"][0]["securityContext"][key]
    assert len(list(violations(loose))) == 2
    loose["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert list(violations(loose)) == []


def test_pods_are_found_wherever_they_stand():
    deep = {"spec": {"template": {"spec": {"replicatedJobs": [{"template": {"spec": {"template": {"spec": pod()}}}}]}}}}
    (found,) = pod_specs(deep)
    assert found[0] == "spec.template.spec.replicatedJobs[0].template.spec.template.spec"


# ---- whole renders ----


@pytest.fixture(scope="module")
def renders():
    return {path.name: kustomize(path) for path in OVERLAYS if path.name in ("demo", "alpaca", "samsum", "medical")}


def damage(objects, kind, path, value):
    """A copy of the objects with one value of the object of this kind changed; None removes it."""
    objects = deepcopy(objects)
    at = next(one for one in objects if one["kind"] == kind)
    *above, last = path
    for part in above:
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return objects


POD = ["spec", "template", "spec"]
TRAINER = [*POD, "containers", 0]
WORKER = ["spec", "mpiReplicaSpecs", "Worker", "template"]


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value", "words"),
    [
        ("demo", "Job", ["spec", "completionz"], 1, "completionz"),
        ("demo", "Job", ["spec", "completions"], "1", "is not of type 'integer'"),
        ("demo", "Job", [*TRAINER, "readynessProbe"], {}, "readynessProbe"),
        ("demo", "Job", ["metadata", "name"], "PARAM", "a placeholder survived"),
        ("demo", "Job", [*TRAINER, "resources", "limits", "memory"], None, "no limits.memory"),
        ("demo", "Job", [*TRAINER, "resources", "requests", "cpu"], None, "no requests.cpu"),
        ("demo", "Job", [*TRAINER, "image"], "tunefleet:latest", "mutable image"),
        ("demo", "Job", [*TRAINER, "imagePullPolicy"], "Always", "imagePullPolicy"),
        ("demo", "Job", [*TRAINER, "env", 0], {"name": "HF_TOKEN", "value": "x"}, "a secret in clear"),
        ("demo", "Job", [*TRAINER, "securityContext", "privileged"], True, "privileged"),
        ("demo", "Job", [*POD, "hostNetwork"], True, "hostNetwork"),
        ("demo", "Job", [*POD, "volumes", 0], {"name": "store", "hostPath": {"path": "/"}}, "hostPath"),
        ("demo", "Job", [*POD, "automountServiceAccountToken"], True, "token is mounted"),
        ("demo", "Job", [*POD, "serviceAccountName"], "default", "service account default"),
        ("demo", "Job", [*POD, "subdomain"], "demu", "Service demu is not there"),
        ("demo", "ConfigMap", ["metadata", "name"], "demo-1", "is not there"),
        ("demo", "ConfigMap", ["kind"], "Secret", "a rendered Secret"),
        ("demo", "ConfigMap", ["kind"], "ConfigMup", "schemas/kubernetes has no v1_ConfigMup.json"),
        ("demo", "NetworkPolicy", ["spec", "podSelector", "matchLabels"], {}, "does not select"),
        ("demo", "Service", ["metadata", "name"], "tickets", "is not named for run demo"),
        ("demo", "Job", ["metadata", "labels", "tunefleet.io/overlay"], None, "no label tunefleet.io/overlay"),
        ("demo", "Job", ["spec", "template", "metadata", "labels", "tunefleet.io/role"], "boss", "pods without"),
        ("alpaca", "MPIJob", [*WORKER, "spec", "volumes", 0, "name"], "stare", "are not the volumes"),
        ("alpaca", "MPIJob", [*WORKER, "metadata", "labels", "tunefleet.io/run"], "x", "its pods are of run x"),
        ("alpaca", "MPIJob", ["spec", "mpiImplementation"], "intel", "is not one of"),
        ("medical", "PyTorchJob", ["spec", "nprocPerNode"], 8, "is not of type 'string'"),
        ("samsum", "TrainJob", ["spec", "runtimeRef", "name"], "x", "TrainingRuntime x is not there"),
        ("samsum", "TrainJob", ["spec", "trainer", "numNode"], 1, "numNode"),
    ],
)
def test_a_broken_render_is_found(renders, overlay, kind, path, value, words):
    assert problems_of(renders[overlay]) == []
    assert words in "\n".join(problems_of(damage(renders[overlay], kind, path, value)))


def test_a_render_of_two_jobs_is_found(renders):
    assert "2 jobs" in problems_of([*renders["demo"], *renders["medical"]])


def test_the_hubs_token_goes_to_the_job_that_fetches_and_to_no_other():
    jobs = {one["metadata"]["name"]: one for one in kustomize(ROOT / "tests" / "manifests" / "fetch")}
    env = {name: job["spec"]["template"]["spec"]["containers"][0]["env"] for name, job in jobs.items()}
    token = {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN", "optional": True}},
    }
    assert token in env["fetch"]
    assert env["train"] == [{"name": "HF_HOME", "value": "/tmp"}]
