"""What the preflight has to know of the cluster for one run: which questions are asked, in two rounds."""

from datetime import UTC, datetime
from types import SimpleNamespace

from scripts.cluster.bucket import COMPONENT
from scripts.cluster.checks import admission, bucket, kueue, operators, references, rights, store
from scripts.cluster.checks.gather import access, ask, gather, items, named
from scripts.cluster.checks.shapes import find_job, pod_sets
from scripts.cluster.kubectl import Cluster, Refused, parse

FIRST_SECONDS = 20.0  # for the very first answer; a cluster that is there answers in one
RUNNING = "?fieldSelector=status.phase!%3DSucceeded,status.phase!%3DFailed"


def reach(cluster: Cluster) -> dict:
    """The first round: is anybody there, and which APIs do they serve?"""
    facts = {"now": datetime.now(UTC), "version": ask(cluster.raw, "version", FIRST_SECONDS)}
    facts["client"] = ask(client_version, cluster)
    if not isinstance(facts["version"], Refused):
        facts["groups"] = ask(cluster.raw, "apis")
    return facts


def client_version(cluster: Cluster) -> dict:
    """kubectl's own version."""

    return parse(cluster.run("version", "--client", "--output", "json"))["clientVersion"]


def collect(cluster: Cluster, objects: list[dict], plan: SimpleNamespace, first: dict) -> dict:
    """All other facts, as answers or refusals, ready to be judged."""
    questions = cluster_questions(cluster) | object_questions(cluster, objects, plan)
    questions |= operator_questions(cluster, objects, plan, first["groups"]) | kueue_questions(cluster, objects, first)
    answers = gather(questions)
    facts = {key: answer for key, answer in answers.items() if isinstance(key, str)} | first
    for group in ("references", "resources", "deployments", "leases", "definitions", "probes", "secret_stores"):
        facts[group] = {key[1]: answer for key, answer in answers.items() if isinstance(key, tuple) and key[0] == group}
    for group in ("dry_objects", "dry_pods"):
        facts[group] = [answers[key] for key in questions if isinstance(key, tuple) and key[0] == group]
    return facts


def cluster_questions(cluster: Cluster) -> dict:
    """What every run asks of nodes and namespace; the longest answer first."""
    space = f"api/v1/namespaces/{cluster.namespace}"
    return {
        "pods": (items, cluster, f"api/v1/pods{RUNNING}"),
        "nodes": (items, cluster, "api/v1/nodes"),
        "namespace": (cluster.raw, space),
        "quotas": (items, cluster, f"{space}/resourcequotas"),
        "storage_classes": (items, cluster, "apis/storage.k8s.io/v1/storageclasses"),
    }


def object_questions(cluster: Cluster, objects: list[dict], plan: SimpleNamespace) -> dict:
    """What follows from the rendered objects: rights, dry runs, what the pods name, what lies on the store."""
    space, sets = cluster.namespace, pod_sets(objects)
    inside = (store.look_inside, cluster, store.question(plan.recipe))
    if COMPONENT in plan.components:
        inside = (bucket.look, plan.placement, plan.recipe)
    questions: dict = {"inside": inside}
    questions["access"] = (access, cluster, rights.wanted_rights(objects, space))
    for number, found in enumerate(objects):
        questions["dry_objects", number] = (cluster.try_post, rights.path_of(found, space), within(found, space))
    for one in sets:
        pod = admission.bare_pod(one, plan.run, space)
        questions["dry_pods", one.name] = (cluster.try_post, f"api/v1/namespaces/{space}/pods", pod)
    for reference in references.references(sets, objects):
        questions["references", reference[:2]] = (cluster.raw, references.path_of(reference, space))
    for kind, name in references.external_stores(objects):
        where = "" if kind.startswith("Cluster") else f"namespaces/{space}/"
        questions["secret_stores", (kind, name)] = (
            cluster.raw,
            f"apis/external-secrets.io/v1/{where}{kind.lower()}s/{name}",
        )
    return questions


def within(found: dict, namespace: str) -> dict:
    """The object in the namespace it will be applied to."""
    return {**found, "metadata": {"namespace": namespace, **found["metadata"]}}


def operator_questions(cluster: Cluster, objects: list[dict], plan: SimpleNamespace, groups: object) -> dict:
    """What tells of the runtime's operators: what is served, their Deployments, leases, definitions and webhooks."""
    questions: dict = {}
    served = groups["groups"] if isinstance(groups, dict) else []
    for operator in operators.NEEDED[plan.runtime]:
        versions = next((one["versions"] for one in served if one["name"] == operator.group), [])
        for version in versions:
            where = f"apis/{operator.group}/{version['version']}"
            questions["resources", (operator.group, version["version"])] = (cluster.raw, where)
        path = "apis/apps/v1/deployments"
        questions["deployments", operator.deployment] = (items, cluster, named(path, operator.deployment))
        leases = "apis/coordination.k8s.io/v1/leases"
        questions["leases", operator.lease] = (items, cluster, named(leases, operator.lease))
        definition = f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{operator.crd}"
        questions["definitions", operator.crd] = (cluster.raw, definition)
        probe = operators.broken(operator, find_job(objects))
        if probe:
            where = rights.path_of(probe, cluster.namespace)
            questions["probes", operator.plural] = (cluster.try_post, where, within(probe, cluster.namespace))
    return questions


def kueue_questions(cluster: Cluster, objects: list[dict], first: dict) -> dict:
    """What a run that names a queue has to know; nothing for one that does not."""
    job, version = find_job(objects), kueue.served_version(first["groups"])
    queue = kueue.queue_of(job)
    if not queue or not version:
        return {}
    root = f"apis/{kueue.GROUP}/{version}"
    probe = kueue.unsuspended(job)
    questions = {
        "queues": (queue_and_cluster_queue, cluster, root, queue),
        "kueue_config": (cluster.raw, "api/v1/namespaces/kueue-system/configmaps/kueue-manager-config"),
        "kueue_probe": (cluster.try_post, rights.path_of(job, cluster.namespace), within(probe, cluster.namespace)),
    }
    priority = (job["metadata"].get("labels") or {}).get(kueue.PRIORITY)
    if priority:
        questions["workload_priority"] = (cluster.raw, f"{root}/workloadpriorityclasses/{priority}")
    return questions


def queue_and_cluster_queue(cluster: Cluster, root: str, queue: str) -> tuple[object, object]:
    """The LocalQueue, and the ClusterQueue it leads to (None where the first is not told)."""
    local = ask(cluster.raw, f"{root}/namespaces/{cluster.namespace}/localqueues/{queue}")
    if isinstance(local, Refused):
        return local, None
    return local, ask(cluster.raw, f"{root}/clusterqueues/{local['spec'].get('clusterQueue')}")
