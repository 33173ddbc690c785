"""The runs that a cluster holds: every kind of job it serves, each one's state, and why it is so in a sentence."""

import argparse
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scripts.cluster import words
from scripts.cluster.kubectl import Cluster, Refused, connected
from scripts.cluster.names import NAMESPACE, OVERLAY, RUN, RUNTIMES
from scripts.cluster.pods import (
    STOPPED,
    age,
    endings,
    first_dead,
    in_order,
    is_running,
    meaning,
    told_of,
    why_waits,
)
from train.errors import InputError, problem

QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE = "apis/kueue.x-k8s.io/v1beta2"
ENDED = ("complete", "failed")
FRESH = 600.0  # seconds in which a warning is taken for what holds a job back now


@dataclass
class Job:
    """One run on the cluster; state is queued, suspended, pending, running, complete, failed or deleting."""

    runtime: str
    name: str
    overlay: str
    object: dict
    state: str
    reason: str = ""
    pods: list[dict] = field(default_factory=list)

    @property
    def created(self) -> str:
        """When its object was made."""
        return self.object["metadata"]["creationTimestamp"]

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self.state in ENDED


# ---- which there are ----


def find_runs(cluster: Cluster, overlay: str = "", run: str = "", runtime: str = "") -> list[Job]:
    """The runs of the namespace, the newest first; a kind that the cluster does not serve has none."""
    kinds = {name: kind for name, kind in RUNTIMES.items() if runtime in ("", name)}
    selector = ",".join([RUN + (f"={run}" if run else ""), *([f"{OVERLAY}={overlay}"] if overlay else [])])
    space = f"namespaces/{cluster.namespace}"
    paths = [f"{group}/{space}/{plural}?labelSelector={selector}" for _, _, plural, group in kinds.values()]
    paths.append(f"api/v1/{space}/pods?labelSelector={RUN}" + (f"%3D{run}" if run else ""))
    with connected(cluster) as asked, ThreadPoolExecutor(len(paths)) as pool:
        *found, pods = pool.map(lambda path: items(asked, path), paths)
    jobs = []
    for kind, objects in zip(kinds, found, strict=True):
        for one in objects:
            if any(owner.get("controller") for owner in one["metadata"].get("ownerReferences", [])):
                continue  # what an operator made for a run, a launcher's Job for one
            jobs.append(read_job(kind, one, pods))
    explain(cluster, jobs)
    return sorted(jobs, key=lambda job: job.created, reverse=True)


def items(cluster: Cluster, path: str) -> list[dict]:
    """A list from the API server; empty where it does not serve the kind."""
    try:
        return cluster.raw(path)["items"]
    except Refused as refused:
        if "could not find the requested resource" in str(refused):
            return []
        raise


def read_job(runtime: str, one: dict, pods: list[dict]) -> Job:
    """A run from its object and its pods, without asking further."""
    labels = one["metadata"]["labels"]
    run = labels[RUN]
    mine = in_order([pod for pod in pods if pod["metadata"]["labels"].get(RUN) == run])
    job = Job(runtime, one["metadata"]["name"], labels.get(OVERLAY, ""), one, "", pods=mine)
    job.state, job.reason = own_state(job)
    return job


def own_state(job: Job) -> tuple[str, str]:
    """State and reason, as far as the object's own status and its pods tell them."""
    one = job.object
    status, spec = one.get("status", {}), one["spec"]
    said = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
    if "Complete" in said or "Succeeded" in said:
        return "complete", ""
    if failed := said.get("Failed") or said.get("FailureTarget"):
        return "failed", why_failed(job, failed)
    if "deletionTimestamp" in one["metadata"]:
        return "deleting", "is being deleted"
    if spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"):
        queue = one["metadata"]["labels"].get(QUEUE)
        return (
            ("queued", f"waits in the queue {queue}")
            if queue
            else ("suspended", "is suspended, until a person resumes it")
        )
    if any(is_running(pod) for pod in job.pods):
        return "running", ""
    if any(pod["status"].get("phase") == "Succeeded" for pod in job.pods):
        return "running", "a pod is done; the others end or are started again"
    return "pending", ""


def why_failed(job: Job, condition: dict) -> str:
    """The cause of a failure: what the pod that died first tells, else what the job's own condition does."""
    if condition.get("reason") == "DeadlineExceeded":
        return "took longer than its deadline"
    if dead := first_dead(endings(job.pods)):
        return dead.sentence()
    return words.one_line(condition.get("message", "")).rstrip(": ") or "failed, and left no word why"


# ---- why one waits ----


def explain(cluster: Cluster, jobs: list[Job]) -> None:
    """Say of every job that is not over what holds it back; asks only where something does."""
    queued = [job for job in jobs if job.state == "queued"]
    if queued:
        space = f"{KUEUE}/namespaces/{cluster.namespace}"
        workloads = items(cluster, f"{space}/workloads")
        for job in queued:
            job.reason = why_queued(job, workloads)
    short = [job for job in jobs if job.state in ("pending", "running") and not whole(job)]
    silent = [job for job in jobs if job.state == "failed" and job.runtime == "pytorchjob" and not endings(job.pods)]
    if short or silent:
        events = items(cluster, f"api/v1/namespaces/{cluster.namespace}/events?fieldSelector=type%3DWarning")
        for job in short:
            job.reason = why_pending(job, events) or job.reason
        for job in silent:
            job.reason = why_ended(job, events) or job.reason


def why_ended(job: Job, events: list[dict]) -> str:
    """What the operator of PyTorchJobs told of the pod that failed; kept where the pod has been started again since."""
    for _, said in told_of(events, job.name):
        found = re.match(r"Error pod (\S+) container \S+ exitCode: (\d+) terminated message: ?(.*)", said, re.DOTALL)
        if found and int(found[2]) != STOPPED:
            return (
                f"pod {found[1]} ended with exit code {found[2]}{words.after_colon(found[3]) or meaning(int(found[2]))}"
            )
    return ""


def whole(job: Job) -> bool:
    """Whether as many pods run as the run asks for."""
    running = sum(is_running(pod) for pod in job.pods)
    return job.state == "running" and running >= min(wanted_pods(job), max(len(job.pods), 1)) and bool(job.pods)


def wanted_pods(job: Job) -> int:
    """How many pods the run has when it is whole; 1 where its object does not say."""
    spec = job.object["spec"]
    replicas = spec.get("pytorchReplicaSpecs") or spec.get("mpiReplicaSpecs")
    if replicas:
        return sum(one.get("replicas", 1) for one in replicas.values())
    return spec.get("parallelism") or (spec.get("trainer") or {}).get("numNodes") or 1


def why_pending(job: Job, events: list[dict]) -> str:
    """What keeps the run from having all its pods, the worst first."""
    waits = [pod for pod in job.pods if pod["status"].get("phase") == "Pending" or waiting(pod)]
    waits = [pod for pod in waits if "deletionTimestamp" not in pod["metadata"]]
    reasons = [why_waits(pod, events) for pod in waits]
    reasons.sort(key=lambda text: "is being started" in text or "waits for the scheduler" in text)
    if not waits and job.state == "pending" and (refused := refusal(job, events)):
        return refused
    if reasons:
        others = len(reasons) - 1
        return reasons[0] + (f" (and {others} more)" if others else "")
    if job.state == "running":
        return ""
    if dead := endings(job.pods):
        return f"{dead[-1].sentence()}; it is started again"
    return "its pods are being made" if not job.pods else ""


def waiting(pod: dict) -> bool:
    """Whether a container that has run before waits to be started again."""
    return any("waiting" in one["state"] for one in pod["status"].get("containerStatuses", []))


def refusal(job: Job, events: list[dict]) -> str:
    """Why its pods are not even made, from the warnings about the job and what was made for it."""
    latest = ""
    for event in events:
        about = event["involvedObject"]
        mine = about.get("name") == job.name or about.get("name", "").startswith(job.name + "-")
        when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
        refused = event.get("reason", "").startswith(("FailedCreate", "JobCreationFailed", "MPIJobFailed"))
        if mine and about.get("kind") != "Pod" and refused and age(when) < FRESH and when >= latest:
            latest, message = when, event.get("message", "")
    return words.from_admission(message) if latest else ""


def why_queued(job: Job, workloads: list[dict]) -> str:
    """Kueue's own reason, and the place in the queue among this namespace's workloads."""
    queue = job.object["metadata"]["labels"][QUEUE]
    uid = job.object["metadata"]["uid"]
    mine = next((one for one in workloads if uid in owners(one)), None)
    if mine is None:
        return f"waits in the queue {queue}; Kueue has not looked at it yet"
    said = {condition["type"]: condition for condition in mine.get("status", {}).get("conditions", [])}
    if said.get("QuotaReserved", {}).get("status") == "True":
        return f"the queue {queue} has let it in; its pods are being made"
    line = sorted((one for one in workloads if is_waiting(one, mine["spec"]["queueName"])), key=turn)
    place = line.index(mine) + 1 if mine in line else 1
    evicted = said.get("Evicted", {})
    again = f", put back ({evicted['reason']})" if evicted.get("status") == "True" else ""
    reason = words.from_kueue(said.get("QuotaReserved", {}).get("message", "")) or "not looked at yet"
    return f"waits in the queue {queue}, place {place} of {len(line) or 1}{again}: {reason}"


def owners(workload: dict) -> list[str]:
    """The uids of what the workload was made for."""
    return [owner["uid"] for owner in workload["metadata"].get("ownerReferences", [])]


def is_waiting(workload: dict, queue: str) -> bool:
    """Whether it stands in this queue without a reservation."""
    conditions = {c["type"]: c["status"] for c in workload.get("status", {}).get("conditions", [])}
    over = conditions.get("QuotaReserved") == "True" or conditions.get("Finished") == "True"
    return workload["spec"].get("queueName") == queue and not over


def turn(workload: dict) -> tuple:
    """What a queue sorts by: priority, then age."""
    return -workload["spec"].get("priority", 0), workload["metadata"]["creationTimestamp"]


# ---- which one is meant ----


def add_follow_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of every program that looks at runs."""
    parser.add_argument("--overlay", default="", help="use case: its newest run, a running one before others")
    parser.add_argument("--run", default="", help="name of the run")
    parser.add_argument("--context", default="", help="kubectl's context; empty: the current one")
    parser.add_argument("--namespace", default=NAMESPACE)


def cluster_of(arguments: argparse.Namespace) -> Cluster:
    """The cluster that the arguments name."""
    return Cluster(arguments.context, arguments.namespace)


def choose(jobs: list[Job]) -> Job | None:
    """Of several runs the one that is meant: one that is not over before one that is, then the newest."""
    return min(jobs, key=lambda job: (job.ended, -jobs_age(job)), default=None)


def jobs_age(job: Job) -> float:
    """Larger for newer."""
    return -age(job.created)


def asked_runs(cluster: Cluster, arguments: argparse.Namespace) -> list[Job]:
    """The runs that fit the arguments. Raises InputError where a run was named that is not there."""
    jobs = find_runs(cluster, arguments.overlay, arguments.run)
    if arguments.run and not jobs:
        raise no_such_run(arguments, [job.name for job in find_runs(cluster)])
    return jobs


def no_such_run(arguments: argparse.Namespace, known: list[str]) -> InputError:
    """What to say where nothing fits the arguments."""
    key = "RUN" if arguments.run else "OVERLAY"
    what = f"{arguments.run or arguments.overlay or '(empty)'}: no such run in the namespace {arguments.namespace}"
    there = ", ".join(sorted(known)[:20]) or "none yet; make deploy OVERLAY=… starts one"
    return InputError(problem(key, "", what, f"there are: {there}"))
