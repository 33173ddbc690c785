"""A sweep on a cluster: every point a run beside the others; `make sweep`, `sweep-status`, `sweep-stop`, ON=cluster.

    python -m scripts.cluster.sweep run    --overlay argilla [--sweep FILE] [--set K=V …] [--place K=V …] [--force]
    python -m scripts.cluster.sweep status --overlay argilla [--run NAME]
    python -m scripts.cluster.sweep stop   --overlay argilla [--run NAME]

Points are deployed as make deploy does: all at once where a Kueue queue decides who runs, else at_once at a time.
Ctrl-C ends the view and further deploying, not the runs; the same command does only what is missing. Exit status: 0
every point is done, 1 one failed or the cluster refused, 2 bad input, 130 the view was closed.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.cluster.bucket import COMPONENT, named_store, reach
from scripts.cluster.checks.answers import FAILED
from scripts.cluster.checks.everything import Known, check
from scripts.cluster.checks.reach import tell_refused
from scripts.cluster.deploy import take_away
from scripts.cluster.jobs import find_runs
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.overlay import Plan, add_run_options, make_plan, render
from scripts.cluster.results import bring_results
from scripts.cluster.store_client import Store, is_complete
from scripts.cluster.sweep_follow import COMPLETE, GONE, MISSING, STUCK, Follow, Point
from scripts.cluster.watch_view import View
from scripts.runs import run_status
from scripts.sweep.check import TRIED, find_sweep, gather, listed, note_on_rows, of_point
from scripts.sweep.file import SweepFile
from scripts.sweep.points import words
from scripts.sweep.record import CLUSTER, load_record, make_record, save_record, show
from train.errors import InputError, problem, report_problems, run_program

QUEUE = "queue-kueue"
NEXT = {  # what helps where a point ended so
    "failed": "make logs RUN={run}; the same command tries it again",
    STUCK: "mend that and it starts by itself, or take it back: make undeploy RUN={run}",
}
WHAT = "adapter report logs"  # what a comparison needs; the merged model of the best is make results' to bring


def main() -> int:
    arguments = parse_arguments()
    try:
        return {"run": run, "status": status, "stop": stop}[arguments.what](arguments)
    except Refused as refused:
        return tell_refused(refused)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "status", "stop"))
    add_run_options(parser)
    parser.add_argument("--sweep", default="", help="another file than the overlay's sweep.yaml")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where results and the sweep's record lie")
    parser.add_argument("--force", action="store_true", help="deploy although a check failed")
    return parser.parse_args()


# ---- run ----


def run(arguments: argparse.Namespace) -> int:
    """Deploy what is missing, follow it to its end, and compare; returns the exit status."""
    if arguments.run:
        raise InputError(problem("RUN", arguments.run, "names one run, and a sweep has many", "leave RUN out"))
    sweep = find_sweep(arguments)
    plans = gather(sweep, lambda point: make_plan(of_point(arguments, point)))
    record = make_record(sweep, arguments.overlay, CLUSTER, arguments.namespace, [plan.run for plan in plans])
    record["bucket"] = plans[0].placement["s3"] if COMPONENT in plans[0].components else None
    cluster, queued = plans[0].cluster, QUEUE in plans[0].components
    points = points_of(record, plans)
    find_what_is_done(cluster, record, points)
    tell_beginning(sweep, record, points, f"queue {plans[0].placement['queue']}" if queued else "")
    if not arguments.force and not checks_pass(sweep, points):
        return 1
    save_record(arguments.runs_dir, record)
    for point in points:
        if point.state != COMPLETE:
            point.state = MISSING  # until it is seen: one that failed before is deployed again
    view = View()
    try:
        Follow(cluster, record["name"], points, None if queued else sweep.at_once, view).follow()
    except KeyboardInterrupt:
        view.clear()
        left = [point.words for point in points if point.state == MISSING]
        more = f"; not deployed: {', '.join(left)}" if left else ""
        print(f"the view is closed, the runs that are there go on{more}")
        print(f"the same command goes on; make sweep-stop OVERLAY={arguments.overlay} ON=cluster takes them away")
        return 130
    return end(arguments, record, points)


def points_of(record: dict, plans: list[Plan] | None = None) -> list[Point]:
    """The points of a record, with the plans of their runs where they may be deployed."""
    known = plans or [None] * len(record["points"])
    return [Point(words(one["values"]), one["run"], plan) for one, plan in zip(record["points"], known, strict=True)]


def find_what_is_done(cluster: Cluster, record: dict, points: list[Point]) -> None:
    """Mark the points that are complete, by their jobs or by what lies in the bucket or on the store."""
    jobs = {job.name: job for job in find_runs(cluster, overlay=record["overlay"])}
    done = {name for name, job in jobs.items() if job.state == COMPLETE} | complete_runs(cluster, record)
    for point in points:
        if point.run in done and (point.run not in jobs or jobs[point.run].ended):
            point.state = COMPLETE
        elif point.run in jobs:
            point.state, point.reason = jobs[point.run].state, jobs[point.run].reason


def complete_runs(cluster: Cluster, record: dict) -> set[str]:
    """The names of runs that are complete where runs are kept; none, and why, where that cannot be asked."""
    from scripts.s3.manifest import read_text
    from scripts.s3.trouble import S3Failed

    names = [point["run"] for point in record["points"]]
    try:
        if bucket := named_store() or record["bucket"]:
            client, store = reach(bucket)
            told = {name: read_text(client, store / "runs" / name, "run.json") for name in names}
            return {name for name, text in told.items() if text and json.loads(text).get("status") == "complete"}
        return {entry["name"] for entry in Store(cluster).ask("runs") if is_complete(entry)}
    except (Refused, S3Failed, InputError) as trouble:
        why = (str(trouble).splitlines() or [type(trouble).__name__])[0]
        print(f"only by their jobs is it known which points are done: {why}", file=sys.stderr)
        return set()


def tell_beginning(sweep: SweepFile, record: dict, points: list[Point], queue: str) -> None:
    """What is about to happen."""
    done = sum(point.state == COMPLETE for point in points)
    print(f"{record['name']}: {len(points)} points of {sweep.path}, best by {TRIED[sweep.metric]}; {done} are done")
    how = f"all at once; the {queue} decides how many run" if queue else f"at most {sweep.at_once} at once (at_once)"
    print(f"deployed {how}. Ctrl-C ends the view and further deploying, not the runs")
    if note := note_on_rows(sweep):
        print(note)


def checks_pass(sweep: SweepFile, points: list[Point]) -> bool:
    """Ask all that preflight asks of the points that are missing, each answer told once. Unknown ones stop nothing."""
    known, told = Known({point.run for point in points}), {}
    for number, point in enumerate(points):
        if point.state not in (MISSING, "failed"):
            continue
        for answer in check(point.plan, render(point.plan), known):
            if answer.status == FAILED:
                told.setdefault(str(answer), []).append(number)
    for answer, numbers in told.items():
        print(f"{listed(sweep, numbers)}:\n{answer}", file=sys.stderr)
    if told:
        print("nothing was deployed, since checks failed; FORCE=1 deploys all the same", file=sys.stderr)
    return not told


# ---- its end ----


def end(arguments: argparse.Namespace, record: dict, points: list[Point]) -> int:
    """Copy what the complete points learned, show and compare it; the exit status."""
    gone = [point for point in points if point.state == GONE]
    done = complete_runs(Cluster(arguments.context, arguments.namespace), record) if gone else set()
    for point in gone:
        if point.run in done:  # and then its job was taken away
            point.state = COMPLETE
    states = bring(arguments, record, points)
    show(record, arguments.runs_dir, states)
    failed = [point for point, state in zip(points, states, strict=True) if state != COMPLETE]
    for point in failed:
        print(f"failed: {point.words}: {point.state}{f': {point.reason}' if point.reason else ''}", file=sys.stderr)
        if point.state in NEXT:
            print(f"  next: {NEXT[point.state].format(run=point.run)}", file=sys.stderr)
    return 1 if failed else 0


def bring(arguments: argparse.Namespace, record: dict, points: list[Point]) -> list[str]:
    """Copy the complete points that are not here yet; returns the state of each point for the table."""
    states = []
    for point in points:
        here = arguments.runs_dir / point.run
        if point.state != COMPLETE or run_status(here) == COMPLETE:
            states.append(point.state)
            continue
        asked = argparse.Namespace(overlay="", run=point.run, context=arguments.context, namespace=arguments.namespace,
                                   to=str(here), what=WHAT)  # fmt: skip
        try:
            copied = bring_results(asked, record["bucket"]) == 0
        except InputError as error:
            copied = False
            report_problems(error)
        states.append(COMPLETE if copied else "complete there, not copied")
    return states


def status(arguments: argparse.Namespace) -> int:
    """How the points of the newest sweep stand; what is complete is copied here and compared."""
    record = load_record(arguments.runs_dir, arguments.overlay, CLUSTER, arguments.namespace, arguments.run)
    points = points_of(record)
    find_what_is_done(Cluster(arguments.context, arguments.namespace), record, points)
    show(record, arguments.runs_dir, bring(arguments, record, points))
    return 0


# ---- stop ----


def stop(arguments: argparse.Namespace) -> int:
    """Take the sweep's unfinished runs off the cluster, first those that wait for the others' places."""
    record = load_record(arguments.runs_dir, arguments.overlay, CLUSTER, arguments.namespace, arguments.run)
    cluster = Cluster(arguments.context, arguments.namespace)
    names = {point["run"] for point in record["points"]}
    jobs = [job for job in find_runs(cluster, overlay=record["overlay"]) if job.name in names and job.state != COMPLETE]
    for some in ([job for job in jobs if not job.pods], [job for job in jobs if job.pods]):
        with ThreadPoolExecutor(max(len(some), 1)) as pool:
            list(pool.map(lambda job: take_away(cluster, job.name), some))
    taken = ", ".join(job.name for job in jobs) or "nothing unfinished of it was on the cluster"
    print(f"{record['name']}: {f'taken off the cluster: {taken}; their files stay' if jobs else taken}")
    return 0


if __name__ == "__main__":
    run_program(main)
