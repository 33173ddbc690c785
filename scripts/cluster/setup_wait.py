"""Waits until the store can be used, says why it cannot, and tries whether the network is closed."""

import time

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import DATA_ACCESS
from scripts.cluster.words import one_line
from train.errors import InputError, problem, report_problems

SELECTOR = f"tunefleet.io/role={DATA_ACCESS}"
# The API server is a private address that no policy opens, and it listens, since it answers us.
PROBE = """
import os, socket
try:
    socket.create_connection((os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])), 4)
    print("open")
except OSError as error:
    print("closed", error)
"""


def wait_for_store(cluster: Cluster, seconds: int) -> int:
    """Until the claim is bound and data-access is ready; the exit status."""
    end = time.monotonic() + seconds
    while True:
        claim = cluster.get("persistentvolumeclaim", "store") or {}
        deployment = cluster.get("deployment", DATA_ACCESS) or {}
        bound = claim.get("status", {}).get("phase") == "Bound"
        status = deployment.get("status", {})
        seen = status.get("observedGeneration") == deployment.get("metadata", {}).get("generation")
        if bound and seen and status.get("updatedReplicas") and status.get("readyReplicas"):
            size = claim["status"].get("capacity", {}).get("storage", "")
            print(f"ready     store ({size}, volume {claim['spec']['volumeName']}) and {DATA_ACCESS}")
            return 0
        if time.monotonic() > end:
            what = f"not ready after {seconds} s: {why(cluster, bound)}"
            fix = "the objects are applied; mend this and the same command goes on"
            report_problems(InputError(problem("store" if not bound else DATA_ACCESS, "", what, fix)))
            return 1
        time.sleep(1)


def why(cluster: Cluster, bound: bool) -> str:
    """The last thing that the cluster said of it."""
    if not bound:
        said = last_event(cluster, "PersistentVolumeClaim", "store")
        if "no storage class is set" in said:
            classes = ", ".join(one["metadata"]["name"] for one in cluster.list("storageclasses")) or "none"
            return f"the cluster has no default storage class; STORAGE_CLASS= one of: {classes}"
        return f"the claim has no volume: {said or 'nothing said yet'}"
    pods = [pod for pod in cluster.list("pods", SELECTOR) if "deletionTimestamp" not in pod["metadata"]]
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            waiting = container["state"].get("waiting", {})
            if waiting.get("message"):
                return one_line(f"{waiting['reason']}: {waiting['message']}")
        return last_event(cluster, "Pod", pod["metadata"]["name"]) or f"its pod is {pod['status'].get('phase')}"
    replica_sets = cluster.list("replicasets", SELECTOR)
    said = [last_event(cluster, "ReplicaSet", one["metadata"]["name"]) for one in replica_sets]
    return next((text for text in said if text), "no pod was made")


def last_event(cluster: Cluster, kind: str, name: str) -> str:
    """The message of the newest event of an object."""
    selector = f"involvedObject.kind={kind},involvedObject.name={name}"
    text = cluster.run("get", "events", "--field-selector", selector, "--sort-by=.lastTimestamp",
                       "--output", "jsonpath={range .items[*]}{.message}{'\\n'}{end}")  # fmt: skip
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""


def probe_network(cluster: Cluster) -> int:
    """Try from data-access what must be closed to it; how many things are wrong."""
    try:
        answer = cluster.run("exec", f"deploy/{DATA_ACCESS}", "--", "python", "-c", PROBE)
    except Refused as refused:
        print(f"unknown   whether NetworkPolicies are enforced: {DATA_ACCESS} did not try: {one_line(str(refused))}")
        return 0
    if answer.startswith("open"):
        print("differs   NetworkPolicies are not enforced: data-access reached the API server, which none opens to it")
        return 1
    print("as wanted NetworkPolicies are enforced: data-access could not reach the API server")
    return 0
