"""Question: will the API server let it in? Each object, and each pod that the controller will make from it."""

import re

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, reason
from scripts.cluster.checks.shapes import PodSet
from scripts.cluster.kubectl import Refused

OBJECTS = "does admission let the objects in"
PODS = "does admission let the pods in"
# What Trainer's and Kueue's webhooks say of a TrainJob without its runtime, which a deploy makes first.
RUNTIME_FIRST = re.compile(r"must be created before the TrainJob|runtime '\S+' not found")


def bare_pod(one: PodSet, run: str, namespace: str) -> dict:
    """A pod as a controller makes it from the template: what PodSecurity, quota and limit ranges judge."""
    metadata = {"generateName": f"{run}-", "namespace": namespace, "labels": one.labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": one.spec}


def judge_admission(objects: list[dict], sets: list[PodSet], facts: dict) -> list[Answer]:
    """One answer for the objects and one for the pods, each with everything that was refused."""
    if is_missing(facts["namespace"]):
        return [Answer(UNKNOWN, PODS, "nothing is let into a namespace that is not there", "make cluster-setup")]
    answers = []
    named = [(f"{found['kind']} {found['metadata']['name']}", found["kind"]) for found in objects]
    refused = []
    for (name, kind), result in zip(named, facts["dry_objects"], strict=True):
        if isinstance(result, Refused) and not is_let_in(result, kind):
            refused.append((name, result))
    answers += judge_refused(OBJECTS, refused, f"all {len(objects)} would be accepted")
    pods = [(f"{one.name} pods", result) for one, result in zip(sets, facts["dry_pods"], strict=True)]
    refused = [(name, result) for name, result in pods if isinstance(result, Refused)]
    return answers + judge_refused(PODS, refused, f"{' and '.join(name for name, _ in pods)} would be accepted")


def is_let_in(refused: Refused, kind: str) -> bool:
    """Whether a refusal is none: the object is there already, or only its runtime, which comes first, is not."""
    text = str(refused)
    return "(AlreadyExists)" in text or (kind == "TrainJob" and RUNTIME_FIRST.search(text) is not None)


def judge_refused(question: str, refused: list[tuple[str, Refused]], well: str) -> list[Answer]:
    """An answer for each that was refused, or one that all passed."""
    if not refused:
        return [Answer(PASSED, question, well)]
    return [judge_one(question, name, result) for name, result in refused]


def judge_one(question: str, name: str, refused: Refused) -> Answer:
    """Why one object was refused, and what to do about it."""
    said = reason(refused)
    if is_missing(refused):
        if "namespaces" in said:
            return Answer(UNKNOWN, question, f"{name}: the namespace is not there", "make cluster-setup")
        fix = "see what is said of its operator"
        if name.startswith("PodMonitor "):
            fix = "take out component podmonitor (WITHOUT=podmonitor), or have Prometheus Operator installed"
        return Answer(FAILED, question, f"{name}: the API does not serve this kind", fix)
    if "failed calling webhook" in said:
        return Answer(FAILED, question, f"{name}: {said}", "have the controller of that webhook looked at: it is down")
    for sign, fix in FIXES:
        if re.search(sign, said):
            return Answer(FAILED, question, f"{name}: {said}", fix)
    if re.search(r'User ".*" cannot create', said):
        return Answer(UNKNOWN, question, f"{name}: {said}", "see what is said of your rights")
    return Answer(FAILED, question, f"{name}: {said}", "change the placement or the component it comes from")


# What a refusal says, and what helps; the first that matches counts.
FIXES = (
    (r"violates PodSecurity", "take out the component that asks for it, or have the namespace's level changed"),
    (
        r"exceeded quota",
        'ask for less (PLACE="resources.requests.cpu=…"), wait for other work, or have the quota raised',
    ),
    (
        r"(maximum|minimum) .* per (Container|Pod)",
        "stay within the namespace's LimitRange: `kubectl describe limitrange`",
    ),
    (r"must specify", "the namespace's quota wants requests and limits of everything: name them under resources"),
    (r"service ?account .* not found", "make cluster-setup makes the ServiceAccount"),
    (r"no PriorityClass", "have the PriorityClass made, or take the component out that names it"),
    (r"unknown field", "the operator is older than what is written here: have it upgraded"),
    (r"denied the request", "change what the webhook objects to, or ask who runs it"),
    (r"is invalid|strict decoding", "change the value it names, in cluster.yaml or by PLACE=…"),
)
