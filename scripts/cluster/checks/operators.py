"""Question: is the operator of the runtime there, in a version that knows what we write, and alive?"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, reason
from scripts.cluster.kubectl import Refused
from train.errors import see

# What a webhook says of `broken`'s objects; JobSet's words are its own.
WEBHOOK = re.compile(r"admission webhook \S+ denied|does not appear in .spec.ReplicatedJobs")
NOT_THERE = "tunefleet-preflight-not-there"
FRESH = 60  # seconds; a leader renews its lease every few seconds


@dataclass(frozen=True)
class Operator:
    """A controller that a runtime needs: what it serves, how it is called where it is installed as published."""

    name: str
    group: str
    version: str
    plural: str
    deployment: str
    lease: str
    least: str
    field: tuple[str, ...]  # of the kind's spec, not there before `least`
    install: str

    @property
    def crd(self) -> str:
        """The name of the CustomResourceDefinition."""
        return f"{self.plural}.{self.group}"


TRAINING = Operator(
    name="Kubeflow Training Operator", group="kubeflow.org", version="v1", plural="pytorchjobs",
    deployment="training-operator", lease="1ca428e5.training-operator.kubeflow.org",
    least="1.9", field=("runPolicy", "managedBy"), install="training")  # fmt: skip
MPI = Operator(
    name="MPI Operator", group="kubeflow.org", version="v2beta1", plural="mpijobs",
    deployment="mpi-operator", lease="mpi-operator",
    least="0.6", field=("runPolicy", "managedBy"), install="mpi")  # fmt: skip
TRAINER = Operator(
    name="Kubeflow Trainer", group="trainer.kubeflow.org", version="v1alpha1", plural="trainjobs",
    deployment="kubeflow-trainer-controller-manager", lease="trainer.kubeflow.org",
    least="2.2", field=("runtimePatches",), install="trainer")  # fmt: skip
JOBSET = Operator(
    name="JobSet", group="jobset.x-k8s.io", version="v1alpha2", plural="jobsets",
    deployment="jobset-controller-manager", lease="6d4f6a47.jobset.x-k8s.io",
    least="0.11", field=("volumeClaimPolicies",), install="trainer")  # fmt: skip
NEEDED = {"job": (), "pytorchjob": (TRAINING,), "mpijob": (MPI,), "trainjob": (TRAINER, JOBSET)}
OTHER_RUNTIME = "take another runtime (RUNTIME=job needs no operator)"


def broken(operator: Operator, job: dict) -> dict | None:
    """An object that the operator's webhook must refuse, so that a dry run shows whether it answers."""
    metadata = {"name": job["metadata"]["name"]}
    if operator is TRAINING:
        pod = {"spec": {"containers": [{"name": "not-pytorch", "image": "none"}]}}
        spec: dict = {"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": pod}}}
        return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": spec}
    if operator is TRAINER:
        reference = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": NOT_THERE}
        spec = {"runtimeRef": reference, "trainer": {"numNodes": 1}}
        return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}
    if operator is JOBSET:
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
        one = {"name": "twice", "replicas": 1, "template": {"spec": {"template": {"spec": pod}}}}
        spec = {"replicatedJobs": [one], "successPolicy": {"operator": "All", "targetReplicatedJobs": ["not-there"]}}
        return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}
    return None


def judge_operators(runtime: str, facts: dict) -> list[Answer]:
    """Two answers for each operator the runtime needs: served and known, alive."""
    if not NEEDED[runtime]:
        return [Answer(PASSED, "is the operator there", "an Indexed Job needs none")]
    answers = []
    for operator in NEEDED[runtime]:
        served = judge_served(operator, facts)
        answers.append(served)
        if served.status != FAILED:
            answers += [judge_version(operator, facts), judge_alive(operator, facts)]
    return answers


def judge_served(operator: Operator, facts: dict) -> Answer:
    """Whether the API serves the kind in the version we write."""
    question = f"is {operator.name} there"
    wanted = f"{operator.plural} in {operator.group}/{operator.version}"
    fix = f"have it installed (make operators WITH={operator.install}), or {OTHER_RUNTIME}"
    groups = facts["groups"]
    if isinstance(groups, Refused):
        return Answer(UNKNOWN, question, "what the API serves could not be read", "look at `kubectl api-resources`")
    versions = {f"{one['name']}/{version['version']}" for one in groups["groups"] for version in one["versions"]}
    resources = facts["resources"].get((operator.group, operator.version))
    if isinstance(resources, dict) and any(one["name"] == operator.plural for one in resources["resources"]):
        return Answer(PASSED, question, f"the API serves {wanted}")
    others = [version for group, version in facts["resources"]
              if group == operator.group and version != operator.version
              and serves(facts["resources"][group, version], operator.plural)]  # fmt: skip
    if operator is MPI and others:
        what = (
            f"the API serves mpijobs in kubeflow.org/{', '.join(others)} only: the Training Operator's definition lies "
            "under the same name as MPI Operator's, and clashes with it"
        )
        clash = (
            "install MPI Operator's definition of mpijobs.kubeflow.org over it, and start the Training Operator with "
            f"--enable-scheme for all but mpijob; or {OTHER_RUNTIME}"
        )
        return Answer(FAILED, question, what, clash)
    if others:
        return Answer(FAILED, question, f"the API serves {operator.plural} in {', '.join(others)}, not {wanted}", fix)
    near = sorted(version for version in versions if version.startswith(f"{operator.group}/"))
    seen = f" (of {operator.group} there is {', '.join(near)})" if near else ""
    return Answer(FAILED, question, f"the API does not serve {wanted}{seen}", fix)


def serves(resources: object, plural: str) -> bool:
    """Whether a group's version has this kind."""
    return isinstance(resources, dict) and any(one["name"] == plural for one in resources["resources"])


def judge_version(operator: Operator, facts: dict) -> Answer:
    """Whether the operator is new enough: by its Deployment, else by a field of its definition."""
    question = f"is {operator.name} new enough"
    fix = f"have it upgraded to {operator.least} or later (make operators WITH={operator.install})"
    fix += see("operator-upgrade")
    deployments = facts["deployments"].get(operator.deployment)
    for deployment in deployments if isinstance(deployments, list) else []:
        version = deployed_version(deployment)
        if version:
            old = as_numbers(version) < as_numbers(operator.least)
            what = f"it is {version}" + (f", and {operator.least} or later is needed" if old else "")
            return Answer(FAILED if old else PASSED, question, what, fix)
    definition = facts["definitions"].get(operator.crd)
    if isinstance(definition, dict):
        known = has_field(definition, operator)
        field = ".".join(("spec", *operator.field))
        if known is None:
            return Answer(UNKNOWN, question, f"{operator.crd} has no schema to tell it by", "look at its Deployment")
        if not known:
            what = f"its definition of {operator.plural} has no {field}, so it is older than {operator.least}"
            return Answer(FAILED, question, what, fix)
        return Answer(PASSED, question, f"{operator.least} or later: its definition has {field}")
    what = f"neither its Deployment {operator.deployment} nor its definition {operator.crd} can be read"
    return Answer(
        UNKNOWN, question, what, f"ask the administrator for its version; {operator.least} or later is needed"
    )


def deployed_version(deployment: dict) -> str:
    """The version in a Deployment's image or labels; empty where neither says."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    labels = deployment["metadata"].get("labels") or {}
    told = [container["image"].rpartition(":")[2] for container in containers if "@" not in container["image"]]
    told += [labels.get("app.kubernetes.io/version", ""), labels.get("helm.sh/chart", "").rpartition("-")[2]]
    found = (re.match(r"v?(\d+\.\d+(\.\d+)?)(?![0-9a-f]*-?[a-f])", text) for text in told)
    return next((match[1] for match in found if match), "")


def as_numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that can be compared."""
    return tuple(int(part) for part in version.split(".")[:2])


def has_field(definition: dict, operator: Operator) -> bool | None:
    """Whether the definition's served version knows the field; None without a schema."""
    for version in definition["spec"]["versions"]:
        if version["name"] == operator.version:
            at = (version.get("schema") or {}).get("openAPIV3Schema")
            for part in ("spec", *operator.field):
                if at is None or "properties" not in at:
                    return None if at is None else False
                at = at["properties"].get(part)
                if at is None:
                    return False
            return True
    return None


def judge_alive(operator: Operator, facts: dict) -> Answer:
    """Whether somebody acts on the objects: a webhook that answers, an available Deployment, or a lease kept up."""
    question = f"is {operator.name} alive"
    fix = "look at its pods and their log; without it a run is accepted and makes no pods" + see("operator-upgrade")
    probe = facts["probes"].get(operator.plural)
    if isinstance(probe, Refused) and "failed calling webhook" in str(probe):
        return Answer(FAILED, question, f"its webhook does not answer: {tail(probe)}", fix)
    deployments = facts["deployments"].get(operator.deployment)
    for deployment in deployments if isinstance(deployments, list) else []:
        place = f"{deployment['metadata']['namespace']}/{operator.deployment}"
        count = deployment.get("status", {}).get("availableReplicas", 0)
        if not count:
            return Answer(FAILED, question, f"Deployment {place} has no available pod", fix)
        return Answer(PASSED, question, f"Deployment {place} is available")
    if isinstance(probe, Refused) and WEBHOOK.search(str(probe)):
        return Answer(PASSED, question, "its webhook answers")
    leases = facts["leases"].get(operator.lease)
    for lease in leases if isinstance(leases, list) else []:
        age = seconds_since(lease["spec"].get("renewTime"), facts["now"])
        if age is not None and age < FRESH:
            return Answer(PASSED, question, f"it renewed its lease {lease['metadata']['name']} {max(age, 0):.0f} s ago")
        if age is not None:
            return Answer(FAILED, question, f"it has not renewed its lease for {age / 60:.0f} minutes", fix)
    if isinstance(deployments, Refused) and not is_missing(deployments):
        return Answer(UNKNOWN, question, f"Deployment {operator.deployment} may not be read", "ask the administrator")
    return Answer(UNKNOWN, question, f"no Deployment {operator.deployment} and no lease is seen", f"{fix}; or ask")


def tail(refused: Refused) -> str:
    """A webhook's failure from where it names the webhook."""
    text = reason(refused)
    return text[text.find("failed calling webhook") :]


def seconds_since(time: str | None, now: datetime) -> float | None:
    """How long ago the time of an object was."""
    if not time:
        return None
    return (now - datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(UTC)).total_seconds()
