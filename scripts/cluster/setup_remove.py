"""Takes away what a setup made; the store and its namespace only when that is said, and typed."""

import json
import sys

from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import RUN
from scripts.cluster.setup_state import name_of
from train.errors import InputError, problem

OURS = "app.kubernetes.io/name=tunefleet,app.kubernetes.io/component=setup"
# In this order: who may act and what runs first, the closed network last.
IN_NAMESPACE = (
    "rolebindings", "roles", "localqueues.kueue.x-k8s.io", "externalsecrets.external-secrets.io",
    "secretstores.external-secrets.io", "deployments.apps", "networkpolicies", "resourcequotas", "limitranges",
    "serviceaccounts",
)  # fmt: skip
# Of the whole cluster: kept while another namespace has a setup.
SHARED = (
    "workloadpriorityclasses.kueue.x-k8s.io", "resourceflavors.kueue.x-k8s.io", "clusterroles",
    "validatingadmissionpolicybindings", "validatingadmissionpolicies",
)  # fmt: skip


def remove(cluster: Cluster, delete_data: bool) -> int:
    """Everything but the data, or everything; refuses while runs have pods."""
    namespace = cluster.get("namespace", cluster.namespace)
    ours = namespace and (namespace["metadata"].get("labels") or {}).get("app.kubernetes.io/name") == "tunefleet"
    if not ours:
        what = "is not there" if namespace is None else "was not set up by tunefleet"
        raise InputError(
            problem("NAMESPACE", cluster.namespace, what, "kubectl get namespaces -l " + OURS.split(",")[0])
        )
    busy = sorted({pod["metadata"]["labels"][RUN] for pod in cluster.list("pods", RUN) if is_active(pod)})
    if busy:
        fix = "make undeploy, or wait until they are done"
        raise InputError(problem(f"namespace {cluster.namespace}", "", f"runs are going on: {', '.join(busy)}", fix))
    if delete_data and not is_sure(cluster):
        print("nothing was removed", file=sys.stderr)
        return 1
    there = served(cluster)
    remove_consent(cluster)
    own = listed(cluster, there, *IN_NAMESPACE)
    delete(cluster, own)
    remove_shared(cluster, there, {thing["spec"]["clusterQueue"] for thing in own if thing["kind"] == "LocalQueue"})
    if delete_data:
        remove_data(cluster)
    else:
        print(f"kept      namespace/{cluster.namespace} and its persistentvolumeclaim/store with all data")
        print("          --delete-data deletes them too, after a question")
    return 0


def is_active(pod: dict) -> bool:
    """Whether a pod still has something to do."""
    return pod.get("status", {}).get("phase") in ("Pending", "Running")


def is_sure(cluster: Cluster) -> bool:
    """The name of the namespace, typed."""
    print(f"This deletes namespace {cluster.namespace} and its store with all models, data sets and runs, for good.")
    print("Type the namespace's name to go on: ", end="", flush=True)
    return sys.stdin.readline().strip() == cluster.namespace


def served(cluster: Cluster) -> set[str]:
    """The kinds that the API knows, as kubectl names them: roles.rbac.authorization.k8s.io, serviceaccounts."""
    return set(cluster.run("api-resources", "--output", "name", "--cached=false").split())


def listed(cluster: Cluster, there: set[str], *kinds: str) -> list[dict]:
    """The setup's objects of these kinds, in their order; none of a kind that the API does not know."""
    known = [kind for kind in kinds if any(one == kind or one.startswith(f"{kind}.") for one in there)]
    found = cluster.list(",".join(known), OURS) if known else []
    order = {kind.partition(".")[0]: place for place, kind in enumerate(known)}
    return sorted(found, key=lambda thing: order.get(f"{thing['kind'].lower()}s", len(order)))


def no_longer_wanted(cluster: Cluster, wanted: list[dict]) -> list[dict]:
    """What an earlier setup of the namespace made, and this one, told otherwise, would not."""
    if not cluster.get("namespace", cluster.namespace):
        return []
    names = {name_of(thing) for thing in wanted}
    found = listed(cluster, served(cluster), *IN_NAMESPACE, "clusterrolebindings")
    own = [thing for thing in found if is_of(cluster.namespace, thing)]
    return [thing for thing in own if name_of(thing) not in names]


def is_of(namespace: str, thing: dict) -> bool:
    """Whether the object is of this namespace; a binding for the whole cluster has it in its name."""
    if thing["kind"] == "ClusterRoleBinding":
        return thing["metadata"]["name"] in (f"tunefleet-preflight-{namespace}", f"tunefleet-usage-{namespace}")
    return True


def delete(cluster: Cluster, things: list[dict]) -> None:
    """Delete these objects, and wait until they are gone."""
    if not things:
        return
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    cluster.run("delete", "--ignore-not-found", "--filename", "-", given=given, seconds=180)
    for thing in things:
        print(f"removed   {name_of(thing)}")


def remove_consent(cluster: Cluster) -> None:
    """What another namespace allowed ours: to read the hub's token."""
    name = f"hub-token-{cluster.namespace}"
    for kind in ("rolebindings", "roles"):
        words = ["get", kind, "--all-namespaces", "--selector", OURS, "--field-selector", f"metadata.name={name}"]
        for place in cluster.run(*words, "--output", "jsonpath={.items[*].metadata.namespace}").split():
            Cluster(cluster.context, place).run("delete", kind, name, "--ignore-not-found")
            print(f"removed   {kind.removesuffix('s')}/{name} of namespace {place}")


def remove_shared(cluster: Cluster, there: set[str], queues: set[str]) -> None:
    """What is of the whole cluster: our bindings; the rest if nobody else has it."""
    bindings = listed(cluster, there, "clusterrolebindings")
    delete(cluster, [one for one in bindings if is_of(cluster.namespace, one)])
    if "localqueues.kueue.x-k8s.io" in there:
        words = ["get", "localqueues.kueue.x-k8s.io", "--all-namespaces"]
        used = set(cluster.run(*words, "--output", "jsonpath={.items[*].spec.clusterQueue}").split())
        own = [
            one for one in listed(cluster, there, "clusterqueues.kueue.x-k8s.io") if one["metadata"]["name"] in queues
        ]
        delete(cluster, [one for one in own if one["metadata"]["name"] not in used])
        for name in sorted(queues & used):
            print(f"kept      clusterqueue/{name}: other teams' queues use it")
    others = neighbours(cluster)
    if others:
        print(f"kept      what is of the whole cluster: {', '.join(others)} use it")
        return
    flavors = flavors_in_use(cluster, there)
    shared = listed(cluster, there, *SHARED)
    delete(
        cluster, [one for one in shared if one["kind"] != "ResourceFlavor" or one["metadata"]["name"] not in flavors]
    )
    for name in sorted(one["metadata"]["name"] for one in shared if one["kind"] == "ResourceFlavor"):
        if name in flavors:
            print(f"kept      resourceflavor/{name}: cluster queues use it")
    for thing in listed(cluster, there, "storageclasses"):
        print(f"kept      {name_of(thing)}: volumes may be of it")


def neighbours(cluster: Cluster) -> list[str]:
    """Other namespaces that have a setup, or are being given one."""
    words = ["get", "deployments,serviceaccounts,networkpolicies", "--all-namespaces", "--selector", OURS]
    found = cluster.run(*words, "--output", "jsonpath={.items[*].metadata.namespace}").split()
    return sorted(set(found) - {cluster.namespace})


def flavors_in_use(cluster: Cluster, there: set[str]) -> set[str]:
    """Names of the resource flavors that a cluster queue still names: Kueue would not let them go."""
    if "clusterqueues.kueue.x-k8s.io" not in there:
        return set()
    return {
        flavor["name"]
        for one in cluster.list("clusterqueues.kueue.x-k8s.io")
        for group in one["spec"].get("resourceGroups", [])
        for flavor in group["flavors"]
    }


def remove_data(cluster: Cluster) -> None:
    """The store and the namespace; says where the volume keeps the data nevertheless."""
    claim = cluster.get("persistentvolumeclaim", "store") or {}
    volume = cluster.get("persistentvolume", claim.get("spec", {}).get("volumeName", "")) if claim else None
    cluster.run("delete", "namespace", cluster.namespace, seconds=300)
    print(f"removed   persistentvolumeclaim/store and namespace/{cluster.namespace}")
    if volume and volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
        print(f"kept      persistentvolume/{volume['metadata']['name']} with the data: its reclaim policy is Retain")
