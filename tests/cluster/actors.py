"""Jobs of the four kinds whose pods only play: they run tests/cluster/actor.py, in a namespace with a store."""

import json
import os
import time
from pathlib import Path

import pytest

from scripts.cluster.kubectl import Cluster, Refused
from tests.cluster.testbed import free_volumes

ACTOR = Path(__file__).with_name("actor.py")
RESTRICTED = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
LABELS = {"app.kubernetes.io/name": "tunefleet"}


def container(name: str, image: str, command: list[str], **env) -> dict:
    """A container that the strictest policy lets in."""
    memory = env.pop("memory", "64Mi")
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "workingDir": "/store",
        "env": [{"name": key, "value": str(value)} for key, value in env.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "store", "mountPath": "/store"}, {"name": "actor", "mountPath": "/etc/actor"}],
    }


def pod(run: str, one: dict, role: str = "trainer", restart: str = "Never") -> dict:
    """The template of a run's pods."""
    return {
        "metadata": {"labels": {**LABELS, "tunefleet.io/run": run, "tunefleet.io/role": role}},
        "spec": {
            "restartPolicy": restart,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 2,
            "securityContext": RESTRICTED,
            "containers": [one],
            "volumes": [
                {"name": "store", "persistentVolumeClaim": {"claimName": "store"}},
                {"name": "actor", "configMap": {"name": "actor"}},
            ],
        },
    }


def job(runtime: str, run: str, image: str, play: list, nodes: int = 1, restarts: int = 3, **env) -> list[dict]:
    """A run of this runtime with this many pods; `play` is what actor.py is given."""
    words = ["python", "/etc/actor/actor.py", *map(str, play)]
    env = {"RUN": run, "NODES": nodes, **env}
    labels = {**LABELS, "tunefleet.io/run": run, "tunefleet.io/overlay": run.rsplit("-", 1)[0]}
    labels |= env.pop("labels", {})
    meta = {"name": run, "labels": labels}

    def one(name: str, command: list[str] = words) -> dict:
        return container(name, image, command, **env)

    if runtime == "job":
        spec = {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed", "backoffLimit": restarts}
        exits = {"containerName": "trainer", "operator": "In", "values": [1, 2]}
        spec["podFailurePolicy"] = {"rules": [{"action": "FailJob", "onExitCodes": exits}]}
        spec["template"] = pod(run, one("trainer"))
        return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}]
    if runtime == "pytorchjob":
        replicas = {"replicas": nodes, "restartPolicy": "OnFailure", "template": pod(run, one("pytorch"))}
        del replicas["template"]["spec"]["restartPolicy"]
        index = {"fieldRef": {"fieldPath": "metadata.labels['training.kubeflow.org/replica-index']"}}
        replicas["template"]["spec"]["containers"][0]["env"].append({"name": "REPLICA_INDEX", "valueFrom": index})
        spec = {
            "nprocPerNode": "1",
            "elasticPolicy": {"rdzvBackend": "c10d", "minReplicas": 1, "maxReplicas": nodes, "maxRestarts": 3},
            "runPolicy": {"backoffLimit": restarts},
            "pytorchReplicaSpecs": {"Worker": replicas},
        }
        return [{"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": meta, "spec": spec}]
    if runtime == "mpijob":
        worker = pod(run, one("worker", ["sleep", "600"]))
        launcher = pod(run, one("launcher"), "launcher")
        spec = {
            "slotsPerWorker": 1,
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": restarts},
            "sshAuthMountPath": "/home/mpiuser/.ssh",
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "restartPolicy": "Never", "template": launcher},
                "Worker": {"replicas": nodes, "restartPolicy": "Never", "template": worker},
            },
        }
        return [{"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "metadata": meta, "spec": spec}]
    inner = pod(run, one("node"))
    step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    template = {"name": "node", "template": {"metadata": step, "spec": {"backoffLimit": restarts, "template": inner}}}
    runtime_spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": [template]}}}
    api = "trainer.kubeflow.org/v1alpha1"
    spec = {
        "runtimeRef": {"name": run, "kind": "TrainingRuntime", "apiGroup": "trainer.kubeflow.org"},
        "trainer": {"numNodes": nodes, "numProcPerNode": 1},
    }
    return [
        {
            "apiVersion": api,
            "kind": "TrainingRuntime",
            "metadata": {"name": run, "labels": labels},
            "spec": runtime_spec,
        },
        {"apiVersion": api, "kind": "TrainJob", "metadata": meta, "spec": spec},
    ]


def start(cluster: Cluster, *objects: dict) -> None:
    """Create what is given, and the actor's program beside it."""
    program = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "actor"}}
    for one in (program | {"data": {"actor.py": ACTOR.read_text()}}, *objects):
        for attempt in range(10):
            try:
                cluster.run("apply", "-f", "-", given=json.dumps(one))
                break
            except Refused as refused:  # the webhook of TrainJobs sees a runtime a moment after it was made
                if "not found" not in str(refused) or attempt == 9:
                    raise
                time.sleep(0.5)


def prepare(cluster: Cluster, image: str) -> None:
    """A namespace under the strictest policy, with the store and the pod for the workstation's questions."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    role = {**LABELS, "tunefleet.io/role": "data-access"}
    template = pod("", container("data-access", image, ["sleep", "infinity"]), restart="Always")
    template["metadata"]["labels"] = role
    template["spec"]["volumes"][1]["configMap"]["optional"] = True
    spec = {"replicas": 1, "selector": {"matchLabels": {"tunefleet.io/role": "data-access"}}, "template": template}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "5Gi"}}}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace, "labels": labels}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "store"}, "spec": claim},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "data-access"}, "spec": spec},
    ]
    cluster.run("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    cluster.run("rollout", "status", "deployment/data-access", "--timeout=120s", seconds=130)
    # A volume of the testbed that was claimed before still holds what the earlier claim left there.
    cluster.run("exec", "deployment/data-access", "--", "sh", "-c", "rm -rf /store/runs")


def image_on_nodes() -> str:
    """An image of ours that the nodes have."""
    if given := os.environ.get("TUNEFLEET_TEST_IMAGE"):
        return given
    nodes = Cluster().raw("api/v1/nodes")["items"]
    names = sorted(name for node in nodes for image in node["status"].get("images", []) for name in image["names"])
    ours = [name for name in names if name.startswith("localhost/tunefleet:")]
    assert ours, "no node has an image localhost/tunefleet:…; bring one there, or set TUNEFLEET_TEST_IMAGE"
    return ours[0]


def own_namespace(name: str) -> Cluster:
    """The namespace of a module's tests: several processes test at once, each with namespaces of its own."""
    return Cluster(namespace="-".join(filter(None, ["ft", name, os.environ.get("PYTEST_XDIST_WORKER", "")])))


@pytest.fixture(scope="module")
def stage(cluster, request) -> str:
    """The module's PLACE with a store; the image that its pods have.

    It goes when the module is done, and nothing waits for that: on a busy machine it once took more than three minutes.
    """
    image, here = image_on_nodes(), request.module.PLACE
    here.run("wait", "--for=delete", f"namespace/{here.namespace}", "--timeout=240s", seconds=250)  # an earlier one
    if cluster.testbed:
        free_volumes()
    prepare(here, image)
    yield image
    here.run("delete", "namespace", here.namespace, "--ignore-not-found", "--wait=false")
