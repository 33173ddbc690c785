"""The models and data sets on a cluster's store: which there are and who uses them, verify, remove; ON=cluster.

python -m scripts.cluster.cluster_artifacts list   [--json] [--context NAME] [--namespace NAME]
python -m scripts.cluster.cluster_artifacts verify --kind model [--name NAME] [--revision REVISION]
python -m scripts.cluster.cluster_artifacts remove --kind model --name NAME [--revision REVISION] [--yes] [--force]
"""

import argparse
from collections.abc import Callable

import yaml

from scripts.artifacts import add_options, answer
from scripts.cluster.jobs import Job, cluster_of, find_runs
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import NAMESPACE, RUN, STORE
from scripts.cluster.store_client import START, Store, tell_refusal, texts
from scripts.store_artifacts import HELD, Refusal
from train.errors import run_program

KEYS = {"model": ("model_name_or_path", "model_revision"), "dataset": ("dataset_name", "dataset_revision")}


class There:
    """The store of a cluster's namespace; answers as scripts.artifacts.Here does."""

    word = " ON=cluster"

    def __init__(self, cluster: Cluster):
        self.cluster, self.store = cluster, Store(cluster, program())

    def list(self) -> dict:
        """What lies there; a run whose job is not over counts as running, also before it has written anything."""
        found = self.store.ask("list")
        for job in find_runs(self.cluster):
            if not job.ended:
                mark(found["artifacts"], job, self.recipe(job))
        return found

    def recipe(self, job: Job) -> dict:
        """The recipe that the job's pods read; empty where there is none."""
        for one in self.cluster.list("configmaps", f"{RUN}={job.name}"):
            if "train.yaml" in one.get("data", {}):
                return yaml.safe_load(one["data"]["train.yaml"]) or {}
        return {}

    def verify(self, path: str, tell: Callable[[int], None]) -> dict[str, str]:
        """Of each damaged file its name and what is wrong; `tell` hears how many bytes more were read."""
        read = 0

        def hear(line: str) -> None:
            nonlocal read
            word, _, count = line.partition(" ")
            if word == "read" and count.isdigit():
                tell(int(count) - read)
                read = int(count)

        return self.store.ask("verify", path, tell=hear)

    def remove(self, path: str) -> int:
        """Remove it; returns the bytes. Raises Refusal where somebody fetches it."""
        try:
            return self.store.ask("remove", path)
        except Refused as refused:
            if HELD in str(refused):
                raise Refusal(str(refused)) from None
            raise


def program() -> str:
    """What the pod's Python gets."""
    return f"{START}start({texts('scripts.store_artifacts')!a})"


def mark(entries: list[dict], job: Job, recipe: dict) -> None:
    """Note a run that is not over at what its recipe names; an entry that knows the run already says running."""
    for entry in entries:
        known = [run for run in entry["runs"] if run["name"] == job.name]
        for run in known:
            run["state"] = job.state
        if not known and names(recipe, entry):
            entry["runs"].append({"name": job.name, "state": job.state})


def names(recipe: dict, entry: dict) -> bool:
    """Whether a recipe names this model or data set, by its name and revision or by its place on the store."""
    name_key, revision_key = KEYS[entry["kind"]]
    name, revision = recipe.get(name_key), recipe.get(revision_key)
    if name == entry["name"]:
        return (revision or "main") in (entry["revision"], *entry["references"]) or not entry["revision"]
    paths = [
        str(recipe.get(key) or "").removeprefix(f"{STORE}/") for key in (name_key, "train_file", "validation_file")
    ]
    return any(path == entry["path"] or path.startswith(f"{entry['path']}/") for path in paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--context", default="", help="kubectl's context; empty: the current one")
    parser.add_argument("--namespace", default=NAMESPACE)
    arguments = parser.parse_args()
    cluster = cluster_of(arguments)
    try:
        return answer(There(cluster), arguments)
    except Refused as refused:
        return tell_refusal(cluster, refused)


if __name__ == "__main__":
    run_program(main)
