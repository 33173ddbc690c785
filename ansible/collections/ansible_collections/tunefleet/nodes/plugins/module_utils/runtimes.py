"""Which container runtime a node has, asked of the node. Python 3.8, standard library."""

from __future__ import annotations

import contextlib
import os
import socket

from ansible_collections.tunefleet.nodes.plugins.module_utils.containerd import Containerd, config_root
from ansible_collections.tunefleet.nodes.plugins.module_utils.docker import Docker
from ansible_collections.tunefleet.nodes.plugins.module_utils.storage import Storage
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import NodeError, find

SOCKETS = {
    "k3s": "/run/k3s/containerd/containerd.sock",
    "rke2": "/run/k3s/containerd/containerd.sock",
    "containerd": "/run/containerd/containerd.sock",
    "crio": "/var/run/crio/crio.sock",
    "docker": "/var/run/docker.sock",
}
PROGRAMS = {"k3s": "k3s", "rke2": "rke2", "containerd": "ctr", "crio": "crio", "docker": "docker", "podman": "podman"}
KINDS = tuple(PROGRAMS)


def find_runtime(wanted):
    """The runtime of this node, or the wanted kind. Raises NodeError when there is none, or it does not answer."""
    kind = wanted if wanted != "auto" else detect()
    check_socket(kind)
    if kind == "docker":
        return Docker(need("docker", kind))
    if kind in ("crio", "podman"):
        return Storage(kind, need("podman", kind))
    if kind == "containerd":
        root = config_root("/etc/containerd/config.toml", "/var/lib/containerd")
        return Containerd(kind, SOCKETS[kind], [need("ctr", kind)], root)
    # k3s carries ctr inside its one program; RKE2 unpacks it beside its data.
    ctr = [find("k3s"), "ctr"] if kind == "k3s" and find("k3s") else [need("ctr", kind)]
    return Containerd(kind, SOCKETS[kind], ctr, f"/var/lib/rancher/{kind}/agent/containerd")


def detect():
    """What the kubelet uses; without one, what is there."""
    endpoint = kubelet_endpoint()
    if endpoint:
        for kind, path in SOCKETS.items():
            # By the whole end of the path: containerd's own is also a part of k3s's. Some write /var/run for /run.
            if endpoint.split("://")[-1].replace("/var/run/", "/run/") == path.replace("/var/run/", "/run/"):
                return flavour(kind)
        if "dockerd" in endpoint:  # cri-dockerd stands between the kubelet and Docker
            return "docker"
        raise NodeError(
            f"the kubelet talks to a runtime at {endpoint}, which this does not know ({', '.join(KINDS)})",
            "set tunefleet_image_runtime in the inventory",
        )
    for kind in ("k3s", "crio"):
        if os.path.exists(SOCKETS[kind]):
            return flavour(kind)
    # Docker brings a containerd of its own: where both are and no kubelet, Docker is what people use.
    for kind in ("docker", "containerd"):
        if listens(SOCKETS[kind]):
            return kind
    silent = [kind for kind in ("docker", "containerd") if find(PROGRAMS[kind])]
    if silent:  # a client alone proves nothing: which of them is to be started, a person knows
        places = " and ".join(f"{kind} at {SOCKETS[kind]}" for kind in silent)
        raise NodeError(
            f"no container runtime answers (tried {places})",
            f"start it on the node (systemctl start {' or '.join(silent)})",
        )
    for kind in ("podman", "k3s", "rke2"):
        if find(PROGRAMS[kind]):
            return kind
    raise NodeError(
        "there is no container runtime this knows ({})".format(", ".join(KINDS)),
        "install one, or set tunefleet_image_runtime in the inventory",
    )


def flavour(kind):
    """k3s and RKE2 share a socket path; the data directory tells them apart."""
    if kind in ("k3s", "rke2"):
        return "rke2" if os.path.isdir("/var/lib/rancher/rke2") else "k3s"
    return kind


def kubelet_endpoint():
    """--container-runtime-endpoint of a running kubelet, '' where none runs or it does not say."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                words = line.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == "kubelet":
            return endpoint_in(words)
    return ""


def endpoint_in(words):
    """The endpoint in a kubelet's words: its flag, or what its file says, or the default on Linux."""
    given = {}
    for word, following in zip(words, [*words[1:], ""]):
        flag, equals, value = word.partition("=")
        given[flag] = value if equals else following
    found = given.get("--container-runtime-endpoint", "")
    with contextlib.suppress(OSError), open(given.get("--config", "")) as lines:
        for line in lines:
            if line.startswith("containerRuntimeEndpoint:"):
                found = found or line.split(":", 1)[1].strip().strip("\"'")
    return found or "unix:///run/containerd/containerd.sock"


def check_socket(kind):
    path = SOCKETS.get(kind)
    if path and not listens(path):
        raise NodeError(
            f"{kind} does not answer at {path}",
            f"start it on the node (systemctl start {kind}), or set tunefleet_image_runtime",
        )


def listens(path):
    if not os.path.exists(path):
        return False
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def need(program, kind):
    path = find(program)
    if not path:
        raise NodeError(f"{kind} is there, but not the program {program}", f"install {program} on the node")
    return path
