"""Namespaces as `make cluster-setup` makes them, for tests, and pods in them that listen and try."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scripts.cluster.kubectl import environment

ROOT = Path(__file__).resolve().parents[2]
PORTS = (8080, 29500, 443, 53)
LISTEN = f"""
import socket, threading
def serve(port):
    listener = socket.create_server(("", port), backlog=64)
    while True:
        listener.accept()[0].close()
for port in {PORTS}:
    threading.Thread(target=serve, args=(port,)).start()
"""
# Each target is tried for two seconds, all at once; prints those that answered.
TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(target):
    try:
        socket.create_connection((target[0], target[1]), 2).close()
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(32) as pool:
    print(json.dumps([target for target, ok in zip(targets, pool.map(reached, targets)) if ok]))
"""


def image() -> str:
    """The image that the cluster's nodes have."""
    return os.environ.get("TUNEFLEET_TEST_IMAGE") or json.loads((ROOT / "build/image.json").read_text())["name"]


def kubectl(*words: str, given: str | None = None) -> str:
    """What kubectl says; the test fails where kubectl does."""
    done = tried(*words, given=given)
    assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
    return done.stdout


def tried(*words: str, given: str | None = None) -> subprocess.CompletedProcess:
    """A finished kubectl, whatever came of it."""
    words = ["kubectl", *words]
    return subprocess.run(words, input=given, env=environment(), capture_output=True, text=True, timeout=180)


def setup(what: str, namespace: str, *words: str, given: str = "") -> subprocess.CompletedProcess:
    """A finished `python -m scripts.cluster.setup`."""
    command = [sys.executable, "-m", "scripts.cluster.setup", what, "--namespace", namespace, *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT, timeout=300)


def make_team(namespace: str, *words: str) -> None:
    """A namespace set up, with a queue of its own so that no other test's queue is touched."""
    done = setup("apply", namespace, "--image", image(), "--storage-size", "10Gi", "--cluster-queue", namespace, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def end_team(namespace: str) -> None:
    """The namespace gone, and the volumes of its claims free for the next."""
    setup("remove", namespace, "--delete-data", given=f"{namespace}\n")
    tried("delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s")
    for volume in json.loads(kubectl("get", "persistentvolumes", "--output", "json"))["items"]:
        claim = volume["spec"].get("claimRef", {})
        if claim.get("namespace") == namespace and volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
            kubectl("patch", "persistentvolume", volume["metadata"]["name"], "--patch", '{"spec": {"claimRef": null}}')


def pod(name: str, namespace: str, labels: dict, node: str = "") -> dict:
    """A pod that listens on PORTS, admitted under PodSecurity restricted."""
    container = {
        "name": "main",
        "image": image(),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/venv/bin/python", "-c", LISTEN],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],  # 443 and 53 as user 1000
        },
        "containers": [container],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def reached(namespace: str, name: str, targets: list[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the addresses and ports that answer a pod (or deploy/<name>)."""
    words = ["exec", "--namespace", namespace, name, "--", "/opt/venv/bin/python", "-c", TRY, json.dumps(targets)]
    return {(address, port) for address, port in json.loads(kubectl(*words))}


def eventually(probe: Callable[[], object], wanted: object, seconds: float = 30) -> None:
    """The probe gives what is wanted, at the latest after so many seconds; networks take a moment to learn a policy."""
    end = time.monotonic() + seconds
    while (found := probe()) != wanted and time.monotonic() < end:
        time.sleep(1)
    assert found == wanted, f"{found} instead of {wanted}"
