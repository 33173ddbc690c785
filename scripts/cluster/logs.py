"""The logs of a run's pods, each line with the pod it comes from: `make logs`.

python -m scripts.cluster.logs [--overlay NAME] [--run NAME] [--rank N | --pod NAME] [--follow] [--events] [--tail N]
Lines for machines are left out unless --events asks for them. Where the pods are gone, the store tells the story.
"""

import argparse
import queue
import subprocess
import threading
import time

from scripts.cluster.jobs import Job, add_follow_options, choose, cluster_of, find_runs, no_such_run
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import EVENT
from scripts.cluster.pods import restarts_of, short_name
from scripts.cluster.progress import replay
from scripts.cluster.store_client import Store, tell_refusal
from train.errors import InputError, problem, run_program

SECONDS_BETWEEN_LOOKS = 3.0


def chosen_pods(job: Job, rank: str, pod: str) -> list[dict]:
    """The pods that are asked for. Raises InputError where the run has none of that name or number."""
    if not rank and not pod:
        return job.pods
    found = [one for one in job.pods if pod == one["metadata"]["name"] or (rank and rank == short_name(one))]
    if not found:
        there = ", ".join(f"{short_name(one)} ({one['metadata']['name']})" for one in job.pods) or "none"
        raise InputError(
            problem("POD" if pod else "RANK", pod or rank, f"{job.name} has no such pod", f"pods: {there}")
        )
    return found


def stream(cluster: Cluster, pod: dict, arguments: argparse.Namespace, lines: queue.Queue, began: str = "") -> None:
    """Put a pod's lines into the queue, first those of the container before, if it was started again."""
    name, prefix = pod["metadata"]["name"], f"[{short_name(pod)}] "
    calls = [["--previous"]] if restarts_of(pod) and not began else []
    calls.append([*(["--follow"] if arguments.follow else []), *([f"--since-time={began}"] if began else [])])
    for words in calls:
        command = cluster.command("logs", name, f"--tail={arguments.tail}", *words)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        for line in process.stdout:
            if arguments.events or not line.startswith(EVENT):
                lines.put(prefix + line.rstrip("\n"))
        if process.wait() and "--previous" not in words:
            lines.put(prefix + "no log: " + process.stderr.read().strip().removeprefix("Error from server "))


def print_all(cluster: Cluster, pods: list[dict], arguments: argparse.Namespace) -> None:
    """The logs as they are now, one pod after the other."""
    for pod in pods:
        lines: queue.Queue = queue.Queue()
        stream(cluster, pod, arguments, lines)
        while not lines.empty():
            print(lines.get(), flush=True)


def follow_all(cluster: Cluster, run: str, arguments: argparse.Namespace) -> None:
    """All logs as they grow, those of restarted and new pods too, until the run is over."""
    lines: queue.Queue = queue.Queue()
    threads: dict[tuple, threading.Thread] = {}
    looked, job = 0.0, None
    while True:
        if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
            looked = time.monotonic()
            try:
                job = next(iter(find_runs(cluster, run=run)), None)
            except Refused as refused:
                lines.put(f"the cluster does not answer, trying again: {str(refused).splitlines()[-1]}")
            for pod in chosen_pods(job, arguments.rank, arguments.pod) if job else []:
                begin(cluster, pod, arguments, lines, threads)
        try:
            print(lines.get(timeout=0.5), flush=True)
        except queue.Empty:
            if (job is None or job.ended) and not any(thread.is_alive() for thread in threads.values()):
                return


def begin(cluster: Cluster, pod: dict, arguments, lines: queue.Queue, threads: dict) -> None:
    """Follow a container that has started and is not followed yet."""
    states = [one["state"] for one in pod["status"].get("containerStatuses", [])]
    key = pod["metadata"]["uid"], restarts_of(pod)
    if key in threads or not any("running" in state or "terminated" in state for state in states):
        return
    known = any(uid == key[0] for uid, _ in threads)
    began = next((state["running"].get("startedAt", "") for state in states if "running" in state), "") if known else ""
    threads[key] = threading.Thread(target=stream, args=(cluster, pod, arguments, lines, began), daemon=True)
    threads[key].start()


def print_store(cluster: Cluster, run: str, arguments: argparse.Namespace) -> int:
    """What the store tells of a run whose pods are gone."""
    text = Store(cluster).text(f"runs/{run}", "log.jsonl")
    if not text:
        raise no_such_run(arguments, [job.name for job in find_runs(cluster)])
    print(f"the pods of {run} are gone; what it told is on the store:")
    print(text.rstrip() if arguments.events else "\n".join(replay(text)[1]))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_follow_options(parser)
    parser.add_argument("--rank", default="", help="only the pod with this number, or launcher")
    parser.add_argument("--pod", default="", help="only this pod")
    parser.add_argument("--follow", action="store_true", help="go on as the logs grow")
    parser.add_argument("--events", action="store_true", help="the lines for machines too")
    parser.add_argument("--tail", type=int, default=-1, help="only the last lines of each pod")
    arguments = parser.parse_args()
    cluster = cluster_of(arguments)
    try:
        job = choose(find_runs(cluster, arguments.overlay, arguments.run))
        if job is None and not arguments.run:
            raise no_such_run(arguments, [job.name for job in find_runs(cluster)])
        if job is None or (job.ended and not job.pods):
            return print_store(cluster, job.name if job else arguments.run, arguments)
        if arguments.follow and not job.ended:
            follow_all(cluster, job.name, arguments)
        elif job.pods:
            print_all(cluster, chosen_pods(job, arguments.rank, arguments.pod), arguments)
        else:
            print(f"{job.name} has no pods yet: {job.state}" + (f", {job.reason}" if job.reason else ""))
    except Refused as refused:
        return tell_refusal(cluster, refused)
    return 0


if __name__ == "__main__":
    run_program(main)
