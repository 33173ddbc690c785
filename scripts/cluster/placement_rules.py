"""Rules between the values of a placement, its components and its runtime, which the schema cannot say.

Each rule takes the sound values, the components and the runtime, and yields (key, problem, fix).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.cluster.checks.quantity import number, numbers, words
from scripts.cluster.names import RUNTIMES
from scripts.cluster.placement_words import near

COMPONENTS = Path(__file__).resolve().parents[2] / "kustomize" / "components"
GPUS = {"gpu-nvidia": "nvidia.com/gpu", "gpu-amd": "amd.com/gpu"}
TARGETS = {"gpu-nvidia": "cuda", "image-intel": "intel"}  # the image's target that a component needs
# What k8s/ and its options name in the namespace, of the kinds that a run has too or that go with one.
RESERVED = ("data-access", "default-deny", "dns", "fetch", "hub-token", "s3", "s3-ca", "store", "trainer", "webhook")
TAKEN = {
    2222: "an MPIJob's sshd listens",
    29400: "each pod shows the others that it is there",
    29500: "the run's processes meet",
}
LEAST_MEMORY = 256 * 2**20
IMAGE = re.compile(
    r"(?P<name>[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+|[a-z0-9._-]+)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
MOVING = ("latest", "main", "master", "stable", "nightly", "dev")
Spec = dict[str, Any]
Complaints = Iterator[tuple[str, str, str]]


def complaints(spec: Spec, given: set[str], components: list[str], runtime: str, schema: dict[str, Any]) -> Complaints:
    """Every broken rule. `given` are all keys of the placement, those with an unsound value too."""
    chosen = {name for name in components if not name.startswith("runtime-") and name != "base"}
    yield from check_runtime(runtime)
    yield from check_components(chosen, given, schema)
    rules = (
        check_run,
        check_image,
        check_sizes,
        check_store,
        check_cpus,
        check_resources,
        check_exclusive,
        check_gpus,
        check_rest,
    )
    for rule in rules:
        yield from rule(spec, chosen, runtime)


def check_runtime(runtime: str) -> Complaints:
    """The runtime is one of the four."""
    if runtime not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        yield "runtime", f"{runtime} is not known", near(runtime, RUNTIMES) or f"take one of: {known}"


def check_components(chosen: set[str], given: set[str], schema: dict[str, Any]) -> Complaints:
    """Each component has its values, and each value its component."""
    known = {path.name for path in COMPONENTS.iterdir() if not path.name.startswith("runtime-")}
    for name in sorted(chosen - known):
        listing = f"take one of: {', '.join(sorted(known))}"
        yield "components", f"{name} is not known", f"{near(name, known) or 'remove it'}; {listing}"
    if not any(name.startswith("store-") for name in chosen):
        yield "components", "name no store, where models, rows and results lie", "add store-pvc or store-s3"
    for key, part in schema["properties"].items():
        users = part.get("x-components", [])
        for name in users:
            if name in chosen and key not in given:
                yield key, f"is missing, and component {name} uses it", f"add it: {part['description']}"
        if users and key in given and not chosen & set(users):
            yield (
                key,
                f"is given, but component {users[0]} is not listed",
                f"list it (WITH={users[0]}), or remove {key}",
            )
    if "podmonitor" in chosen and "metrics" not in chosen:
        yield "components", "name podmonitor, but nothing serves metrics", "list component metrics too: WITH=metrics"
    if "priority" in chosen and "queue-kueue" not in chosen:
        yield "priority", "means nothing without a queue", "list component queue-kueue too, or leave priority out"


def check_run(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """The run's objects have its name, and would take the place of the namespace's own."""
    if spec.get("run") in RESERVED:
        what = f"is {spec['run']}, which is the name of a part of the namespace (k8s/): the run would overwrite it"
        yield "run", what, f"give another name: RUN={spec['run']}-1"
    if str(spec.get("run", "")).startswith("serve-"):
        what = f"is {spec['run']}, and make serve names what serves a run so: one would overwrite the other"
        yield "run", what, f"give another name: RUN={str(spec['run']).removeprefix('serve-') or 'run'}"


def check_image(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """The image is one that never moves, and holds what the components need."""
    image = spec.get("image")
    if image is None:
        return
    match = IMAGE.fullmatch(image)
    what = f"is {image}"
    if not match:
        small = "small letters only, no spaces: registry.example.com/team/tunefleet:cpu-0123456789ab"
        yield "image", f"{what}, which is no image's name", f"write {small}"
        return
    tag = match["tag"] or ""
    if not tag and not match["digest"]:
        yield (
            "image",
            f"{what}: neither tag nor digest, so it would be whatever is newest",
            "add :tag or @sha256:digest",
        )
    if tag in MOVING and not match["digest"]:
        yield (
            "image",
            f"{what}: that tag moves, so two pods could run two programs",
            "name a build, as make image prints it",
        )
    target = re.fullmatch(r"(cpu|cuda|intel)-[0-9a-f]{12}", tag)
    for component, needed in TARGETS.items():
        if component in chosen and target and target[1] != needed:
            yield "image", f"{what}, but component {component} needs target {needed}", f"make image TARGET={needed}"
    if "gpu-amd" in chosen and target:
        fix = "give an image with torch for ROCm (make image BASE_IMAGE=…)"
        yield "image", f"{what}, whose torch knows no AMD GPU", fix
    if target and target[1] == "intel" and "image-intel" not in chosen:
        yield "image", f"{what}, an image of target intel", "list component image-intel, or take target cpu"


def check_sizes(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """How many pods there may be, and for how long."""
    nodes, least = spec.get("nodes"), spec.get("minNodes")
    if nodes is not None and least is not None and least > nodes:
        yield "minNodes", f"is {least}, more than nodes {nodes}", f"give 1 to {nodes}"
    elif nodes is not None and least is not None and least < nodes and runtime != "pytorchjob":
        what = f"is {least}, fewer than nodes {nodes}, but runtime {runtime} goes on only with all its pods"
        yield "minNodes", what, f"set minNodes: {nodes}, or take runtime pytorchjob"
    if spec.get("graceSeconds", 0) >= spec.get("deadlineSeconds", float("inf")):
        what = f"is {spec['graceSeconds']}, not less than deadlineSeconds {spec['deadlineSeconds']}"
        yield "graceSeconds", what, "give a few minutes: one checkpoint's worth"


def check_store(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """One store; and with S3, where each pod has a volume of its own, one pod."""
    if {"store-pvc", "store-s3"} <= chosen:
        yield (
            "components",
            "name two stores, store-pvc and store-s3",
            "keep one: WITHOUT=store-pvc, or WITHOUT=store-s3",
        )
    if "store-s3" not in chosen:
        return
    why = "with component store-s3 each pod has a volume of its own, and pods of one run write one checkpoint together"
    if spec.get("nodes", 1) > 1:
        yield "nodes", f"is {spec['nodes']}; {why}", "set nodes: 1, or take store-pvc: WITHOUT=store-s3 WITH=store-pvc"
    if runtime == "mpijob":
        what = f"is mpijob, whose launcher and worker are two pods; {why}"
        yield "runtime", what, "take runtime job, pytorchjob or trainjob, or store-pvc: WITHOUT=store-s3 WITH=store-pvc"


def check_cpus(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """There is a CPU for each thread."""
    processes, threads, resources = spec.get("processesPerNode"), spec.get("threads"), spec.get("resources")
    if processes is None or threads is None or resources is None:
        return
    part = "limits" if "cpu" in resources["limits"] else "requests"
    cpus = number(resources[part]["cpu"])
    if threads * processes > cpus:
        what = f"is {threads}: {processes} x {threads} threads, but resources.{part}.cpu is {resources[part]['cpu']}"
        fits = int(cpus // processes)
        yield "threads", what, f"give at most {fits}, or more CPUs" if fits else "give more CPUs, or fewer processes"


def check_resources(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """What is promised is no more than what may be used, and none of it is nothing."""
    resources = spec.get("resources", {})
    requests, limits = numbers(resources.get("requests")), numbers(resources.get("limits"))
    for part, amounts in (("requests", requests), ("limits", limits)):
        for name, amount in amounts.items():
            key, text = f"resources.{part}.{name}", resources[part][name]
            if amount == 0:
                yield key, "is 0", "give more than 0, or remove it"
            elif name == "memory" and amount < LEAST_MEMORY:
                yield key, f"is {text}, that is {words(name, amount)}: too little for any model", "give it a unit: 64Gi"
    for name, amount in requests.items():
        text = resources["requests"][name]
        if name in limits and amount > limits[name]:
            what = f"is {text}, more than resources.limits.{name} {resources['limits'][name]}"
            yield f"resources.requests.{name}", what, "lower it, or raise the limit"
        if "/" in name and limits.get(name) != amount:
            what = f"is {text}, but resources.limits.{name} is {resources['limits'].get(name, 'missing')}"
            yield f"resources.requests.{name}", what, "make both the same: devices cannot be shared"


def check_exclusive(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """A pod with CPUs of its own asks for just what it may use, in whole CPUs."""
    if "exclusive-cpus" not in chosen or "resources" not in spec:
        return
    requests, limits = spec["resources"]["requests"], spec["resources"]["limits"]
    for name in ("cpu", "memory"):
        if name not in limits:
            yield (
                f"resources.limits.{name}",
                "is missing, and component exclusive-cpus uses it",
                f"give {requests[name]}",
            )
        elif number(requests[name]) != number(limits[name]):
            what = f"is {requests[name]}, but resources.limits.{name} is {limits[name]}: with component exclusive-cpus "
            yield f"resources.requests.{name}", f"{what}they are the same", f"give {limits[name]}"
    if number(limits.get("cpu", 0)).denominator != 1:
        what = f"is {limits['cpu']}, but component exclusive-cpus gives whole CPUs"
        yield "resources.limits.cpu", what, "give a whole number"


def check_gpus(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """One process for each GPU, and a component that says what kind they are."""
    limits = spec.get("resources", {}).get("limits")
    processes = spec.get("processesPerNode")
    for component, name in GPUS.items():
        key = f"resources.limits.{name}"
        if component not in chosen:
            if limits and name in limits:
                yield (
                    key,
                    f"is given, but component {component} is not listed",
                    f"list it (WITH={component}), or remove it",
                )
            continue
        if limits is not None and name not in limits:
            yield key, f"is missing, and component {component} uses it", "give the number of GPUs of each pod, twice"
        elif limits and processes and number(limits[name]) != processes:
            what = f"is {limits[name]}, but processesPerNode is {processes}: there is one process for each GPU"
            yield key, what, "make both the same"
        if (processes or 1) > 1 and "shm" not in chosen:
            what = f"is {processes} with component {component}: GPUs talk through shared memory, and 64 MB are too few"
            yield "processesPerNode", what, "list component shm, with sharedMemory: 16Gi"
    if set(GPUS) <= chosen:
        yield "components", "name gpu-nvidia and gpu-amd", "keep the one that the nodes have"
    if "image-intel" in chosen and chosen & set(GPUS):
        yield "components", "name image-intel beside GPUs, but that image knows CPUs only", "leave one of them out"


def check_rest(spec: Spec, chosen: set[str], runtime: str) -> Complaints:
    """Values of single components."""
    memory = spec.get("resources", {}).get("limits", {}).get("memory")
    shared = spec.get("sharedMemory")
    if memory and shared and number(shared) >= number(memory):
        what = f"is {shared}, not less than resources.limits.memory {memory}, which it counts against"
        yield "sharedMemory", what, "lower it, or raise the limit"
    port = spec.get("metrics", {}).get("port")
    if port in TAKEN:
        yield "metrics.port", f"is {port}, where {TAKEN[port]}", "give another one: 9464"
