"""Hundreds of nodes and thousands of pods that exist in the API only (kwok), for as long as a test measures.

Objects are posted through one `kubectl proxy`: kubectl itself makes at most 50 requests a second.
"""

import contextlib
import http.client
import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.teams import kubectl, tried

MARK = "tunefleet.io/simulated"
TAINT = {"key": MARK, "value": "true", "effect": "NoSchedule"}
AT_ONCE = 8


def node(name: str, gpus: int = 8) -> dict:
    """A node that kwok keeps alive."""
    size = {"cpu": "96", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", MARK: "true"}
    metadata = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    status = {"allocatable": size, "capacity": size, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [TAINT]}, "status": status}


def pod(name: str, node_name: str, cpu: str = "4", memory: str = "8Gi") -> dict:
    """A pod on such a node."""
    resources = {"requests": {"cpu": cpu, "memory": memory}}
    containers = [{"name": "main", "image": "registry.example/nothing:1", "resources": resources}]
    tolerations = [{"key": MARK, "operator": "Exists"}]
    spec = {"nodeName": node_name, "containers": containers, "tolerations": tolerations,
            "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {MARK: "true"}}, "spec": spec}


@contextlib.contextmanager
def cluster_of(namespace: str, nodes: int, pods: int) -> Iterator[None]:
    """So many nodes, with so many pods of the namespace that run on them; gone afterwards."""
    words = ["kubectl", "proxy", "--port=0", "--disable-filter"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            port = int(re.search(r":(\d+)$", proxy.stdout.readline())[1])
            names = [f"{namespace}-{number}" for number in range(nodes)]
            kubectl("create", "namespace", namespace)
            post(port, "/api/v1/nodes", [node(name) for name in names])
            bound = [pod(f"p{number}", names[number % nodes]) for number in range(pods)]
            post(port, f"/api/v1/namespaces/{namespace}/pods", bound)
            wait_until_they_run(namespace, seconds=60 + pods / 10)
            yield
        finally:
            clear(port, f"/api/v1/namespaces/{namespace}/pods")
            clear(port, f"/api/v1/nodes?labelSelector={MARK}")
            proxy.terminate()
            tried("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def post(port: int, path: str, objects: list[dict]) -> None:
    """Make many objects, over a few connections that stay open."""

    def some(share: list[dict]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for one in share:
            connection.request("POST", path, json.dumps(one), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status in (201, 409), said
        connection.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(some, (objects[start::AT_ONCE] for start in range(AT_ONCE))))


def wait_until_they_run(namespace: str, seconds: float) -> None:
    """Return when the namespace's pods all run. An API server that still takes them in answers nobody else quickly."""
    deadline = time.monotonic() + seconds
    words = ["get", "pods", "--namespace", namespace, "--field-selector=status.phase!=Running", "--output=name"]
    while left := kubectl(*words).splitlines():
        assert time.monotonic() < deadline, f"{len(left)} simulated pods do not run"
        time.sleep(2)


def clear(port: int, path: str) -> None:
    """Delete all of a collection at once."""
    status = 0
    while status not in (200, 404):  # the API server ends a request after a minute, with what was deleted until then
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("DELETE", path, json.dumps({"gracePeriodSeconds": 0}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        status = answer.status
        connection.close()
