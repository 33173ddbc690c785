"""Installs chosen operators in the versions of k8s/operators/versions.yaml, says what the cluster has, takes them away.

    python -m scripts.cluster.operators check
    python -m scripts.cluster.operators install --with training kueue
    python -m scripts.cluster.operators fetch --with kueue --operators-dir operators   # for clusters without network
    python -m scripts.cluster.operators install --with kueue --operators-dir operators --dry-run
    python -m scripts.cluster.operators remove --with kueue

What was installed by Helm or is newer is left alone. Exit status: 0 done, 1 something failed, is missing, too old or in
another's way, 2 bad input. docs/operators.md
"""

import argparse
import json
import sys
from pathlib import Path

from scripts.cluster.checks.operators import JOBSET, MPI, TRAINER, TRAINING, as_numbers, deployed_version, has_field
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.operator_manifests import (
    KUEUE_CONFIG,
    arranged,
    chosen,
    images,
    leave_mpijobs,
    look_after_pytorchjobs,
    manifests,
    operators,
)
from train.errors import InputError, attempt, problem, run_program

MANAGER = "tunefleet-operators"
BY_FIELD = {
    "training": TRAINING,
    "mpi": MPI,
    "trainer": TRAINER,
    "jobset": JOBSET,
}  # a field of their kind tells the age


def main() -> int:
    arguments = parse_arguments()
    cluster = Cluster(arguments.context)
    names = chosen(arguments.names)
    if not names and arguments.what != "check":
        raise InputError(problem("WITH", "", "names no operator", f"one or more of {', '.join(operators())}"))
    try:
        if arguments.what == "check":
            return check(cluster, names)
        if arguments.what == "fetch":
            return fetch(names, arguments.operators_dir)
        if arguments.what == "install":
            return install(cluster, names, arguments)
        return remove(cluster, arguments.names, arguments)
    except Refused as refused:
        print(f"failed: {refused}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("install", "check", "fetch", "remove"))
    parser.add_argument("--with", nargs="*", default=[], dest="names", metavar="NAME", help="of versions.yaml")
    parser.add_argument("--context", default="", help="kubectl's context; default: its current one")
    parser.add_argument("--operators-dir", default="", metavar="FOLDER", help="<name>.yaml or <name>/*.yaml of each")
    parser.add_argument(
        "--dry-run", action="store_true", help="let the API server check everything, and change nothing"
    )
    parser.add_argument("--wait", type=int, default=180, metavar="SECONDS", help="for the controllers; 0: do not wait")
    return parser.parse_args()


# ---- what is there ----


def find(cluster: Cluster, name: str) -> dict | None:
    """The operator in the cluster: `version` (empty: unknown), `deployment` (None: not seen). None: not there."""
    operator = operators()[name]
    definition = cluster.get("customresourcedefinition", operator["crd"]) if operator["crd"] else None
    if name == "mpi" and definition and not serves(definition, MPI.version):
        definition = None  # the Training Operator's kind of the same name
    field = f"metadata.name={operator['deployment'].partition('/')[2]}"
    text = cluster.run("get", "deployments", "--all-namespaces", "--field-selector", field, "--output", "json")
    deployment = next(iter(json.loads(text)["items"]), None)
    if definition is None and (operator["crd"] or deployment is None):
        return None
    version = deployed_version(deployment) if deployment else ""
    old = name in BY_FIELD and not version and has_field(definition, BY_FIELD[name]) is False
    return {"version": version, "deployment": deployment, "old": old}


def serves(definition: dict, version: str) -> bool:
    """Whether a kind is served in this version."""
    return any(one["name"] == version and one["served"] for one in definition["spec"]["versions"])


def check(cluster: Cluster, names: list[str]) -> int:
    """One line for each operator; exit status 1 where a named one is missing, or any is too old or in another's way."""
    wrong = False
    found = {}
    for name in names or operators():
        operator = operators()[name]
        found[name] = find(cluster, name)
        state, bad = judge(operator, found[name])
        wrong |= bad or (found[name] is None and name in names)
        print(f"{state:10}{name:9}{told(found[name]):18}wanted {operator['version']:9}{operator['for']}")
    for text in clashes(cluster):
        wrong = True
        print(f"clash     {text}")
    return 1 if wrong else 0


def judge(operator: dict, found: dict | None) -> tuple[str, bool]:
    """The state in a word, and whether it is a bad one."""
    if found is None:
        return "missing", False
    if found["old"] or (found["version"] and as_numbers(found["version"]) < as_numbers(operator["minimum"])):
        return "too old", True
    if found["version"] and as_numbers(found["version"]) > as_numbers(operator["version"].lstrip("v")):
        return "newer", False
    return "there", False


def told(found: dict | None) -> str:
    """The version that was found, in words."""
    if found is None:
        return "-"
    return found["version"] or ("older than minimum" if found["old"] else "version unknown")


def clashes(cluster: Cluster) -> list[str]:
    """Where operators that are there get in each other's way."""
    texts = []
    training, mpi = find(cluster, "training"), find(cluster, "mpi")
    if training and mpi and training["deployment"] and leave_mpijobs(training["deployment"]):
        texts.append("the Training Operator looks after MPIJobs of its own kind too: make operators WITH=training")
    definition = cluster.get("customresourcedefinition", MPI.crd)
    if definition and not mpi:
        texts.append("mpijobs.kubeflow.org is the Training Operator's, not MPI Operator's: make operators WITH=mpi")
    configuration = kueue_configuration(cluster)
    if training and configuration and look_after_pytorchjobs(configuration):
        texts.append("Kueue does not look after PyTorchJobs: make operators WITH=kueue")
    return texts


def kueue_configuration(cluster: Cluster) -> dict | None:
    """Kueue's ConfigMap."""
    namespace = operators()["kueue"]["deployment"].partition("/")[0]
    return Cluster(cluster.context, namespace).get("configmap", KUEUE_CONFIG)


# ---- install ----


def install(cluster: Cluster, names: list[str], arguments: argparse.Namespace) -> int:
    """Server-side apply of each, arranged so that it stands beside the others; then the others, beside it."""
    there = {name: find(cluster, name) for name in operators()}
    others = {name for name in operators() if there[name]} | set(names)
    wrong = 0
    problems: list[str] = []  # all that cannot be fetched is said before anything is applied
    fetched = {name: attempt(problems, manifests, name, arguments.operators_dir) for name in names}
    if problems:
        raise InputError(problems)
    for name in names:
        reason = leave_alone(operators()[name], there[name])
        if reason:
            print(f"left      {name}: {reason}")
            continue
        put(cluster, arranged(name, fetched[name], others), arguments.dry_run)
        done = "checked" if arguments.dry_run else "installed"
        print(f"{done:10}{name} {operators()[name]['version']}: {len(fetched[name])} objects")
    for text in mend_others(cluster, set(names), there, arguments.dry_run):
        print(f"changed   {text}")
    if arguments.wait and not arguments.dry_run:
        wrong = sum(not is_available(cluster, name, arguments.wait) for name in names)
    return 1 if wrong else 0


def leave_alone(operator: dict, found: dict | None) -> str:
    """Why an operator in the cluster is not touched; empty: it is."""
    if not found or not found["deployment"]:
        return ""
    labels = found["deployment"]["metadata"].get("labels") or {}
    if labels.get("app.kubernetes.io/managed-by") == "Helm":
        return (
            f"was installed by Helm ({told(found)}), which would undo this: upgrade it there to {operator['version']}"
        )
    if judge(operator, found)[0] == "newer":
        return f"{found['version']} is newer than {operator['version']}"
    return ""


def put(cluster: Cluster, things: list[dict], dry_run: bool) -> None:
    """Apply; kinds and namespaces first, since the rest is of them and in them."""
    first = [thing for thing in things if thing["kind"] in ("Namespace", "CustomResourceDefinition")]
    rest = [thing for thing in things if thing not in first]
    for part in filter(None, (first, rest)):
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": part})
        words = ["apply", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "--filename", "-"]
        # No --namespace: the objects name their own.
        Cluster(cluster.context, "").run(*words, *(["--dry-run=server"] if dry_run else []), given=given, seconds=300)


def mend_others(cluster: Cluster, names: set[str], there: dict, dry_run: bool) -> list[str]:
    """What an operator that was there before must learn of the new ones."""
    mode, changed = (["--dry-run=server"] if dry_run else []), []
    training = there["training"]
    if "mpi" in names and "training" not in names and training and training["deployment"]:
        deployment = training["deployment"]
        if leave_mpijobs(deployment):
            replace(cluster, deployment, mode)
            changed.append("training: looks after PyTorchJobs only, MPIJobs are MPI Operator's")
    configuration = kueue_configuration(cluster) if "training" in names and "kueue" not in names else None
    if configuration and look_after_pytorchjobs(configuration):
        replace(cluster, configuration, mode)
        changed.append("kueue: looks after PyTorchJobs")
        deployment = there["kueue"]["deployment"] if there["kueue"] else None
        if deployment and not dry_run:
            place = Cluster(cluster.context, deployment["metadata"]["namespace"])
            place.run("rollout", "restart", f"deployment/{deployment['metadata']['name']}")
    return changed


def replace(cluster: Cluster, thing: dict, mode: list[str]) -> None:
    """Write a changed object back; refused if somebody else changed it meanwhile."""
    place = Cluster(cluster.context, thing["metadata"]["namespace"])
    place.run("replace", "--filename", "-", *mode, given=json.dumps(thing))


def is_available(cluster: Cluster, name: str, seconds: int) -> bool:
    """Wait for the controller."""
    namespace, _, deployment = operators()[name]["deployment"].partition("/")
    words = ["rollout", "status", f"deployment/{deployment}", f"--timeout={seconds}s"]
    try:
        Cluster(cluster.context, namespace).run(*words, seconds=seconds + 10)
    except Refused as refused:
        print(f"failed: {name}: deployment {namespace}/{deployment} is not available: {refused}", file=sys.stderr)
        return False
    print(f"ready     {name}")
    return True


# ---- fetch, remove ----


def fetch(names: list[str], folder: str) -> int:
    """Write the manifests into a folder, and say which images a registry inside must have."""
    if not folder:
        raise InputError(problem("OPERATORS_DIR", "", "is not given", "a folder to write to"))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        things = manifests(name, "")
        (Path(folder) / f"{name}.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))
        print(f"fetched   {name} {operators()[name]['version']}; its images: {', '.join(images(things))}")
    return 0


def remove(cluster: Cluster, names: list[str], arguments: argparse.Namespace) -> int:
    """Take operators away; refuses where objects of their kinds exist, which would be deleted with the kinds."""
    problems = [text for name in names for text in in_use(cluster, name, names)]
    if problems:
        raise InputError(problems)
    mode = ["--dry-run=server"] if arguments.dry_run else []
    for name in names:
        things = manifests(name, arguments.operators_dir)
        others = {other for other in operators() if other not in names and find(cluster, other)}
        things = arranged(name, things, others)
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": things[::-1]})
        Cluster(cluster.context, "").run(
            "delete", "--ignore-not-found", *mode, "--filename", "-", given=given, seconds=300
        )
        print(f"{'checked' if mode else 'removed':10}{name}")
    return 0


def in_use(cluster: Cluster, name: str, names: list[str]) -> list[str]:
    """Why an operator cannot go."""
    users = [other for other in operators() if name in operators()[other]["needs"] and other not in names]
    texts = [
        problem("WITH", name, f"{other} needs it", f"remove {other} too") for other in users if find(cluster, other)
    ]
    crd = operators()[name]["crd"]
    if crd and cluster.get("customresourcedefinition", crd):
        text = cluster.run("get", crd, "--all-namespaces", "--output", "name")
        count = len(text.split())
        if count:
            fix = f"kubectl get {crd} --all-namespaces; delete what is not needed, then this again"
            texts.append(problem("WITH", name, f"{count} objects of its kind exist and would be deleted", fix))
    return texts


if __name__ == "__main__":
    run_program(main)
