"""Serve a model on the cluster, say what is served, and end it: `make serve ON=cluster`, `serve-status`, `unserve`.

    python -m scripts.cluster.serve up --run NAME [--with serve-vllm] [--place KEY=VALUE …]
    python -m scripts.cluster.serve status [--json]
    python -m scripts.cluster.serve down --run NAME

All may be repeated. Exit status of up: 0 it is ready; 1 it cannot start, or the cluster refused; 2 bad input; 130 the
view was closed, and it goes on starting.
"""

import argparse
import json
import sys
import time
from typing import Any

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import NAMESPACE
from scripts.cluster.pods import age, endings, is_stuck, why_waits
from scripts.cluster.serve_plan import MODEL, Plan, make_plan, slug_of
from scripts.cluster.store_client import is_absent, no_data_access
from train.errors import InputError, problem, run_program

LABEL = "tunefleet.io/serve"
KINDS = "deployments.apps,services,networkpolicies.networking.k8s.io"
SECONDS_BETWEEN_LOOKS, SECONDS_STUCK, SECONDS_TO_GO = 2.0, 30.0, 120


def main() -> int:
    arguments = parse_arguments()
    cluster = Cluster(arguments.context, arguments.namespace)
    try:
        if arguments.what == "up":
            return up(cluster, arguments)
        if arguments.what == "down":
            return down(cluster, slug_of(arguments))
        return status(cluster, slug_of(arguments) if arguments.run or arguments.model else "", arguments.json)
    except Refused as refused:
        if f'namespaces "{cluster.namespace}" not found' in str(refused):
            fix = f"make cluster-setup NAMESPACE={cluster.namespace}, or name another: NAMESPACE="
            raise InputError(problem("NAMESPACE", cluster.namespace, "is not on the cluster", fix)) from refused
        if is_absent(refused):
            raise no_data_access(cluster, refused) from refused
        print(f"failed: {refused}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "status", "down"))
    parser.add_argument("--run", default="", help="name of a run on the store")
    parser.add_argument("--model", default="", help="instead of a run: a model of the store")
    parser.add_argument(
        "--overlay", default="", help="use case whose image and bucket are taken; default: the run's own"
    )
    parser.add_argument("--with", nargs="*", default=[], dest="more", metavar="WHAT",
                        help="serve-transformers (CPUs, default) or serve-vllm (GPUs)")  # fmt: skip
    parser.add_argument("--place", nargs="*", default=[], metavar="KEY=VALUE",
                        help="image, serverImage, resources.…, nodeSelector.…, nodeTaint, s3.…")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="status for a program")
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    return parser.parse_args()


# ---- up ----


def up(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Make or change what serves it, and follow it until it is ready."""
    plan = make_plan(cluster, arguments)
    said = cluster.run("apply", "-f", "-", given=cluster.run("kustomize", str(plan.directory)))
    changed = [line for line in said.splitlines() if not line.endswith(" unchanged")]
    print("\n".join(changed) or f"serve-{plan.slug}: as it was")
    print(f"waiting until {plan.name} is loaded; Ctrl-C ends the view, not the server", flush=True)
    try:
        return follow(cluster, plan)
    except KeyboardInterrupt:
        print("\nthe view is closed, it goes on starting: make serve-status")
        return 130


def follow(cluster: Cluster, plan: Plan) -> int:
    """Say what holds it back, until it is ready or cannot become so."""
    told, stuck_since = "", None
    while True:
        deployment = cluster.get("deployment", f"serve-{plan.slug}")
        if deployment is None:
            print(f"failed: serve-{plan.slug} was taken away", file=sys.stderr)
            return 1
        pods = pods_of(cluster, plan.slug)
        state, reason = state_of(deployment, pods, cluster.list("events"))
        if state == "ready":
            print(ready(cluster, plan))
            return 0
        if reason and reason != told:
            print(reason, flush=True)
            told = reason
        stuck_since = (stuck_since or time.monotonic()) if is_lost(pods) else None
        if stuck_since and time.monotonic() - stuck_since > SECONDS_STUCK:
            logs = f"kubectl -n {cluster.namespace} logs deployment/serve-{plan.slug} --all-containers"
            print(f"failed: {reason or 'its pod does not start'}", file=sys.stderr)
            print(f"next:   {logs}; make unserve takes it away", file=sys.stderr)
            return 1
        time.sleep(SECONDS_BETWEEN_LOOKS)


def is_lost(pods: list[dict]) -> bool:
    """Whether a pod will not start without somebody's help: no image, or it ended twice by itself."""
    return any(is_stuck(pod) or len(endings([pod])) > 1 for pod in pods)


def ready(cluster: Cluster, plan: Plan) -> str:
    """How to use it."""
    which = f"MODEL={plan.name}" if plan.slug != plan.name else f"RUN={plan.name}"
    place = "" if cluster.namespace == NAMESPACE else f" NAMESPACE={cluster.namespace}"
    address = f"http://serve-{plan.slug}.{cluster.namespace}:8000/v1"
    lines = [f"ready: {plan.name} at {address}, for pods labelled tunefleet.io/chat=allowed"]
    lines.append(f"       make chat ON=cluster {which}{place}")
    if plan.asked.get("frame", ["", ""]) != ["", ""] or plan.asked.get("system"):
        lines.append(
            "vLLM does not know the prompt that this run was trained with; make chat adds it (docs/serving.md)"
        )
    return "\n".join(lines)


# ---- status ----


def pods_of(cluster: Cluster, slug: str) -> list[dict]:
    """The pods that serve it."""
    return cluster.list("pods", f"{LABEL}={slug}")


def state_of(deployment: dict, pods: list[dict], events: list[dict]) -> tuple[str, str]:
    """ready, loading, pending or failing, and why it is not ready."""
    there = deployment.get("status", {})
    current = there.get("observedGeneration") == deployment["metadata"].get("generation")
    if current and there.get("readyReplicas") and there.get("updatedReplicas"):
        return "ready", ""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if not alive:
        said = [one["message"] for one in there.get("conditions", []) if one["type"] == "ReplicaFailure"]
        return "pending", said[0] if said else ""
    ended = endings(alive)
    reason = why_waits(alive[0], events)
    if ended:
        return "failing", f"its container {ended[-1].cause}" + (f"; {reason}" if reason else "")
    running = any("running" in one["state"] for one in alive[0]["status"].get("containerStatuses", []))
    return ("loading", "") if running else ("pending", reason)


def status(cluster: Cluster, slug: str, as_json: bool) -> int:
    """What is served, as a table or for a program."""
    found = cluster.list("deployments.apps", f"{LABEL}={slug}" if slug else LABEL)
    events = cluster.list("events") if found else []
    entries: list[dict[str, Any]] = []
    for one in found:
        name = one["metadata"]["labels"][LABEL]
        state, reason = state_of(one, pods_of(cluster, name), events)
        image = one["spec"]["template"]["spec"]["containers"][0]["image"]
        entries.append({
            "name": name, "model": one["metadata"].get("annotations", {}).get(MODEL, name), "state": state,
            "reason": reason, "image": image, "seconds": round(age(one["metadata"]["creationTimestamp"])),
            "address": f"http://serve-{name}.{cluster.namespace}:8000/v1",
        })  # fmt: skip
    if as_json:
        print(json.dumps(entries))
    elif not entries:
        print(f"nothing is served in namespace {cluster.namespace}; make serve ON=cluster RUN=… serves a run")
    for one in [] if as_json else entries:
        since = f"{one['seconds'] // 3600} h {one['seconds'] % 3600 // 60} min"
        print(f"{one['model']:32} {one['state']:8} {since:>12}  {one['address']}  {one['image']}")
        if one["reason"]:
            print(f"  {one['reason']}")
    return 0


# ---- down ----


def down(cluster: Cluster, slug: str) -> int:
    """Take it away, and wait until its pods are gone; nothing is said to be wrong where there is nothing."""
    words = ["--selector", f"{LABEL}={slug}", "--ignore-not-found", "--wait=true", f"--timeout={SECONDS_TO_GO}s"]
    said = cluster.run("delete", KINDS, *words, "--cascade=foreground", seconds=SECONDS_TO_GO + 30)
    gone = [line for line in said.splitlines() if " deleted" in line]
    print("\n".join(gone) or f"nothing serves {slug} in namespace {cluster.namespace}")
    return 0


if __name__ == "__main__":
    run_program(main)
