"""How the runs on the cluster stand, or one of them in detail: `make status`.

python -m scripts.cluster.status [--overlay NAME] [--run NAME] [--json] [--context NAME] [--namespace NAME]
"""

import argparse
import json

from scripts.cluster.bucket import files_of
from scripts.cluster.checks.reach import tell_refused
from scripts.cluster.jobs import Job, add_follow_options, asked_runs, choose, cluster_of
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import STARTED_BY
from scripts.cluster.pods import age, endings, leader_of, restarts_of, short_name, state_of
from scripts.cluster.progress import Progress, duration, replay
from scripts.cluster.watch_view import bar_line, figures
from train.errors import run_program

LINES = 400  # of the leader's log that are read for the newest figures


def table(jobs: list[Job]) -> list[str]:
    """One line a run."""
    wide = max(len(job.name) for job in jobs) + 2
    lines = [f"{'run':{wide}}{'runtime':12}{'state':10}{'pods':>6}  {'age':12}why"]
    for job in jobs:
        running = sum(state_of(pod) == "running" for pod in job.pods)
        pods = f"{running}/{len(job.pods)}" if not job.ended else "-"
        what = f"{job.name:{wide}}{job.runtime:12}{job.state:10}{pods:>6}  {duration(age(job.created)):12}"
        lines.append(f"{what}{job.reason}".rstrip())
    return lines


def progress_of(cluster: Cluster, job: Job) -> Progress:
    """Where the run stands by the newest lines of its leader's log."""
    leader = leader_of(job.pods)
    if leader is None:
        return Progress()
    try:
        return replay(cluster.run("logs", leader["metadata"]["name"], f"--tail={LINES}"))[0]
    except Refused:
        return Progress()


def detail(job: Job, progress: Progress) -> list[str]:
    """One run: what it is, why it is so, its pods, its figures."""
    lines = [f"{job.name}   {job.runtime}   {job.state}   made {duration(age(job.created))} ago"]
    if job.reason:
        lines.append(f"why      {job.reason}")
    if command := job.object["metadata"].get("annotations", {}).get(STARTED_BY):
        lines.append(f"started  {command}")
    for pod in job.pods:
        node, again = pod["spec"].get("nodeName", "no node yet"), restarts_of(pod)
        lines.append(
            f"pod      {short_name(pod):9} {state_of(pod):8} {node}"
            + (f"   started again {again} times" if again else "")
        )
    lines += [f"trouble  {ending.when[11:19]} {ending.sentence()}" for ending in endings(job.pods)[-5:]]
    if progress.restarts and not job.ended:
        lines.append(f"restarts {progress.restarts} in the leading pod, the last because {progress.restart_reason}")
    if job.ended:
        progress.seconds_left = None
    if progress.step is not None:
        lines += [f"steps    {bar_line(progress, 0)}", f"         {figures(progress)}"]
    elif progress.stage:
        lines.append(f"stage    {progress.stage}")
    lines.append(f"files    {files_of(job.name, [job.object, *job.pods])}")
    follow = {"complete": "make results", "failed": "make logs"}.get(job.state, "make watch")
    lines.append(f"next     {follow} RUN={job.name}")
    return lines


def as_json(job: Job, progress: Progress | None) -> dict:
    """A run for a program to read."""
    answer = {key: getattr(job, key) for key in ("name", "overlay", "runtime", "state", "reason", "created")}
    answer["pods"] = [
        {"name": pod["metadata"]["name"], "state": state_of(pod), "node": pod["spec"].get("nodeName"),
         "restarts": restarts_of(pod)}
        for pod in job.pods
    ]  # fmt: skip
    return answer | ({"progress": vars(progress)} if progress else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_follow_options(parser)
    parser.add_argument("--json", action="store_true", help="for a program to read")
    arguments = parser.parse_args()
    cluster = cluster_of(arguments)
    try:
        jobs = asked_runs(cluster, arguments)
    except Refused as refused:
        return tell_refused(refused)
    if arguments.run:
        jobs = [choose(jobs)]
    one = jobs[0] if len(jobs) == 1 and (arguments.run or arguments.overlay) else None
    progress = progress_of(cluster, one) if one else None
    if arguments.json:
        print(json.dumps([as_json(job, progress) for job in jobs], indent=1))
    elif not jobs:
        where = f"{f'of {arguments.overlay} ' if arguments.overlay else ''}in the namespace {cluster.namespace}"
        print(f"no runs {where}; make deploy OVERLAY=… starts one, make runs lists past ones")
    else:
        print("\n".join(detail(one, progress) if one else table(jobs)))
    return 0


if __name__ == "__main__":
    run_program(main)
