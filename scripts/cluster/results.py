"""Copy what a run learned from the cluster's store to this machine, every byte verified: `make results`.

python -m scripts.cluster.results [--overlay NAME] [--run NAME] [--to DIRECTORY] [--what "adapter merged report logs"]
A copy that was cut goes on where it stopped; what is here already is not copied again.
"""

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from scripts.cluster.bucket import bucket_of, named_store
from scripts.cluster.fetch_file import Copies, fetch, partial_of, sound
from scripts.cluster.fetch_small import fetch_small
from scripts.cluster.jobs import add_follow_options, choose, cluster_of, find_runs, no_such_run
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.pods import is_running
from scripts.cluster.store_client import Store, overlay_of, tell_refusal
from train.errors import InputError, problem, run_program

KINDS = {  # what a person asks for, and where in the run's directory that lies
    "adapter": ("adapter",),
    "model": ("model",),
    "merged": ("merged",),
    "report": ("report.html", "before.json", "after.json", "training.json", "data/data_check.json"),
    "logs": ("log.jsonl", "metrics.jsonl", "tensorboard", "logs"),
    "data": ("data",),
    "checkpoints": ("checkpoints",),
}
USUAL = ("adapter", "model", "merged", "report", "logs")
ALWAYS = ("run.json", "train.yaml", "base_model.json")
TRIES = 5


def chosen_names(what: str) -> list[str]:
    """The names in a run's directory that these kinds are. Raises InputError for an unknown kind."""
    kinds = what.split() or list(USUAL)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(problem("WHAT", " ".join(unknown), "is nothing a run has", f"there are: {', '.join(KINDS)}"))
    return [*ALWAYS, *(name for kind in kinds for name in KINDS[kind])]


def find_run(cluster: Cluster, arguments: argparse.Namespace, records: list[dict]) -> dict:
    """The run that is meant, among those that left something on the store."""
    names = {record["name"]: record for record in records}
    if arguments.run in names:
        return names[arguments.run]
    if not arguments.run:
        job = choose([job for job in find_runs(cluster, arguments.overlay) if job.name in names])
        if job:
            return names[job.name]
        fits = [one for one in records if arguments.overlay in ("", overlay_of(one))]
        if fits:
            return max(fits, key=lambda one: one["changed"])
    raise no_such_run(arguments, list(names))


def destination(arguments: argparse.Namespace, run: str) -> Path:
    """Where the run is copied to. Raises InputError where another run lies there."""
    to = Path(arguments.to) if arguments.to else Path("runs") / run
    if to.exists() and not to.is_dir():
        raise InputError(problem("TO", str(to), "is a file", "give a directory"))
    if (to / "run.json").exists() and not (to / Copies.NAME).exists():
        fix = "give another directory: TO=…"
        raise InputError(problem("TO", str(to), "holds a run that was not copied from a cluster", fix))
    return to


def copy(store: Store, run: str, to: Path, names: list[str]) -> list[str]:
    """Copy the files under these names; returns what could not be brought here whole."""
    wanted = store.ask("manifest", f"runs/{run}", *names, tell=tell)
    copies = Copies(to)
    missing = {name: facts for name, facts in wanted.items() if not sound(to / name, facts, copies)}
    size = sum(facts["size"] for facts in missing.values())
    if not missing:
        print(f"{len(wanted)} files are here already, every one verified")
        return []
    wrong: list[str] = []
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1000, disable=not sys.stderr.isatty()) as bar:
        came = fetch_small(store, f"runs/{run}", missing, copies, bar)
        for name in sorted(missing.keys() - came, key=lambda one: missing[one]["size"]):
            bar.set_description_str(name[-40:], refresh=False)
            if trouble := bring(store, run, to, name, missing[name], copies, bar):
                wrong.append(f"{name}: {trouble}")
    print(f"{len(missing) - len(wrong)} files copied ({size / 1e6:,.1f} MB), {len(wanted) - len(missing)} were here")
    return wrong


def bring(store: Store, run: str, to: Path, name: str, facts: dict, copies: Copies, bar: tqdm) -> str:
    """One file, tried again where the link is cut or the file changed on the way; returns what is wrong in the end."""
    trouble, wrong = "", 0
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(2**attempt, 10))
        try:
            if fetch(store, f"runs/{run}", name, to / name, facts, bar):
                copies.keep(name, facts)
                return ""
            short = partial_of(to / name, facts).exists()
            trouble = "the bytes that came are not those of the store, and were not kept"
            if short:
                trouble = "the stream ended before the file did"
                bar.write(f"{name}: {trouble}; going on", file=sys.stderr)
            fresh = store.ask("manifest", f"runs/{run}", name, "--fresh")
            if name not in fresh:
                return "is on the store no more"
            if fresh[name] != facts:
                bar.write(f"{name} changed on the way, and is fetched again", file=sys.stderr)
                bar.total += fresh[name]["size"] - facts["size"]
                facts, wrong = fresh[name], 0
            elif wrong and not short:
                break  # wrong twice, and the store's own file is what it was: no third try makes that right
            wrong += not short
        except Refused as refused:
            trouble = str(refused).splitlines()[-1]
            bar.write(f"{name}: {trouble}; going on", file=sys.stderr)
    return trouble


def tell(line: str) -> None:
    """What the pod says while it works."""
    print(f"store: {line}", file=sys.stderr)


def save_pod_logs(cluster: Cluster, run: str, to: Path) -> int:
    """The logs of the pods that still exist, beside the run's own; how many."""
    found = find_runs(cluster, run=run)
    pods = [pod for pod in (found[0].pods if found else []) if pod["status"].get("phase") != "Pending"]
    saved = 0
    for pod in pods:
        name = pod["metadata"]["name"]
        try:
            text = cluster.run("logs", name, "--all-containers", seconds=600)
        except Refused:
            continue  # its node is gone, or it went meanwhile
        path = to / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text and not (path.exists() and len(text) < path.stat().st_size):  # a rotated log has lost its beginning
            path.write_text(text)
            saved += 1
    return saved


def bucket_of_run(cluster: Cluster, arguments: argparse.Namespace) -> dict[str, str] | None:
    """Where the run that is meant lies in S3, None where it does not, or where the cluster holds it no more."""
    job = choose(find_runs(cluster, arguments.overlay, arguments.run))
    return bucket_of([job.object, *job.pods]) if job else None


def from_bucket(cluster: Cluster, arguments: argparse.Namespace, bucket: dict[str, str], names: list[str]) -> int:
    """Copy a run out of its bucket; the exit status."""
    from scripts.cluster import results_bucket
    from scripts.s3.trouble import S3Failed

    to = Path()
    try:
        client, address, run = results_bucket.find_run(bucket, arguments.run, arguments.overlay)
        to = destination(arguments, run)
        print(f"{address} -> {to}")
        wrong = results_bucket.copy(client, address, to, names)
        if named_store() is None and (not arguments.what or "logs" in arguments.what.split()):
            save_pod_logs(cluster, run, to)
    except S3Failed as failed:
        wrong = [str(failed)]
    return tell_end(to, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_follow_options(parser)
    parser.add_argument("--to", default="", help="directory on this machine; empty: runs/RUN")
    parser.add_argument("--what", default="", help=f"of {' '.join(KINDS)}; empty: {' '.join(USUAL)}")
    return bring_results(parser.parse_args())


def bring_results(arguments: argparse.Namespace, bucket: dict[str, str] | None = None) -> int:
    """Copy the run that is meant, out of `bucket` where its job is not there to tell it; the exit status."""
    names = chosen_names(arguments.what)
    cluster = cluster_of(arguments)
    store = Store(cluster)
    try:
        if bucket := named_store() or bucket or bucket_of_run(cluster, arguments):
            return from_bucket(cluster, arguments, bucket, names)
        record = find_run(cluster, arguments, store.ask("runs"))
        run = record["name"]
        to = destination(arguments, run)
        jobs = find_runs(cluster, run=run)
        if jobs and any(map(is_running, jobs[0].pods)):
            print(f"{run} is still running: what is there now is copied; the same command later brings the rest")
        print(f"{run} -> {to}")
        wrong = copy(store, run, to, names)
        if not arguments.what or "logs" in arguments.what.split():
            save_pod_logs(cluster, run, to)
    except Refused as refused:
        return tell_refusal(cluster, refused, "; the same command goes on where this one stopped")
    return tell_end(to, wrong)


def tell_end(to: Path, wrong: list[str]) -> int:
    """Say what is here, or what could not be brought; the exit status."""
    if wrong:
        print("\n".join(f"failed: {line}" for line in wrong), file=sys.stderr)
        print("the same command goes on where this one stopped", file=sys.stderr)
        return 1
    print(f"here: {to}/" + (f"   report: {to}/report.html" if (to / "report.html").exists() else ""))
    return 0


if __name__ == "__main__":
    run_program(main)
