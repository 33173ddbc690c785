"""The pods that rendered objects will make: how many of which template, whatever the kind of the job."""

import copy
from dataclasses import dataclass

from scripts.cluster.checks.quantity import Resources, greatest, numbers, total

JOB_KINDS = ("Job", "PyTorchJob", "MPIJob", "TrainJob")


@dataclass(frozen=True)
class PodSet:
    """Pods of one template. `least` is how many are enough to begin (an elastic job), else as many as `count`."""

    name: str
    count: int
    least: int
    template: dict

    @property
    def spec(self) -> dict:
        """The pod's spec."""
        return self.template["spec"]

    @property
    def labels(self) -> dict:
        """The pod's labels, as far as the template has them."""
        return self.template.get("metadata", {}).get("labels") or {}


def find_job(objects: list[dict]) -> dict:
    """The run's job among the rendered objects."""
    return next(found for found in objects if found["kind"] in JOB_KINDS)


def pod_sets(objects: list[dict]) -> list[PodSet]:
    """Every template of the run's job with the number of its pods; the trainers come first."""
    job = find_job(objects)
    spec = job["spec"]
    if job["kind"] == "Job":
        count = spec.get("parallelism", 1)
        return [PodSet("trainer", count, count, spec["template"])]
    if job["kind"] == "PyTorchJob":
        worker = spec["pytorchReplicaSpecs"]["Worker"]
        count = worker.get("replicas", 1)
        least = spec.get("elasticPolicy", {}).get("minReplicas", count)
        return [PodSet("worker", count, min(least, count), worker["template"])]
    if job["kind"] == "MPIJob":
        replicas = spec["mpiReplicaSpecs"]
        count = replicas["Worker"].get("replicas", 1)
        workers = PodSet("worker", count, count, replicas["Worker"]["template"])
        return [workers, PodSet("launcher", 1, 1, replicas["Launcher"]["template"])]
    return [trainjob_pods(job, objects)]


def trainjob_pods(job: dict, objects: list[dict]) -> PodSet:
    """The pods of a TrainJob: its runtime's template with the trainer block and the patches laid over it."""
    runtime = next(found for found in objects if found["kind"] == "TrainingRuntime")
    replicated = {entry["name"]: entry for entry in runtime["spec"]["template"]["spec"]["replicatedJobs"]}
    template = copy.deepcopy(replicated["node"]["template"]["spec"]["template"])
    trainer = job["spec"].get("trainer", {})
    count = trainer.get("numNodes") or runtime["spec"].get("mlPolicy", {}).get("numNodes", 1)
    for container in template["spec"]["containers"]:
        if container["name"] == "node":
            container.update({key: trainer[key] for key in ("image", "command", "args") if key in trainer})
            if "resourcesPerNode" in trainer:
                container["resources"] = trainer["resourcesPerNode"]
    for patch in job["spec"].get("runtimePatches", []):
        body = patch.get("trainingRuntimeSpec", {}).get("template", {}).get("spec", {})
        for entry in body.get("replicatedJobs", []):
            laid = entry.get("template", {}).get("spec", {}).get("template", {}).get("spec", {})
            keys = ("nodeSelector", "affinity", "tolerations", "serviceAccountName", "imagePullSecrets", "volumes")
            template["spec"].update({key: laid[key] for key in keys if key in laid})
    return PodSet("node", count, count, template)


def requests(spec: dict) -> Resources:
    """What the scheduler sets aside for a pod: its containers together or its greatest init container, and one pod."""
    sidecars = [c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
    before = [c for c in spec.get("initContainers", []) if c.get("restartPolicy") != "Always"]
    running = total([asked(container) for container in [*spec["containers"], *sidecars]])
    needed = greatest([running, *(asked(container) for container in before)])
    return total([needed, numbers(spec.get("overhead")), numbers({"pods": 1})])


def asked(container: dict) -> Resources:
    """A container's requests; a limit without a request is one."""
    resources = container.get("resources") or {}
    return numbers({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def limits(spec: dict) -> Resources:
    """The limits of a pod's containers together."""
    return total([numbers((container.get("resources") or {}).get("limits")) for container in spec["containers"]])


def containers(spec: dict) -> list[dict]:
    """All containers of a pod, those that run first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]
