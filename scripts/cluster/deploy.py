"""Render a run, compare it with the cluster, start it, take it away.

    python -m scripts.cluster.deploy render --overlay medical
    python -m scripts.cluster.deploy diff|deploy|undeploy --overlay medical

deploy may be called any number of times: the same recipe and placement show or resume the same run, another one is a
new run beside it. undeploy leaves everything on the store. Exit status: 0 done, 1 the cluster refused, 2 bad input.
"""

import argparse
import subprocess
import sys
import time

import yaml

from scripts.cluster.bucket import files_of
from scripts.cluster.checks.answers import FAILED
from scripts.cluster.checks.everything import check
from scripts.cluster.checks.reach import tell_refused
from scripts.cluster.jobs import Job, find_runs
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import IDENTITY, RUN, RUNTIMES
from scripts.cluster.overlay import Plan, add_run_options, find_overlay, make_plan, render, render_text
from train.errors import InputError, problem, run_program

MANAGER = "tunefleet"
TRIES = 5
SECONDS_BETWEEN_WORDS = 30.0
SECONDS_MORE = 60  # than its pods' grace, until a run counts as one that does not go
RUNTIME_OF_TRAINJOBS = "trainingruntimes.trainer.kubeflow.org"
PODMONITORS = "podmonitors.monitoring.coreos.com"
# What undeploy takes away when the pods are gone; the jobs of the four kinds before, as far as the cluster knows them.
BESIDE = ("services", "networkpolicies.networking.k8s.io", "configmaps")


def main() -> int:
    arguments = parse_arguments()
    if arguments.what == "undeploy":
        return undeploy(arguments)
    plan = make_plan(arguments)
    try:
        if arguments.what == "render":
            print(render_text(plan), end="")
            return 0
        return diff(plan) if arguments.what == "diff" else deploy(plan, arguments.force)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        print("  fix: make preflight says what the cluster lacks", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("render", "diff", "deploy", "undeploy"))
    add_run_options(parser)
    parser.add_argument("--force", action="store_true", help="deploy although a check failed")
    return parser.parse_args()


def diff(plan: Plan) -> int:
    """What deploy would change on the cluster, as kubectl shows it; nothing is changed."""
    command = plan.cluster.command("diff", "--server-side", "--field-manager", MANAGER, "-f", "-")
    done = subprocess.run(command, input=render_text(plan), text=True, check=False)
    if done.returncode == 0:
        print(f"{plan.run}: the cluster has it just so")
    return 0 if done.returncode in (0, 1) else 1


# ---- deploy ----


def deploy(plan: Plan, force: bool) -> int:
    """Start the run, or show that it is there; returns the exit status."""
    found = find_runs(plan.cluster, run=plan.run)
    if found and found[0].state == "deleting":
        print(f"error: {plan.run}: is being deleted, and saves a checkpoint; nothing was started", file=sys.stderr)
        print(f"  fix: wait until make status RUN={plan.run} knows it no more, then this again", file=sys.stderr)
        return 1
    if found and not may_start(plan, found[0]):
        return 0
    objects = render(plan)
    if not force and not checks_pass(plan, objects):
        return 1
    if found:
        print(f"{plan.run}: {found[0].state} ({found[0].reason}); started again, it goes on from its last checkpoint")
        take_away(plan.cluster, plan.run)
    kind = apply(plan, objects)
    nodes, processes = plan.placement["nodes"], plan.placement["processesPerNode"]
    print(f"{plan.run}: {kind} with {nodes} x {processes} processes, image {plan.placement['image']}")
    print(f"  follow it:  make watch RUN={plan.run}")
    print(f"  its files:  {files_of(plan.run, objects)}")
    return 0


def apply(plan: Plan, objects: list[dict]) -> str:
    """Bring the run's objects to the cluster, the job last; returns its kind."""
    kind = RUNTIMES[plan.runtime][0]
    jobs = [one for one in objects if one["kind"] == kind]
    for some in ([one for one in objects if one not in jobs], jobs):
        tries = TRIES
        while True:
            try:
                words = ("apply", "--server-side", "--field-manager", MANAGER, "-f", "-")
                print(plan.cluster.run(*words, given=yaml.safe_dump_all(some)), end="")
                break
            except Refused as refused:
                # Webhooks know what was made a moment ago (a TrainJob's runtime) only after a moment.
                tries -= 1
                if "not found" not in str(refused) or not tries:
                    raise
                time.sleep(1)
    return kind


def may_start(plan: Plan, job: Job) -> bool:
    """Whether a run of this name has to be started again; False where it is there. Raises InputError: it is another."""
    annotations = job.object["metadata"].get("annotations", {})
    same = annotations.get(IDENTITY) == plan.identity
    if job.ended and same:
        if job.state == "failed":
            return True
        print(f"{plan.run}: complete; make results RUN={plan.run} fetches what it learned")
        return False
    if same:
        print(
            f"{plan.run}: is {job.state} already{f' ({job.reason})' if job.reason else ''}; make watch RUN={plan.run}"
        )
        return False
    what = f"is the name of another run, which is {job.state}: its recipe or placement differ from this command's"
    fix = f"leave RUN out, choose another, or take the other away: make undeploy RUN={plan.run}"
    raise InputError(problem("RUN", plan.run, what, fix))


def checks_pass(plan: Plan, objects: list[dict]) -> bool:
    """Ask all that preflight asks; prints what failed. Unknown answers stop nothing."""
    failed = [answer for answer in check(plan, objects) if answer.status == FAILED]
    for answer in failed:
        print(answer, file=sys.stderr)
    if failed:
        count = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
        print(f"{plan.run}: not deployed, {count} failed; FORCE=1 deploys all the same", file=sys.stderr)
    return not failed


# ---- undeploy ----


def undeploy(arguments: argparse.Namespace) -> int:
    """Take a run off the cluster; a running one is asked to leave, and leaves a checkpoint. Returns the exit status."""
    cluster = Cluster(arguments.context, arguments.namespace)
    if not arguments.run:
        find_overlay(arguments.overlay)
    try:
        found = find_runs(cluster, overlay="" if arguments.run else arguments.overlay, run=arguments.run)
        if len(found) > 1:
            names = ", ".join(job.name for job in found)
            raise InputError(problem("OVERLAY", arguments.overlay, f"has {len(found)} runs: {names}", "RUN=name"))
        if not found:
            # A run that was cut in the middle of deploy may have everything but its job.
            if arguments.run:
                take_away(cluster, arguments.run)
            print(f"{arguments.run or arguments.overlay}: nothing of it on the cluster (namespace {cluster.namespace})")
            return 0
        files = files_of(found[0].name, [found[0].object, *found[0].pods])
        take_away(cluster, found[0].name)
    except Refused as refused:
        return tell_refused(refused, "make status shows what is left; the same command goes on")
    print(f"{found[0].name}: taken off the cluster; its files stay: {files}")
    return 0


def take_away(cluster: Cluster, run: str) -> None:
    """Delete the objects of a run: its job, and when the pods are gone what they needed to save and to leave."""
    served = set(cluster.run("api-resources", "--namespaced", "--output", "name").split())
    kinds = [f"{plural}.{group.split('/')[1]}" for _, _, plural, group in RUNTIMES.values()]
    jobs = [kind for kind in kinds if kind in served]
    rest = [kind for kind in (RUNTIME_OF_TRAINJOBS, PODMONITORS) if kind in served] + list(BESIDE)
    print(cluster.run("delete", ",".join(jobs), "--selector", f"{RUN}={run}", seconds=900), end="")
    wait_for_pods(cluster, run)
    print(cluster.run("delete", ",".join(rest), "--selector", f"{RUN}={run}", seconds=900), end="")


def wait_for_pods(cluster: Cluster, run: str) -> None:
    """Return when no pod of the run is left; says now and then for whom it waits. Raises Refused when one stays."""
    started, told = time.monotonic(), 0.0
    while pods := cluster.list("pods", f"{RUN}={run}"):
        name = pods[0]["metadata"]["name"]
        longest = max(pod["spec"].get("terminationGracePeriodSeconds", 30) for pod in pods) + SECONDS_MORE
        waited = time.monotonic() - started
        if waited > longest:
            fix = f"if its node is lost: kubectl -n {cluster.namespace} delete pod {name} --force, then this again"
            raise Refused(f"pod {name} has not left after {longest} s; {fix}", 1)
        if not told or time.monotonic() - told > SECONDS_BETWEEN_WORDS:
            told = time.monotonic()
            count = f"{len(pods)} pod{'s' if len(pods) > 1 else ''}"
            print(f"{run}: {count} may take {longest - waited:.0f} s more to save and leave", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    run_program(main)
