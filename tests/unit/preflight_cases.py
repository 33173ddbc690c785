"""Objects and facts for tests of the preflight: a run as it is rendered, and what a cluster says where all is well."""

import copy
from datetime import UTC, datetime
from types import SimpleNamespace

from scripts.cluster.checks.shapes import pod_sets
from scripts.cluster.kubectl import Cluster, Refused
from train.recipe import with_defaults

RUN, SPACE = "demo-0a1b2c3d", "finetune"
IMAGE = "localhost/tunefleet:cpu-f53501729007"
SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "minDomains": 2,
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"tunefleet.io/run": RUN}},
}
KINDS = {
    "job": ("batch/v1", "Job"),
    "pytorchjob": ("kubeflow.org/v1", "PyTorchJob"),
    "mpijob": ("kubeflow.org/v2beta1", "MPIJob"),
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
}


def refused(text: str) -> Refused:
    """What the cluster says when it says no."""
    return Refused(text, 1)


def missing(kind: str, name: str) -> Refused:
    """The API server's answer for an object that is not there."""
    return refused(f'Error from server (NotFound): {kind} "{name}" not found')


def forbidden(kind: str) -> Refused:
    """The API server's answer for an object that this person may not read."""
    return refused(f'Error from server (Forbidden): {kind} is forbidden: User "eva" cannot list resource "{kind}"')


def pod_template(container: str = "trainer", cpu: str = "1", memory: str = "2Gi", image: str = IMAGE) -> dict:
    """The template of a run's pod."""
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    one = {
        "name": container,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": resources,
        "securityContext": security,
        "volumeMounts": [{"name": "store", "mountPath": "/store"}],
    }
    spec = {
        "serviceAccountName": "trainer",
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [copy.deepcopy(SPREAD)],
        "containers": [one],
        "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}],
    }
    labels = {"tunefleet.io/run": RUN, "tunefleet.io/role": "trainer"}
    return {"metadata": {"labels": labels}, "spec": spec}


def rendered(runtime: str = "job", nodes: int = 2, least: int | None = None, queue: str = "", **pod: str) -> list[dict]:
    """A run's objects."""
    version, kind = KINDS[runtime]
    labels = {"tunefleet.io/run": RUN} | ({"kueue.x-k8s.io/queue-name": queue} if queue else {})
    job: dict = {"apiVersion": version, "kind": kind, "metadata": {"name": RUN, "labels": labels}}
    objects = [job]
    if runtime == "job":
        job["spec"] = {"parallelism": nodes, "completions": nodes, "completionMode": "Indexed"}
        job["spec"]["template"] = pod_template(**pod)
    elif runtime == "pytorchjob":
        replicas = {"replicas": nodes, "restartPolicy": "OnFailure", "template": pod_template("pytorch", **pod)}
        job["spec"] = {"nprocPerNode": "1", "pytorchReplicaSpecs": {"Worker": replicas}, "runPolicy": {}}
        job["spec"]["elasticPolicy"] = {"minReplicas": least or nodes, "maxReplicas": nodes}
    elif runtime == "mpijob":
        launcher = pod_template("launcher", cpu="100m", memory="256Mi")
        del launcher["spec"]["topologySpreadConstraints"]
        roles = {"Launcher": {"replicas": 1, "template": launcher}}
        roles["Worker"] = {"replicas": nodes, "template": pod_template("worker", **pod)}
        job["spec"] = {"slotsPerWorker": 1, "mpiReplicaSpecs": roles, "runPolicy": {}}
    else:
        template = pod_template("node", **pod)
        replicated = {"name": "node", "template": {"spec": {"template": template}}}
        runtime_spec = {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [replicated]}},
        }
        metadata = {"name": RUN, "labels": {"tunefleet.io/run": RUN}}
        objects.insert(
            0, {"apiVersion": version, "kind": "TrainingRuntime", "metadata": metadata, "spec": runtime_spec}
        )
        reference = {"name": RUN, "kind": "TrainingRuntime", "apiGroup": "trainer.kubeflow.org"}
        job["spec"] = {"runtimeRef": reference, "trainer": {"numNodes": nodes, "numProcPerNode": 1}}
    for one in pod_sets(objects):  # as the component spread has it: pods wait rather than share a node
        for spread in one.spec.get("topologySpreadConstraints", []):
            spread["minDomains"] = nodes
    return objects


def recipe(**values: object) -> SimpleNamespace:
    """The demo's recipe, with other values."""
    demo = {"model_name_or_path": "demo/model", "train_file": "demo/data/train.jsonl", "max_length": 128,
            "per_device_train_batch_size": 8, "method": "lora"}  # fmt: skip
    return with_defaults({**demo, **values})


def plan(runtime: str = "job", **values: object) -> SimpleNamespace:
    """A plan as overlay.make_plan makes it."""
    placement = {"nodes": 2, "minNodes": 2, "processesPerNode": 1, "threads": 1, "deadlineSeconds": 604800}
    return SimpleNamespace(
        overlay="demo", run=RUN, runtime=runtime, components=[], recipe=recipe(), placement=placement,
        directory="build/cluster/test", cluster=Cluster(namespace=SPACE), **values)  # fmt: skip


def node(name: str, cpu: str = "4", memory: str = "16Gi", images: tuple = (IMAGE,), **more: object) -> dict:
    """A node that is ready."""
    labels = {"kubernetes.io/hostname": name, **more.get("labels", {})}
    allocatable = {"cpu": cpu, "memory": memory, "pods": "110", **more.get("allocatable", {})}
    status = {
        "allocatable": allocatable,
        "conditions": [{"type": "Ready", "status": more.get("ready", "True")}],
        "images": [{"names": [one], "sizeBytes": 1} for one in images],
    }
    spec = {"taints": more.get("taints", []), "unschedulable": more.get("unschedulable", False)}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}


def running(name: str, cpu: str, memory: str, run: str = "", owner: str = "ReplicaSet") -> dict:
    """A pod that runs on a node."""
    metadata = {"name": f"on-{name}", "labels": {"tunefleet.io/run": run} if run else {}}
    metadata["ownerReferences"] = [{"kind": owner, "name": "x"}]
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]
    return {"metadata": metadata, "spec": {"nodeName": name, "containers": containers}}


GROUPS = {
    "groups": [
        {"name": "batch", "versions": [{"version": "v1"}]},
        {"name": "kubeflow.org", "versions": [{"version": "v1"}, {"version": "v2beta1"}]},
        {"name": "trainer.kubeflow.org", "versions": [{"version": "v1alpha1"}]},
        {"name": "jobset.x-k8s.io", "versions": [{"version": "v1alpha2"}]},
        {"name": "kueue.x-k8s.io", "versions": [{"version": "v1beta1"}, {"version": "v1beta2"}]},
    ]
}


def served(*plurals: str) -> dict:
    """A group's resources as discovery lists them."""
    return {"resources": [{"name": plural} for plural in plurals]}


def deployment(name: str, image: str, available: int = 1) -> dict:
    """An operator's Deployment."""
    template = {"spec": {"containers": [{"name": "manager", "image": image}]}}
    metadata = {"name": name, "namespace": "operators"}
    return {"metadata": metadata, "spec": {"template": template}, "status": {"availableReplicas": available}}


def claim(phase: str = "Bound", mode: str = "ReadWriteMany", storage_class: str = "shared") -> dict:
    """The store's claim."""
    status = {"phase": phase, "capacity": {"storage": "1Ti"}}
    return {
        "metadata": {"name": "store"},
        "spec": {"accessModes": [mode], "storageClassName": storage_class},
        "status": status,
    }


def cluster_queue(cpu: str = "64", memory: str = "256Gi", used: str = "0") -> dict:
    """A ClusterQueue with one flavour."""
    resources = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": memory}]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "default-flavor", "resources": resources}]}]
    reservation = [
        {"name": "default-flavor", "resources": [{"name": "cpu", "total": used}, {"name": "memory", "total": "0"}]}
    ]
    status = {"conditions": [{"type": "Active", "status": "True"}], "flavorsReservation": reservation}
    spec = {"namespaceSelector": {}, "resourceGroups": groups}
    return {"metadata": {"name": "finetune"}, "spec": spec, "status": status}


def local_queue(active: str = "True", message: str = "") -> dict:
    """A LocalQueue."""
    conditions = [{"type": "Active", "status": active, "message": message}]
    return {
        "metadata": {"name": "finetune"},
        "spec": {"clusterQueue": "finetune"},
        "status": {"conditions": conditions},
    }


def inside(**more: object) -> dict:
    """What the store says of itself."""
    return {"free": 2**40, "size": 2**41, "writable": True, "models": [], "data": [], "runs": [], **more}


def good_facts(objects: list[dict], **more: object) -> dict:
    """A cluster where all is well for these objects."""
    sets = pod_sets(objects)
    allowed = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}, "status": {"allowed": True}}
    small = {"per_rank": 10**9, "weights": 10**8, "activations": 10**8, "process": 6 * 10**8}
    facts: dict = {
        "now": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        "version": {"gitVersion": "v1.34.4"},
        "client": {"gitVersion": "v1.34.4"},
        "groups": GROUPS,
        "access": [allowed],
        "namespace": {"metadata": {"name": SPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
                      "status": {"phase": "Active"}},
        "nodes": [node("n1"), node("n2")],
        "pods": [],
        "quotas": [],
        "storage_classes": [{"metadata": {"name": "shared"}, "volumeBindingMode": "Immediate"}],
        "resources": {("kubeflow.org", "v1"): served("pytorchjobs"), ("kubeflow.org", "v2beta1"): served("mpijobs"),
                      ("trainer.kubeflow.org", "v1alpha1"): served("trainjobs", "trainingruntimes"),
                      ("jobset.x-k8s.io", "v1alpha2"): served("jobsets")},
        "deployments": {name: [deployment(name, f"registry.example/{name}:v2.3.0")] for name in (
            "training-operator", "mpi-operator", "kubeflow-trainer-controller-manager", "jobset-controller-manager")},
        "leases": {},
        "definitions": {},
        "probes": {},
        "references": {("ServiceAccount", "trainer"): {"metadata": {"name": "trainer"}},
                       ("PersistentVolumeClaim", "store"): claim()},
        "secret_stores": {},
        "dry_objects": [{} for _ in objects],
        "dry_pods": [{} for _ in sets],
        "inside": inside(),
        "queues": (local_queue(), cluster_queue()),
        "kueue_probe": {"spec": {"suspend": True, "runPolicy": {"suspend": True}}},
        "kueue_config": missing("configmaps", "kueue-manager-config"),
        "estimates": {2: small, 4: small},
    }  # fmt: skip
    return {**facts, **more}
