"""Every use case with every runtime and every placement component, as kustomizations of their own in a directory.

Many variants are rendered by one `kubectl kustomize`: each in a namespace of its own, so that no two names meet.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from scripts.cluster.kubectl import environment
from scripts.cluster.names import RUNTIMES
from scripts.cluster.placement import check_placement, dump_placement, read_placement

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ROOT / "kustomize" / "components"
OVERLAYS = sorted(path.parent for path in (ROOT / "kustomize" / "overlays").glob("*/kustomization.yaml"))
PLACEMENT = sorted(path.name for path in COMPONENTS.iterdir() if not path.name.startswith(("runtime-", "store-")))
FOREIGN = {"gpu-amd", "gpu-nvidia"}  # of which only one can be where a run is; image-intel is for neither
A_BATCH = 24

# What the components need in cluster.yaml.
VALUES = {
    "queue-kueue": {"queue": "finetune"},
    "priority": {"priority": "finetune-high"},
    "shm": {"sharedMemory": "512Mi"},
    "proxy": {"proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "except": ".svc,10.0.0.0/8"}},
    "node-selection": {"nodeSelector": {"example.com/zone": "north", "disk": "true"}},
    "node-taint": {"nodeTaint": "example.com/training"},
    "gpu-amd": {"deviceGroups": [44, 109]},
    "metrics": {"metrics": {"port": 9464, "namespace": "monitoring"}},
    "podmonitor": {"podMonitor": {"release": "kube-prometheus-stack"}},
}
NEEDS = {"priority": ["queue-kueue"], "podmonitor": ["metrics"], "gpu-nvidia": ["shm"], "gpu-amd": ["shm"]}


@dataclass(frozen=True)
class Variant:
    """One overlay with another runtime and more components; `name` is its run and its namespace."""

    name: str
    overlay: str
    runtime: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.overlay} x {self.runtime} x {' '.join(self.components) or 'nothing more'}"


def variants() -> list[Variant]:
    """Every overlay x every runtime x (nothing, each component, all that go together on CPUs, on either GPU)."""
    cpus = [name for name in PLACEMENT if name not in FOREIGN]
    gpus = [
        [name for name in PLACEMENT if name not in FOREIGN | {"image-intel"} or name == gpu] for gpu in sorted(FOREIGN)
    ]
    more = [[], *([name] for name in PLACEMENT), cpus, *gpus]
    every = product([path.name for path in OVERLAYS], RUNTIMES, more)
    return [
        Variant(f"v{number}", *one[:2], tuple(one[2])) for number, one in enumerate(every) if sensible(one[0], one[2])
    ]


def sensible(overlay: str, more: list[str]) -> bool:
    """False for what the placement's rules refuse: AMD's GPUs or Intel's image where the overlay has NVIDIA's GPUs."""
    return not (own_components(overlay) & FOREIGN and set(more) & (FOREIGN | {"image-intel"}) - own_components(overlay))


def own_components(overlay: str) -> set[str]:
    """The components that an overlay lists itself."""
    listed = yaml.safe_load((ROOT / "kustomize" / "overlays" / overlay / "kustomization.yaml").read_text())[
        "components"
    ]
    return {Path(path).name for path in listed}


def components_of(variant: Variant) -> list[str]:
    """What the variant's kustomization lists between base and runtime."""
    own = [name for name in sorted(own_components(variant.overlay)) if name != "base" and "runtime-" not in name]
    if variant.runtime == "mpijob":  # whose pods need a store that all of them see
        own = ["store-pvc" if name == "store-s3" else name for name in own]
    wanted = [*own, *variant.components]
    return list(dict.fromkeys([*wanted, *(need for name in wanted for need in NEEDS.get(name, []))]))


def placement_of(variant: Variant) -> dict[str, Any]:
    """The overlay's placement with what the components need."""
    spec = deepcopy(read_placement(ROOT / "kustomize" / "overlays" / variant.overlay / "cluster.yaml")[0])
    components = components_of(variant)
    if "store-s3" not in components:
        spec.pop("s3", None)
    for name in components:
        spec |= {key: value for key, value in VALUES.get(name, {}).items() if key not in spec}
    spec["run"] = variant.name
    target = "cuda" if "gpu-nvidia" in components else "intel" if "image-intel" in components else "cpu"
    spec["image"] = "example.com/rocm:6.4@sha256:" + "0" * 64 if "gpu-amd" in components else f"t/t:{target}-{'0' * 12}"
    if variant.runtime != "pytorchjob":
        spec["minNodes"] = spec["nodes"]
    limits = spec["resources"]["limits"]
    for gpu, name in (("gpu-nvidia", "nvidia.com/gpu"), ("gpu-amd", "amd.com/gpu")):
        if gpu in components:
            limits[name] = str(spec["processesPerNode"])
    spec["resources"]["requests"] = dict(limits)
    return spec


def write(variant: Variant, directory: Path) -> None:
    """A kustomization of the variant, on the repository's own base and components."""
    source = ROOT / "kustomize" / "overlays" / variant.overlay
    directory.mkdir(parents=True)
    up = os.path.relpath(ROOT / "kustomize", directory.resolve())
    listed = [
        "base",
        *(f"components/{name}" for name in components_of(variant)),
        f"components/runtime-{variant.runtime}",
    ]
    whole = yaml.safe_load((source / "kustomization.yaml").read_text())
    whole |= {"namespace": variant.name, "components": [f"{up}/{name}" for name in listed]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    (directory / "train.yaml").write_text((source / "train.yaml").read_text())
    (directory / "cluster.yaml").write_text(dump_placement(placement_of(variant)))


def problems_of_placement(variant: Variant) -> list[str]:
    """What the placement's rules say of the variant."""
    return check_placement(placement_of(variant), components_of(variant), variant.runtime, str(variant))


def kustomize(directory: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl kustomize` renders, with nothing else."""
    command = ["kubectl", "kustomize", directory]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{directory}: {done.stderr}"
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def render(chosen: list[Variant], directory: Path) -> dict[Variant, list[dict[str, Any]]]:
    """Every variant's objects."""
    for variant in chosen:
        write(variant, directory / variant.name)
    together = []
    for number, some in enumerate(chosen[at : at + A_BATCH] for at in range(0, len(chosen), A_BATCH)):
        together.append(directory / f"batch{number}")
        together[-1].mkdir()
        whole = {"resources": [f"../{variant.name}" for variant in some]}
        (together[-1] / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    with ThreadPoolExecutor(2) as pool:
        objects = [one for some in pool.map(kustomize, together) for one in some]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in objects:
        by_name.setdefault(one["metadata"]["namespace"], []).append(one)
    return {variant: by_name.get(variant.name, []) for variant in chosen}
