"""What `make cluster-setup` may be told, checked, and kept on the namespace so that it is told only once."""

import argparse
import ipaddress
import json
import re

from scripts.cluster.checks.quantity import number
from scripts.cluster.kubectl import Cluster
from scripts.image_inputs import ROOT
from train.errors import InputError, attempt, problem

COMPONENTS = ROOT / "k8s" / "components"
KEPT = "tunefleet.io/setup"  # annotation of the namespace: the options of the last setup, as JSON
NONE = "none"  # as a value: take back what an earlier setup was told

# option: (metavar, sentence). All are kept on the namespace.
OPTIONS = {
    "storage_class": ("NAME", "storage class of the store; default: the cluster's"),
    "storage_size": ("SIZE", "size of the store; default: 500Gi"),
    "components": ("NAMES", "of k8s/components; default: 'usage kueue', kueue where it is installed"),
    "deployers": ("WHO", "'group:ml user:anna serviceaccount:ci/deploy'; default: group:tunefleet-deployers"),
    "quota": ("AMOUNTS", "further lines of the quota: 'requests.cpu=512 requests.memory=2Ti'"),
    "default_requests": ("AMOUNTS", "requests of containers that state none; default: 'cpu=100m memory=128Mi'"),
    "cluster_queue": ("NAME", "Kueue's ClusterQueue; teams may share one; default: finetune"),
    "queue_quota": ("AMOUNTS", "what it may hold: 'cpu=512 nvidia.com/gpu=32'; default: what the nodes have at first"),
    "nfs": ("SERVER:/SHARE", "the store on an NFS server, by csi-driver-nfs"),
    "dns": ("ADDRESSES", "the cluster's DNS, behind its service too; default: any private address on port 53"),
    "s3": ("ADDRESS:PORT", "S3 endpoint that runs and fetches may reach; an address or a range"),
    "fetch_proxy": ("ADDRESS:PORT", "HTTPS proxy: fetches reach it and nothing else"),
    "fetch_mirror": ("ADDRESS:PORT", "mirror of the hub inside: fetches reach it too"),
    "webhook": ("ADDRESS:PORT", "server inside, or proxy, that runs may tell their end to (component webhook)"),
    "pull_secret": ("NAME", "Secret with the registry's login, of all pods that are the service account trainer"),
    "token_from": ("NAMESPACE/SECRET/KEY", "the hub's token, brought by External Secrets"),
    "token_server": ("URL", "where External Secrets finds the API; default: https://kubernetes.default.svc"),
}  # fmt: skip
LISTS = ("components", "deployers", "quota", "default_requests", "queue_quota", "dns")
IMPLIED = {
    "nfs": "nfs",
    "s3": "s3",
    "webhook": "webhook",
    "token_from": "secret-external",
}  # option: the component that it needs


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a setup, on the command line."""
    for name, (metavar, sentence) in OPTIONS.items():
        # Lists may come as several words, as make hands them over, or as one.
        parser.add_argument(flag(name), nargs="+" if name in LISTS else 1, default=[], metavar=metavar, help=sentence)


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def merge(given: argparse.Namespace, namespace: dict | None) -> dict[str, str]:
    """What is given now, else what an earlier setup was given. Raises InputError with all that is wrong."""
    kept = json.loads(((namespace or {}).get("metadata", {}).get("annotations") or {}).get(KEPT, "{}"))
    wanted = {name: " ".join(getattr(given, name)).strip() or kept.get(name, "") for name in OPTIONS}
    wanted = {name: value for name, value in wanted.items() if value and (value != NONE or name == "components")}
    problems: list[str] = []
    for name, value in wanted.items():
        if name in CHECKS:
            attempt(problems, CHECKS[name], flag(name), value)
    if problems:
        raise InputError(problems)
    return wanted


def components(options: dict[str, str]) -> list[str]:
    """The components to apply: those named, or the usual ones, and those that other options need."""
    named = options.get("components", "usage kueue").split()
    implied = [component for name, component in IMPLIED.items() if name in options]
    return [one for one in dict.fromkeys(named + implied) if one != NONE]


# ---- values ----


def amounts(name: str, value: str) -> dict[str, str]:
    """`cpu=64 memory=256Gi` as a map; every amount is a quantity."""
    found, problems = {}, []
    for word in value.split():
        key, equals, amount = word.partition("=")
        try:
            number(amount)
            found[key] = amount
        except ValueError:
            what = "is no quantity" if equals else "has no amount"
            problems.append(problem(name, word, what, "resource=amount, as in cpu=64 or memory=256Gi"))
    if problems:
        raise InputError(problems)
    return found


def endpoint(name: str, value: str) -> dict:
    """`10.1.2.3:3128` as what a NetworkPolicy says of it: a block and a port."""
    host, _, port = value.rpartition(":")
    try:
        block = ipaddress.ip_network(host.strip("[]"))
        return {"cidr": str(block), "port": int(port)}
    except ValueError:
        fix = "address:port, as in 10.1.2.3:3128, 0.0.0.0/0:443 or [fd00::3]:443; a NetworkPolicy knows no host names"
        raise InputError(problem(name, value, "is no address with a port", fix)) from None


def blocks(name: str, value: str) -> list[str]:
    """`10.96.0.10 10.0.0.0/28` as blocks."""
    found, problems = [], []
    for word in value.split():
        try:
            found.append(str(ipaddress.ip_network(word)))
        except ValueError:
            problems.append(problem(name, word, "is no address or range", "as in 10.96.0.10 or 10.0.0.0/28"))
    if problems:
        raise InputError(problems)
    return found


def subjects(name: str, value: str) -> list[dict]:
    """`group:ml user:anna serviceaccount:ci/deploy` as the subjects of a binding."""
    found, problems = [], []
    for word in value.split():
        kind, _, who = word.partition(":")
        namespace, _, account = who.partition("/")
        if kind in ("user", "group") and who:
            found.append({"kind": kind.title(), "apiGroup": "rbac.authorization.k8s.io", "name": who})
        elif kind == "serviceaccount" and account:
            found.append({"kind": "ServiceAccount", "namespace": namespace, "name": account})
        else:
            fix = "user:<name>, group:<name> or serviceaccount:<namespace>/<name>"
            problems.append(problem(name, word, "names nobody", fix))
    if problems:
        raise InputError(problems)
    return found


def place_of_token(name: str, value: str) -> tuple[str, str, str]:
    """`secrets/hub/token` as namespace, Secret and key."""
    parts = value.split("/")
    if len(parts) != 3 or not all(parts):
        raise InputError(
            problem(name, value, "is no place of a token", "namespace/secret/key, as in secrets/hub/token")
        )
    return parts[0], parts[1], parts[2]


def place_of_share(name: str, value: str) -> tuple[str, str]:
    """`nfs.example.org:/export` as server and share."""
    server, _, share = value.partition(":")
    if not server or not share.startswith("/"):
        raise InputError(problem(name, value, "is no NFS share", "server:/path, as in nfs.example.org:/export/models"))
    return server, share


def known_components(name: str, value: str) -> None:
    """Every word is a directory of k8s/components."""
    known = sorted(path.name for path in COMPONENTS.iterdir() if path.is_dir())
    needs = {component: option for option, component in IMPLIED.items()}
    problems = []
    for word in value.split():
        if word in needs:
            problems.append(problem(name, word, "needs its value", f"{flag(needs[word])} brings it by itself"))
        elif word not in (*known, NONE):
            problems.append(problem(name, word, "is no component", f"one of {', '.join(known)}, or {NONE}"))
    if problems:
        raise InputError(problems)


def size(name: str, value: str) -> None:
    """A quantity with a unit of bytes."""
    if not re.fullmatch(r"[0-9.]+[KMGTP]i?", value):
        raise InputError(problem(name, value, "is no size", "as in 500Gi or 2Ti"))


CHECKS = {
    "storage_size": size,
    "components": known_components,
    "deployers": subjects,
    "quota": amounts,
    "default_requests": amounts,
    "queue_quota": amounts,
    "nfs": place_of_share,
    "dns": blocks,
    "s3": endpoint,
    "fetch_proxy": endpoint,
    "fetch_mirror": endpoint,
    "webhook": endpoint,
    "token_from": place_of_token,
}


# ---- what the cluster has to say to it ----


def check_namespace(cluster: Cluster, namespace: dict | None, adopt: bool) -> None:
    """A namespace of somebody else is not closed by accident, and one that is going is not filled."""
    if namespace and "deletionTimestamp" in namespace["metadata"]:
        fix = "wait until it is gone, and run the same command again"
        raise InputError(problem("NAMESPACE", cluster.namespace, "is being deleted", fix))
    labels = (namespace or {}).get("metadata", {}).get("labels") or {}
    if namespace is None or adopt or labels.get("app.kubernetes.io/name") == "tunefleet":
        return
    pods = cluster.list("pods")
    if pods or cluster.namespace.startswith("kube-") or cluster.namespace == "default":
        what = f"is there, is not tunefleet's and has {len(pods)} pods, whose network and rights would be closed"
        raise InputError(problem("NAMESPACE", cluster.namespace, what, "another name; or --adopt if that is meant"))


def check_claim(options: dict[str, str], claim: dict | None) -> None:
    """What cannot be changed of a claim that is there is said before anything is applied."""
    if claim is None:
        return
    problems = []
    has = claim["spec"].get("storageClassName", "")
    wanted = "tunefleet-nfs" if "nfs" in options else options.get("storage_class", has)
    if wanted != has:
        fix = f"leave it at {has}; or copy the data away, remove it with --delete-data, and set up again"
        problems.append(problem("STORAGE_CLASS", wanted, f"the store is of class {has}, which stays for life", fix))
    asked = claim["spec"]["resources"]["requests"]["storage"]
    if "storage_size" in options and number(options["storage_size"]) < number(asked):
        what = f"the store has {asked} already, and a claim never shrinks"
        problems.append(problem("STORAGE_SIZE", options["storage_size"], what, f"{asked} or more"))
    if problems:
        raise InputError(problems)
