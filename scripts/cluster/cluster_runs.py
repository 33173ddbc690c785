"""Every run that the cluster's store or jobs know of, and the end of one: `make runs`, `make delete-run`, ON=cluster.

python -m scripts.cluster.cluster_runs list   [--overlay NAME] [--json] [--context NAME] [--namespace NAME]
python -m scripts.cluster.cluster_runs delete --run NAME [--yes] [--context NAME] [--namespace NAME]
"""

import argparse
import json
import sys

from scripts.cluster.bucket import bucket_of
from scripts.cluster.jobs import Job, add_follow_options, cluster_of, find_runs, no_such_run
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import RUN, RUNTIMES, STORE
from scripts.cluster.pods import is_over
from scripts.cluster.store_client import Store, is_complete, overlay_of, tell_refusal
from scripts.runs import arrow
from scripts.s3.address import SCHEME
from train.errors import InputError, problem, run_program

# No Secrets, which a deployer may not touch: an MPIJob's goes with the job that owns it.
WITH_A_RUN = (
    "services",
    "configmaps",
    "networkpolicies",
    "trainingruntimes.trainer.kubeflow.org",
    "podmonitors.monitoring.coreos.com",
)
SECONDS_TO_GO = 120


def joined(records: list[dict], jobs: list[Job]) -> list[dict]:
    """One entry a run: its record on the store and its job, either of which may be missing; the newest first."""
    by_name = {job.name: job for job in reversed(jobs)}
    known = {record["name"]: record for record in records}
    entries = []
    for name in known.keys() | by_name.keys():
        job, record = by_name.get(name), known.get(name, {})
        told = record.get("record", {})
        bucket = bucket_of([job.object, *job.pods]) if job else None
        entries.append({
            "name": name,
            "state": job.state if job else "complete" if is_complete(record) else "unfinished",
            "reason": job.reason if job else "",
            "started": told.get("started") or (job.created if job else ""),
            "eval_loss": [told.get("training", {}).get(key) for key in ("eval_loss_first", "best_eval_loss")],
            "exact_match": record.get("exact_match", [None, None]),
            "rouge": record.get("rouge", [None, None]),
            "bytes": record.get("bytes", 0),
            "has": record.get("has", []),
            "path": f"{STORE}/runs/{name}" if record else f"{bucket['url'].rstrip('/')}/runs/{name}" if bucket else "",
            "job": job.runtime if job else "",
        })  # fmt: skip
    return sorted(entries, key=lambda entry: (entry["started"], entry["name"]), reverse=True)


def lines(entries: list[dict]) -> list[str]:
    """The table that a person reads."""
    wide = max(len(entry["name"]) for entry in entries) + 2
    with_rouge = any(value is not None for entry in entries for value in entry["rouge"])
    head = f"{'run':{wide}}{'started':18}{'state':12}{'job':12}{'validation loss':20}{'exact match':14}"
    head += f"{'ROUGE-L' if with_rouge else '':{16 * with_rouge}}{'size':>9}  files"
    rows = []
    for entry in entries:
        loss, match = arrow(*entry["eval_loss"], "{:.4f}"), arrow(*entry["exact_match"], "{:.0%}")
        started = entry["started"][:16].replace("T", " ")
        what = f"{entry['name']:{wide}}{started:18}{entry['state']:12}{entry['job'] or 'gone':12}"
        rouge = f"{arrow(*entry['rouge'], '{:.3f}'):16}" if with_rouge else ""
        rows.append(f"{what}{loss:20}{match:14}{rouge}{size(entry['bytes']):>9}  {entry['path'] or 'none'}")
    return [head, *rows]


def size(count: int) -> str:
    """Bytes for a person."""
    return (
        f"{count / 1e9:,.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:,.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:,.0f} kB"
    )


def list_runs(cluster: Cluster, overlay: str, as_json: bool) -> None:
    """What ever ran on this cluster. A store that does not answer is said, and the jobs are shown alone."""
    jobs = find_runs(cluster, overlay)
    try:
        records = Store(cluster).ask("runs")
    except Refused as refused:
        print(
            f"only jobs that still exist, since the store does not answer: {str(refused).splitlines()[-1]}",
            file=sys.stderr,
        )
        records = []
    if overlay:
        records = [record for record in records if overlay_of(record) == overlay]
    entries = joined(records, jobs)
    if as_json:
        print(json.dumps(entries, indent=1))
    elif not entries:
        print(f"no runs in the namespace {cluster.namespace}; make deploy OVERLAY=… starts one")
    else:
        print("\n".join(lines(entries)))


def delete_run(cluster: Cluster, arguments: argparse.Namespace) -> None:
    """Take a run's files and what is left of its job, after its name was typed. Raises InputError if it may not go."""
    store, run = Store(cluster), arguments.run
    known = {entry["name"]: entry for entry in joined(store.ask("runs"), find_runs(cluster))}
    if run not in known:
        raise no_such_run(arguments, list(known))
    job = next(iter(find_runs(cluster, run=run)), None)
    if job and not job.ended:
        raise InputError(problem("RUN", run, f"is {job.state}", f"stop it first: make undeploy RUN={run}"))
    path = known[run]["path"]
    in_bucket = path.startswith(SCHEME)
    if in_bucket:
        what = f"the job of {run}"
        print(f"its files stay at {path}; to delete them:\n  .venv/bin/python -m scripts.s3.objects delete {path}")
    else:
        what = f"{path or 'nothing on the store'} ({size(known[run]['bytes'])}){' and its job' if job else ''}"
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError(problem("RUN", run, "deleting needs a yes", f"make delete-run ON=cluster RUN={run} YES=1"))
        if input(f"delete {what} for good? Type its name: ").strip() != run:
            print("nothing deleted")
            return
    take_objects(cluster, run, job)
    if path and not in_bucket:
        store.ask("delete", run)
    print(f"deleted {what}")


def take_objects(cluster: Cluster, run: str, job: Job | None) -> None:
    """Remove the job, what belongs to it, and wait until no pod of it can write any more."""
    kinds = [*([".".join(kind_of(job))] if job else []), *WITH_A_RUN]
    for kind in kinds:
        try:
            cluster.run("delete", kind, "--selector", f"{RUN}={run}", "--ignore-not-found", "--cascade=foreground",
                        f"--timeout={SECONDS_TO_GO}s", seconds=SECONDS_TO_GO + 10)  # fmt: skip
        except Refused as refused:
            if "the server doesn't have a resource type" not in str(refused):
                raise
    left = [pod for pod in cluster.list("pods", f"{RUN}={run}") if not is_over(pod)]
    if left:
        name = left[0]["metadata"]["name"]
        raise InputError(
            problem("RUN", run, f"pod {name} still runs", f"kubectl -n {cluster.namespace} delete pod {name}")
        )


def kind_of(job: Job) -> list[str]:
    """The kind as kubectl takes it: plural, version, group."""
    _, version, plural, _ = RUNTIMES[job.runtime]
    group, number = version.split("/")
    return [plural, number, group]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("list", "delete"))
    add_follow_options(parser)
    parser.add_argument("--yes", action="store_true", help="delete without a question")
    parser.add_argument("--json", action="store_true", help="for a program to read")
    arguments = parser.parse_args()
    cluster = cluster_of(arguments)
    try:
        if arguments.action == "list":
            list_runs(cluster, arguments.overlay, arguments.json)
        else:
            delete_run(cluster, arguments)
    except Refused as refused:
        return tell_refusal(cluster, refused)
    return 0


if __name__ == "__main__":
    run_program(main)
