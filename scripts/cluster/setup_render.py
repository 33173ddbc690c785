"""Lays the options over k8s/ as a kustomization in build/cluster/setup/<namespace>, and lets kubectl render it."""

import json
import os
from pathlib import Path

import yaml

from scripts.cluster.kubectl import Cluster
from scripts.cluster.setup_options import (
    KEPT,
    amounts,
    blocks,
    components,
    endpoint,
    place_of_share,
    place_of_token,
    subjects,
)
from scripts.image_inputs import ROOT

K8S = ROOT / "k8s"
BUILD = ROOT / "build" / "cluster" / "setup"
LABELS = {"app.kubernetes.io/name": "tunefleet", "app.kubernetes.io/component": "setup"}
QUEUE_GROUPS = "queue_groups"  # beside the options: the resource groups of a queue that is there, as JSON
BINDINGS = ("tunefleet-preflight-finetune", "tunefleet-usage-finetune")  # in files; in a cluster with the team's name


def render(cluster: Cluster, options: dict[str, str], told: dict[str, str], image: str) -> list[dict]:
    """All objects that the options ask for; what a person told of them (`told`) is written on the namespace."""
    directory = BUILD / cluster.namespace
    chosen = components(options)
    write(directory, {"resources": ["cluster", "namespace"]})
    write(
        directory / "cluster",
        {
            "resources": [to(directory / "cluster", K8S / "cluster")],
            "components": parts(directory / "cluster", chosen, "cluster"),
            "labels": [{"pairs": LABELS}],
            "patches": cluster_patches(options, chosen),
        },
    )
    write(
        directory / "namespace",
        {
            "namespace": cluster.namespace,
            "resources": [to(directory / "namespace", K8S / "namespace")],
            "components": parts(directory / "namespace", chosen, "namespace"),
            "labels": [{"pairs": LABELS}],
            "patches": [keep(told), *namespace_patches(cluster.namespace, options, chosen, image)],
        },
    )
    return build(cluster, directory)


def render_source(cluster: Cluster, options: dict[str, str]) -> list[dict]:
    """The consent of the namespace that holds the hub's token."""
    namespace, secret, _ = place_of_token("--token-from", options["token_from"])
    directory = BUILD / cluster.namespace / "source"
    name = f"hub-token-{cluster.namespace}"
    patches = [
        patch("Role", "hub-token-finetune", ("/metadata/name", name), ("/rules/0/resourceNames", [secret])),
        patch("RoleBinding", "hub-token-finetune", ("/metadata/name", name), ("/roleRef/name", name),
              ("/subjects/0/namespace", cluster.namespace)),
    ]  # fmt: skip
    resources = [to(directory, K8S / "components" / "secret-external" / "source")]
    write(directory, {"namespace": namespace, "resources": resources, "patches": patches})
    return build(cluster, directory)


# ---- what options change ----


def patch(kind: str, name: str, *changes: tuple[str, object]) -> dict:
    """A JSON patch of one object: each change sets the value at a path, whether there was one or not."""
    operations = [{"op": "add", "path": path, "value": value} for path, value in changes]
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(operations)}


def each(base: str, values: dict[str, str]) -> list[tuple[str, str]]:
    """A change for each key of a map; a slash in a key is ~1 in a path."""
    return [(f"{base}/{key.replace('~', '~0').replace('/', '~1')}", value) for key, value in values.items()]


def cluster_patches(options: dict[str, str], chosen: list[str]) -> list[dict]:
    """What belongs to the whole cluster: the NFS share, the queue's name and quota."""
    patches = []
    if "nfs" in options:
        server, share = place_of_share("--nfs", options["nfs"])
        changes = [("/parameters/server", server), ("/parameters/share", share)]
        patches.append(patch("StorageClass", "tunefleet-nfs", *changes))
    if "kueue" in chosen:
        if QUEUE_GROUPS in options:
            groups = json.loads(options[QUEUE_GROUPS])
        else:
            quota = amounts("--queue-quota", options["queue_quota"])
            resources = [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]
            groups = [
                {"coveredResources": list(quota), "flavors": [{"name": "default-flavor", "resources": resources}]}
            ]
        changes = [("/metadata/name", options.get("cluster_queue", "finetune")), ("/spec/resourceGroups", groups)]
        patches.append(patch("ClusterQueue", "finetune", *changes))
    return patches


def keep(told: dict[str, str]) -> dict:
    """The options on the namespace, for the next setup and the next check."""
    return patch("Namespace", "finetune", ("/metadata/annotations", {KEPT: json.dumps(dict(sorted(told.items())))}))


def namespace_patches(namespace: str, options: dict[str, str], chosen: list[str], image: str) -> list[dict]:
    """What belongs to one team."""
    bindings = [name for name in BINDINGS if name != "tunefleet-usage-finetune" or "usage" in chosen]
    patches = [
        patch("ClusterRoleBinding", name, ("/metadata/name", f"{name.removesuffix('-finetune')}-{namespace}"))
        for name in bindings
    ]
    if image:
        patches.append(patch("Deployment", "data-access", ("/spec/template/spec/containers/0/image", image)))
    claim = [("/spec/storageClassName", options["storage_class"])] if "storage_class" in options else []
    if "storage_size" in options:
        claim.append(("/spec/resources/requests/storage", options["storage_size"]))
    if claim:
        patches.append(patch("PersistentVolumeClaim", "store", *claim))
    if "deployers" in options:
        who = ("/subjects", subjects("--deployers", options["deployers"]))
        patches.append(patch("RoleBinding", "deployer", who))
        patches += [patch("ClusterRoleBinding", name, who) for name in bindings]
    if "quota" in options:
        patches.append(patch("ResourceQuota", "finetune", *each("/spec/hard", amounts("--quota", options["quota"]))))
    if "default_requests" in options:
        values = amounts("--default-requests", options["default_requests"])
        patches.append(patch("LimitRange", "finetune", *each("/spec/limits/0/defaultRequest", values)))
    if "pull_secret" in options:
        patches.append(patch("ServiceAccount", "trainer", ("/imagePullSecrets", [{"name": options["pull_secret"]}])))
    if "kueue" in chosen and "cluster_queue" in options:
        patches.append(patch("LocalQueue", "finetune", ("/spec/clusterQueue", options["cluster_queue"])))
    return patches + network_patches(options) + token_patches(options)


def network_patches(options: dict[str, str]) -> list[dict]:
    """What else fetches and runs may reach."""
    patches = []
    if "dns" in options:
        places = [{"ipBlock": {"cidr": block}} for block in blocks("--dns", options["dns"])]
        patches.append(patch("NetworkPolicy", "dns", ("/spec/egress/0/to", places)))
    if "fetch_proxy" in options:
        patches.append(
            patch("NetworkPolicy", "fetch", ("/spec/egress", [rule("--fetch-proxy", options["fetch_proxy"])]))
        )
    if "fetch_mirror" in options:
        mirror = rule("--fetch-mirror", options["fetch_mirror"])
        patches.append(patch("NetworkPolicy", "fetch", ("/spec/egress/-", mirror)))
    for name in ("s3", "webhook"):
        if name in options:
            patches.append(patch("NetworkPolicy", name, ("/spec/egress", [rule(f"--{name}", options[name])])))
    return patches


def rule(name: str, value: str) -> dict:
    """One address and port, as a rule of egress."""
    place = endpoint(name, value)
    return {"to": [{"ipBlock": {"cidr": place["cidr"]}}], "ports": [{"protocol": "TCP", "port": place["port"]}]}


def token_patches(options: dict[str, str]) -> list[dict]:
    """Where the hub's token lies."""
    if "token_from" not in options:
        return []
    namespace, secret, key = place_of_token("--token-from", options["token_from"])
    store = [("/spec/provider/kubernetes/remoteNamespace", namespace)]
    if "token_server" in options:
        store.append(("/spec/provider/kubernetes/server/url", options["token_server"]))
    reference = ("/spec/data/0/remoteRef", {"key": secret, "property": key})
    return [patch("SecretStore", "hub-token", *store), patch("ExternalSecret", "hub-token", reference)]


# ---- files ----


def parts(directory: Path, chosen: list[str], half: str) -> list[str]:
    """The components' halves for the cluster or for the namespace, where they have one."""
    places = [K8S / "components" / name / half for name in chosen]
    return [to(directory, place) for place in places if place.is_dir()]


def to(directory: Path, place: Path) -> str:
    """A way from one directory to another; Kustomize takes no other."""
    return os.path.relpath(place, directory)


def write(directory: Path, content: dict) -> None:
    """A kustomization, complete or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    partial = directory / ".kustomization.yaml.partial"
    partial.write_text(yaml.safe_dump(head | content, sort_keys=False, width=120))
    partial.rename(directory / "kustomization.yaml")


def build(cluster: Cluster, directory: Path) -> list[dict]:
    """The objects of a kustomization, as kubectl renders them."""
    return list(yaml.safe_load_all(cluster.run("kustomize", str(directory))))
