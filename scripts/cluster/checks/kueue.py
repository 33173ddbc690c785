"""Questions of a run that goes through a Kueue queue: does Kueue look after its kind, does the queue let it in?"""

import copy
from fractions import Fraction

import yaml

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, not_told, reason
from scripts.cluster.checks.quantity import Resources, bare, number, numbers, several, words
from scripts.cluster.checks.scheduling import selects, shortage
from scripts.cluster.checks.shapes import PodSet, requests
from scripts.cluster.kubectl import Refused
from train.errors import see

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
GROUP = "kueue.x-k8s.io"
FRAMEWORKS = {
    "Job": "batch/job",
    "PyTorchJob": "kubeflow.org/pytorchjob",
    "MPIJob": "kubeflow.org/mpijob",
    "TrainJob": "trainer.kubeflow.org/trainjob",
}
# Refuses a TrainJob whose runtime is not there yet, as in a dry run; without the integration it lets everything in.
TRAINJOB_WEBHOOK = "vtrainjob.kb.io"
WITHOUT = "leave out the component queue-kueue"


def queue_of(job: dict) -> str:
    """The LocalQueue the run's job names; empty where it goes without one."""
    return (job["metadata"].get("labels") or {}).get(QUEUE, "")


def served_version(groups: object) -> str:
    """The newest version of Kueue's API that is served; empty where there is none."""
    found = [one for one in groups["groups"] if one["name"] == GROUP] if isinstance(groups, dict) else []
    served = [version["version"] for one in found for version in one["versions"]]
    return next((version for version in ("v1beta2", "v1beta1") if version in served), "")


def unsuspended(job: dict) -> dict:
    """The job as one that would start at once: if a dry run gives it back suspended, Kueue looks after its kind."""
    probe = copy.deepcopy(job)
    probe["spec"].pop("suspend", None)
    probe["spec"].get("runPolicy", {}).pop("suspend", None)
    return probe


def judge_kueue(job: dict, sets: list[PodSet], namespace: str, facts: dict) -> list[Answer]:
    """All that Kueue may hold against the run; nothing where it names no queue."""
    queue = queue_of(job)
    if not queue:
        return []
    if not served_version(facts["groups"]):
        what = "the run names a queue, and the API serves no kueue.x-k8s.io"
        fix = f"have Kueue installed (make operators WITH=kueue), or {WITHOUT}"
        return [Answer(FAILED, "is Kueue there", what, fix)]
    answers = [judge_integration(job, facts), judge_local_queue(queue, namespace, facts["queues"][0])]
    if answers[-1].status != FAILED:
        answers += judge_cluster_queue(sets, facts)
    priority = (job["metadata"].get("labels") or {}).get(PRIORITY)
    if priority:
        answers.append(judge_priority(priority, facts["workload_priority"]))
    return answers


def judge_integration(job: dict, facts: dict) -> Answer:
    """Whether Kueue holds back jobs of this kind: by what it does to one in a dry run, else by its configuration."""
    question, kind = f"does Kueue look after {job['kind']}s", job["kind"]
    probe, framework = facts["kueue_probe"], FRAMEWORKS[job["kind"]]
    fix = (
        f"have {framework} added to integrations.frameworks in ConfigMap kueue-system/kueue-manager-config and Kueue "
        f"restarted (0.19 has PyTorchJob off, 0.20 may have dropped it), take RUNTIME=job, or {WITHOUT}"
    )
    without = f"a {kind} would start at once, past the queue"
    if isinstance(probe, dict):
        spec = probe["spec"]
        if spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"):
            return Answer(PASSED, question, "in a dry run it held the job back")
        return Answer(FAILED, question, f"in a dry run it did not hold the job back: {without}", fix)
    if isinstance(probe, Refused) and "failed calling webhook" in str(probe) and "kueue" in str(probe):
        return Answer(FAILED, question, f"its webhook does not answer: {reason(probe)[-160:]}", "have Kueue looked at")
    if isinstance(probe, Refused) and TRAINJOB_WEBHOOK in str(probe):
        return Answer(PASSED, question, "its webhook judges them")
    frameworks = configured_frameworks(facts["kueue_config"])
    if frameworks is None:
        what = "the dry run of the job did not come through, and Kueue's configuration cannot be read"
        return Answer(UNKNOWN, question, what, f"ask whether {framework} is among its integrations")
    if framework not in frameworks:
        return Answer(FAILED, question, f"its configuration does not name {framework}: {without}", fix)
    return Answer(PASSED, question, f"its configuration names {framework}")


def configured_frameworks(config: object) -> list[str] | None:
    """The kinds of job that Kueue's configuration names; None where it cannot be read."""
    if not isinstance(config, dict):
        return None
    for text in (config.get("data") or {}).values():
        values = yaml.safe_load(text)
        if isinstance(values, dict) and "integrations" in values:
            return values["integrations"].get("frameworks") or []
    return None


def judge_local_queue(queue: str, namespace: str, found: object) -> Answer:
    """Whether the queue is there and takes jobs."""
    question = "is the queue there"
    if is_missing(found):
        fix = "make cluster-setup makes one; `kubectl get localqueues` lists those there are: PLACE=queue=…"
        return Answer(FAILED, question, f"there is no LocalQueue {queue} in {namespace}", fix)
    if isinstance(found, Refused):
        return not_told(question, f"LocalQueue {queue}", found)
    active = condition(found, "Active")
    if found["spec"].get("stopPolicy", "None") != "None":
        return Answer(FAILED, question, f"LocalQueue {queue} is stopped", "have its stopPolicy taken away")
    if active and active["status"] != "True":
        what = f"LocalQueue {queue} is not active: {active.get('message') or active.get('reason')}"
        return Answer(FAILED, question, what, "have the administrator look at its ClusterQueue")
    return Answer(PASSED, question, f"LocalQueue {queue} leads to ClusterQueue {found['spec'].get('clusterQueue')}")


def condition(found: dict, kind: str) -> dict | None:
    """One of an object's conditions."""
    return next((one for one in found.get("status", {}).get("conditions") or [] if one["type"] == kind), None)


def judge_cluster_queue(sets: list[PodSet], facts: dict) -> list[Answer]:
    """Whether the ClusterQueue covers all that is asked, and has it now."""
    question, found = "does the queue have the quota", facts["queues"][1]
    if found is None:
        return [Answer(UNKNOWN, question, "which ClusterQueue stands behind the queue is not known", "")]
    if isinstance(found, Refused):
        return [not_told(question, "the ClusterQueue", found)]
    name, namespace = found["metadata"]["name"], facts["namespace"]
    active = condition(found, "Active")
    if active and active["status"] != "True":
        what = f"ClusterQueue {name} is not active: {active.get('message') or active.get('reason')}"
        return [Answer(FAILED, question, what, "have the administrator look at it and its ResourceFlavors")]
    if found["spec"].get("stopPolicy", "None") != "None":
        return [Answer(FAILED, question, f"ClusterQueue {name} is stopped", "have its stopPolicy taken away")]
    labels = (namespace["metadata"].get("labels") or {}) if isinstance(namespace, dict) else None
    if labels is not None and not selects(found["spec"].get("namespaceSelector"), labels):
        what = f"ClusterQueue {name} takes no jobs of this namespace (its namespaceSelector)"
        return [Answer(FAILED, question, what, "have the namespace labelled as the ClusterQueue selects")]
    return [judge_quota(question, sets, found)]


def judge_quota(question: str, sets: list[PodSet], found: dict) -> Answer:
    """Whether some flavour of each group has what the run's pods ask together."""
    name, groups = found["metadata"]["name"], found["spec"].get("resourceGroups") or []
    wanted: Resources = {}
    for one in sets:
        for resource, amount in requests(one.spec).items():
            wanted[resource] = wanted.get(resource, Fraction(0)) + amount * one.count
    covered = {resource for group in groups for resource in group["coveredResources"]}
    if "pods" not in covered:  # pods are counted only where the queue says so
        wanted.pop("pods", None)
    stranger = sorted(set(wanted) - covered)
    if stranger:
        what = f"ClusterQueue {name} does not cover {', '.join(stranger)}: Kueue would never let the run in"
        return Answer(FAILED, question, what, "have them added to its coveredResources, or ask for none")
    cohort = found["spec"].get("cohortName") or found["spec"].get("cohort")
    for group in groups:
        asked = {resource: wanted[resource] for resource in group["coveredResources"] if resource in wanted}
        answer = judge_flavours(question, name, group, asked, reserved(found), cohort)
        if answer:
            return answer
    return Answer(PASSED, question, f"ClusterQueue {name} has {several(wanted)} left")


def judge_flavours(
    question: str, name: str, group: dict, asked: Resources, used: dict, cohort: str | None
) -> Answer | None:
    """The objection of one group of resources; None where one of its flavours has all that is asked."""
    nearest = None
    for flavour in group["flavors"]:
        quota = {one["name"]: number(one["nominalQuota"]) for one in flavour["resources"]}
        taken = used.get(flavour["name"], {})
        never = shortage(quota, asked)
        now = shortage({key: amount - taken.get(key, Fraction(0)) for key, amount in quota.items()}, asked)
        if not now:
            return None
        if nearest is None or len(never) < len(nearest[1]):
            said = ", ".join(
                f"{words(key, gap)} short (asked {bare(key, asked)}, {bare(key, taken)} of {bare(key, quota)} reserved)"
                for key, gap in now.items()
            )
            nearest = (f"ClusterQueue {name}, flavour {flavour['name']}: {said}", never)
    if nearest is None:
        return Answer(FAILED, question, f"ClusterQueue {name} has no flavour", "have one added")
    said, never = nearest
    if cohort:
        what = f"{said}; it may borrow from cohort {cohort}, which is not looked at here"
        return Answer(UNKNOWN, question, what, "deploy: the run waits in the queue until there is room")
    if never:
        fix = f"ask for less by PLACE=…, or have the quota raised{see('job-pending')}"
        return Answer(FAILED, question, f"{said}; it would wait for ever", fix)
    return Answer(PASSED, question, f"{said}; the queue holds it until others end")


def reserved(found: dict) -> dict[str, Resources]:
    """What is reserved already, by flavour."""
    status = found.get("status", {})
    flavours = status.get("flavorsReservation") or status.get("flavorsUsage") or []
    return {
        one["name"]: numbers({entry["name"]: entry.get("total", 0) for entry in one.get("resources") or []})
        for one in flavours
    }


def judge_priority(name: str, found: object) -> Answer:
    """Whether the priority class for the queue is there."""
    question = "is the queue's priority class there"
    if is_missing(found):
        fix = "make cluster-setup makes finetune-high, -normal and -low: PLACE=priority=…"
        return Answer(FAILED, question, f"there is no WorkloadPriorityClass {name}", fix)
    if isinstance(found, Refused):
        return not_told(question, f"WorkloadPriorityClass {name}", found)
    return Answer(PASSED, question, f"{name} has the value {found.get('value')}")
