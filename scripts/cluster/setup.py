"""Makes a team's namespace ready, once: store, rights, limits, closed network, queue, a pod with access to the store.

    python -m scripts.cluster.setup apply --namespace finetune --storage-class shared
    python -m scripts.cluster.setup check --namespace finetune --probe
    python -m scripts.cluster.setup remove --namespace finetune

`apply` may be repeated; what it was told is kept on the namespace and need not be told again. `check` changes nothing.
`remove` leaves the store and the namespace unless --delete-data is said and the namespace's name is typed. Exit status:
0 done, or all as wanted; 1 something failed, is missing or differs; 2 bad input. docs/cluster-setup.md
"""

import argparse
import json
import sys

from scripts.cluster import overlay
from scripts.cluster.checks.quantity import Resources, number, numbers, total
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import DATA_ACCESS, NAMESPACE
from scripts.cluster.overlay import read_json
from scripts.cluster.setup_options import add_options, check_claim, check_namespace, components, merge, place_of_token
from scripts.cluster.setup_remove import delete, no_longer_wanted, remove
from scripts.cluster.setup_render import QUEUE_GROUPS, render, render_source
from scripts.cluster.setup_state import deviations, name_of, read, settled, surplus
from scripts.cluster.setup_wait import probe_network, wait_for_store
from train.errors import InputError, problem, run_program

MANAGER = "tunefleet-setup"
# component: a kind that has to be there, and the operator that brings it
NEEDS = {
    "kueue": ("clusterqueues.kueue.x-k8s.io", "kueue"),
    "secret-external": ("externalsecrets.external-secrets.io", "secrets"),
}
QUEUED = ("cpu", "memory", "pods", "ephemeral-storage", "nvidia.com/gpu", "amd.com/gpu")


def main() -> int:
    arguments = parse_arguments()
    cluster = Cluster(arguments.context, arguments.namespace)
    try:
        if arguments.what == "remove":
            return remove(cluster, arguments.delete_data)
        namespace = cluster.get("namespace", cluster.namespace)
        told = merge(arguments, namespace)
        options = complete(cluster, told)
        if arguments.what == "check":
            return check(cluster, arguments, options, told)
        check_namespace(cluster, namespace, arguments.adopt)
        check_claim(options, cluster.get("persistentvolumeclaim", "store") if namespace else None)
        return apply(cluster, arguments, options, told)
    except Refused as refused:
        print(f"failed: {refused}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("apply", "check", "remove"))
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    parser.add_argument(
        "--image", default="", help="image of data-access; default: the last one pushed, or what it has"
    )
    parser.add_argument("--wait", type=int, default=180, metavar="SECONDS", help="for the store; 0: do not wait")
    parser.add_argument("--adopt", action="store_true", help="take over a namespace that others made and use")
    parser.add_argument("--probe", action="store_true", help="check: try from data-access what must be closed")
    parser.add_argument("--delete-data", action="store_true", help="remove: the store and the namespace too; asks")
    add_options(parser)
    return parser.parse_args()


def complete(cluster: Cluster, options: dict[str, str]) -> dict[str, str]:
    """The options with what the cluster decides: components that it can have, and the queue's quota."""
    chosen = components(options)
    for component, (crd, operator) in NEEDS.items():
        if component in chosen and cluster.get("customresourcedefinition", crd) is None:
            fix = f"make operators WITH={operator}, then this again"
            if component in options.get("components", "").split() or component == "secret-external":
                raise InputError(problem("--components", component, f"the cluster has no {crd}", fix))
            print(f"skipped   component {component}: the cluster has no {crd} ({fix})")
            options = options | {"components": " ".join(one for one in chosen if one != component) or "none"}
    if "kueue" in components(options) and "queue_quota" not in options:
        options = options | quota_of_queue(cluster, options.get("cluster_queue", "finetune"))
    return options


def quota_of_queue(cluster: Cluster, queue: str) -> dict[str, str]:
    """The quota that the queue has, in all its flavours, or for a new one what the nodes have."""
    live = cluster.get("clusterqueue", queue)
    if live and live["spec"].get("resourceGroups"):
        return {QUEUE_GROUPS: json.dumps(live["spec"]["resourceGroups"])}
    nodes = [node for node in cluster.list("nodes") if takes_runs(node)]
    sums: Resources = total(numbers(node["status"].get("allocatable")) for node in nodes)
    return {"queue_quota": " ".join(f"{name}={whole(name, sums)}" for name in QUEUED)}


def takes_runs(node: dict) -> bool:
    """Whether runs may land on a node: not cordoned, and not a control plane's. GPU nodes have taints of their own."""
    keys = [taint["key"] for taint in node["spec"].get("taints", []) if taint["effect"] != "PreferNoSchedule"]
    return not node["spec"].get("unschedulable") and not any(key.startswith("node-role.") for key in keys)


def whole(name: str, sums: Resources) -> str:
    """An amount as a whole number: bytes in Gi."""
    amount = sums.get(name, number("0"))
    return f"{int(amount / 2**30)}Gi" if name in ("memory", "ephemeral-storage") else str(int(amount))


def choose_image(cluster: Cluster, arguments: argparse.Namespace) -> str:
    """The image for data-access: as told; as built, if that was pushed or nothing runs there; else as it is.

    A check takes any that it has.
    """
    if arguments.image:
        return arguments.image
    built, pushed = built_here()
    live = cluster.get("deployment", DATA_ACCESS)
    running = live["spec"]["template"]["spec"]["containers"][0]["image"] if live else ""
    image = built if pushed and arguments.what == "apply" else running or built
    if not image and arguments.what == "apply":
        fix = "make image push, or --image <one of tunefleet that the nodes have or can pull>"
        raise InputError(problem("--image", "", "no image for data-access: none was built here", fix))
    return image


def built_here() -> tuple[str, bool]:
    """The image that was built here, empty if none was, and whether that one was pushed to a registry or to nodes."""
    built, pushed = (read_json(overlay.ROOT / "build" / name) for name in ("image.json", "push.json"))
    if not built:
        return "", False
    name = overlay.built_image(f"tunefleet:{built['target']}-{overlay.NOT_BUILT}")
    return name, bool(pushed) and pushed.get("digest") == built["digest"]


# ---- apply ----


def apply(cluster: Cluster, arguments: argparse.Namespace, options: dict[str, str], told: dict[str, str]) -> int:
    """Bring everything to what is wanted, say for each object what happened, and wait until the store can be used."""
    things = render(cluster, options, told, choose_image(cluster, arguments))
    problems = bring(cluster, things)
    delete(cluster, no_longer_wanted(cluster, things))
    if "token_from" in options:
        owner = Cluster(cluster.context, place_of_token("--token-from", options["token_from"])[0])
        problems += bring(owner, render_source(cluster, options))
    for text in problems:
        print(f"failed: {text}", file=sys.stderr)
    if problems:
        return 1
    return wait_for_store(cluster, arguments.wait) if arguments.wait else 0


def bring(cluster: Cluster, things: list[dict]) -> list[str]:
    """Apply these objects; the cluster's refusals."""
    before = read(cluster, things)
    problems = []
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    words = ("apply", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "--filename", "-")
    try:
        cluster.run(*words, given=given, seconds=180)
        if len(read(cluster, things)) < len(things):
            cluster.run(*words, given=given, seconds=180)  # the last team left just now, and took what all share
        for thing in things:
            more = surplus(thing, before.get(name_of(thing), {}))
            if more:
                cluster.run(
                    "patch", thing["kind"], thing["metadata"]["name"], "--type=merge", "--patch", json.dumps(more)
                )
    except Refused as refused:
        problems = str(refused).splitlines()
    after = read(cluster, things)
    for thing in things:
        name = name_of(thing)
        old, new = before.get(name), after.get(name)
        if new is None:
            print(f"missing   {name}")
        elif old is None:
            print(f"created   {name}")
        elif settled(old) == settled(new):
            print(f"unchanged {name}")
        else:
            changes = deviations(thing, old)
            print(f"changed   {name}" + (f": {'; '.join(changes)}" if changes else ""))
    return problems


# ---- check ----


def check(cluster: Cluster, arguments: argparse.Namespace, options: dict[str, str], told: dict[str, str]) -> int:
    """Say of each object whether it is as wanted; changes nothing."""
    things = render(cluster, options, told, choose_image(cluster, arguments))
    wrong = compare(cluster, things)
    for thing in no_longer_wanted(cluster, things):
        print(f"differs   {name_of(thing)}: is there and is not wanted any more")
        wrong += 1
    if "token_from" in options:
        owner = Cluster(cluster.context, place_of_token("--token-from", options["token_from"])[0])
        wrong += compare(owner, render_source(cluster, options))
    ours = {thing["metadata"]["name"] for thing in things if thing["kind"] == "NetworkPolicy"}
    for policy in cluster.list("networkpolicies", "!tunefleet.io/run,!tunefleet.io/serve"):
        if policy["metadata"]["name"] not in ours:
            name = name_of(policy | {"kind": "NetworkPolicy"})
            print(f"further   {name}: not ours, may open more than docs/network.md says")
    if arguments.probe:
        wrong += probe_network(cluster)
    else:
        print("unknown   whether NetworkPolicies are enforced: --probe tries from data-access what must be closed")
    print("all as wanted" if not wrong else f"{wrong} not as wanted; make cluster-setup mends it")
    return 1 if wrong else 0


def compare(cluster: Cluster, things: list[dict]) -> int:
    """One line for each object; how many are not as wanted."""
    live = read(cluster, things)
    wrong = 0
    for thing in things:
        name = name_of(thing)
        found = deviations(thing, live[name]) if name in live else []
        if name not in live:
            print(f"missing   {name}")
        elif found:
            print(f"differs   {name}: {'; '.join(found)}")
        else:
            print(f"as wanted {name}")
        wrong += name not in live or bool(found)
    return wrong


if __name__ == "__main__":
    run_program(main)
