"""The operators' own manifests, from their releases or from a folder, and where they get in each other's way."""

import json
import subprocess
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

import yaml

from scripts.image_inputs import ROOT
from train.errors import InputError, problem

VERSIONS = ROOT / "k8s" / "operators" / "versions.yaml"
MPIJOBS = "mpijobs.kubeflow.org"
ONLY_PYTORCHJOB = "--enable-scheme=pytorchjob"
PYTORCHJOB = "kubeflow.org/pytorchjob"  # Kueue's name of its integration
KUEUE_CONFIG = "kueue-manager-config"
KUEUE_FILE = "controller_manager_config.yaml"
TIMEOUT = 60  # seconds for an answer; kubectl gets as long for a git repository


@cache
def operators() -> dict[str, dict]:
    """k8s/operators/versions.yaml."""
    return yaml.safe_load(VERSIONS.read_text())


def chosen(names: list[str]) -> list[str]:
    """The operators to install, those that others need first. Raises InputError for a name that is none."""
    unknown = [name for name in names if name not in operators()]
    if unknown:
        fix = f"of {', '.join(operators())}"
        raise InputError([problem("WITH", name, "is no operator that tunefleet uses", fix) for name in unknown])
    needed = [need for name in names for need in operators()[name]["needs"]]
    return list(dict.fromkeys(needed + names))


def manifests(name: str, folder: str) -> list[dict]:
    """All objects of an operator's release, from the folder if one is given."""
    if folder:
        return from_folder(name, Path(folder))
    texts = [from_git(name, url) if "?ref=" in url else from_web(name, url) for url in operators()[name]["manifests"]]
    return [thing for text in texts for thing in parse(text)]


def from_folder(name: str, folder: Path) -> list[dict]:
    """`<folder>/<name>.yaml`, or all files of `<folder>/<name>/`; .json too."""
    files = [path for path in (*folder.glob(f"{name}.*"), *folder.glob(f"{name}/*"))
             if path.suffix in (".yaml", ".yml", ".json")]  # fmt: skip
    if not files:
        fix = f"python -m scripts.cluster.operators fetch --with {name} --operators-dir {folder}, where a network is"
        raise InputError(problem("OPERATORS_DIR", str(folder), f"has neither {name}.yaml nor {name}/*.yaml", fix))
    return [thing for path in sorted(files) for thing in parse(path.read_text())]


def from_web(name: str, url: str) -> str:
    """A file of the release; proxies by their usual variables."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError) as error:
        raise unreachable(name, url, str(error)) from None


def from_git(name: str, url: str) -> str:
    """A kustomization in a git repository; kubectl fetches it with git."""
    try:
        done = subprocess.run(
            ["kubectl", "kustomize", url], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise unreachable(name, url, "no answer") from None
    if done.returncode:
        raise unreachable(name, url, done.stderr.strip().splitlines()[-1])
    return done.stdout


def unreachable(name: str, url: str, why: str) -> InputError:
    """The error of a manifest that cannot be fetched."""
    fix = f"set https_proxy, or bring a folder: OPERATORS_DIR=<folder with {name}.yaml> (docs/operators.md)"
    return InputError(problem(name, url, f"cannot be fetched: {why}", fix))


def parse(text: str) -> list[dict]:
    """The objects of a file in YAML or JSON; lists are opened."""
    if text.lstrip()[:1] in ("[", "{"):
        found = json.loads(text)
        found = found if isinstance(found, list) else [found]
    else:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the kinds of External Secrets alone are 1 MB
        found = [thing for thing in yaml.load_all(text, Loader=loader) if thing]
    return [inner for thing in found for inner in (thing["items"] if thing["kind"] == "List" else [thing])]


def images(things: list[dict]) -> list[str]:
    """The images that an operator's pods need, for a registry inside."""
    pods = [
        thing["spec"]["template"]["spec"] for thing in things if thing["kind"] in ("Deployment", "DaemonSet", "Job")
    ]
    found = [one["image"] for pod in pods for one in [*pod["containers"], *pod.get("initContainers", [])]]
    return sorted(set(found))


# ---- where they get in each other's way ----


def arranged(name: str, things: list[dict], others: set[str]) -> list[dict]:
    """The objects as they can stand beside the other operators, those in the cluster and those installed now."""
    place = operators()[name]["deployment"].partition("/")[0]
    if name == "secrets":
        things = [in_namespace(thing, place) for thing in things]
        if not any(thing["kind"] == "Namespace" for thing in things):
            things = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}}, *things]
    if name == "training" and "mpi" in others:
        things = [thing for thing in things if thing["metadata"]["name"] != MPIJOBS]
        for thing in things:
            if is_controller(thing, "training"):
                leave_mpijobs(thing)
    if name == "kueue" and "training" in others:
        for thing in things:
            if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == KUEUE_CONFIG:
                look_after_pytorchjobs(thing)
    return things


def is_controller(thing: dict, name: str) -> bool:
    """Whether this is the operator's own Deployment."""
    return (
        thing["kind"] == "Deployment" and thing["metadata"]["name"] == operators()[name]["deployment"].partition("/")[2]
    )


def in_namespace(thing: dict, namespace: str) -> dict:
    """The object in a namespace, where its manifest names none and its kind has one."""
    everywhere = ("Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding",
                  "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")  # fmt: skip
    if thing["kind"] in everywhere or thing["metadata"].get("namespace"):
        return thing
    return thing | {"metadata": thing["metadata"] | {"namespace": namespace}}


def leave_mpijobs(deployment: dict) -> bool:
    """Tell the Training Operator to look after PyTorchJobs only; whether that was news."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    words = [*container.get("command", []), *container.get("args", [])]
    if any(word.startswith("--enable-scheme") for word in words):
        return False
    container["args"] = [*container.get("args", []), ONLY_PYTORCHJOB]
    return True


def look_after_pytorchjobs(configuration: dict) -> bool:
    """Switch on Kueue's PyTorchJob integration in its ConfigMap; whether that was news."""
    content = yaml.safe_load(configuration["data"][KUEUE_FILE])
    frameworks = content.setdefault("integrations", {}).setdefault("frameworks", [])
    if PYTORCHJOB in frameworks:
        return False
    frameworks.append(PYTORCHJOB)
    configuration["data"][KUEUE_FILE] = yaml.safe_dump(content, sort_keys=False)
    return True
