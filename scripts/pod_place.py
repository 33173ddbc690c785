"""Where a pod stands in its run: what its environment says, the same for every runtime (kustomize/base, components)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from train.errors import InputError, problem

PORT = 29500
# Annotation of cluster.yaml, which make deploy writes; scripts/cluster, which has the name too, is not in the image.
OVERLAY = "tunefleet.io/overlay"
# By runtime: the name of a pod, by run and index. An MPIJob's ranks are started by its launcher, who knows their hosts.
NAMES = {"job": "{0}-{1}.{0}", "pytorchjob": "{0}-worker-{1}", "trainjob": "{0}-node-0-{1}.{0}", "mpijob": ""}


@dataclass(frozen=True)
class Place:
    """One pod of a run."""

    run: str
    image: str
    runtime: str
    index: int  # of this pod; 0 leads: it prepares, merges, proves and reports
    nodes: int
    min_nodes: int  # less than nodes: elastic
    processes: int  # of each pod
    threads: int  # of each process
    restarts: int  # failures in a row, without a new checkpoint between them, before the run has failed
    grace: int  # seconds from being asked to leave to SIGKILL: the pod's terminationGracePeriodSeconds
    address: str
    node: str
    leader: str
    port: int  # at which torchrun's processes meet, on the leader
    store: Path

    @property
    def leads(self) -> bool:
        """Whether this pod speaks for the run."""
        return self.index == 0

    @property
    def others(self) -> list[str]:
        """Names of the pods that this one watches while it trains: the leader all others, the others the leader."""
        if not self.leads:
            return [self.leader]
        return [NAMES[self.runtime].format(self.run, index) for index in range(1, self.nodes)]

    @property
    def seconds_to_save(self) -> int:
        """What processes that are asked to leave get for a checkpoint: less than the pod has, to end and to mirror."""
        return self.grace * 4 // 5

    @property
    def directory(self) -> Path:
        """The run's directory on the store."""
        return self.store / "runs" / self.run


def read_overlay(config: Path) -> str:
    """The use case of the run, as make deploy wrote it into cluster.yaml; empty where nobody did."""
    path = config / "cluster.yaml"
    whole = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return whole.get("metadata", {}).get("annotations", {}).get(OVERLAY, "")


def read_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment describes. Raises InputError naming every variable that is missing or wrong."""
    problems: list[str] = []

    def text(name: str, default: str | None = None) -> str:
        value = environment.get(name, default)
        if not value:
            problems.append(problem("environment", name, "is not set", "render the run anew: make deploy"))
        return value or ""

    def number(name: str, default: str | None = None) -> int:
        value = text(name, default)
        if value and not value.isdigit():
            problems.append(problem("environment", name, f"{value!r} is no number", "render the run anew: make deploy"))
        return int(value) if value.isdigit() else 0

    runtime, run = text("RUNTIME"), text("RUN")
    if runtime and runtime not in NAMES:
        problems.append(problem("environment", "RUNTIME", f"{runtime} is unknown", f"one of {', '.join(NAMES)}"))
    place = Place(
        run=run,
        image=text("IMAGE"),
        runtime=runtime,
        index=number("NODE_INDEX"),
        nodes=number("NODES"),
        min_nodes=number("MIN_NODES"),
        processes=number("PROCESSES"),
        threads=number("THREADS"),
        restarts=number("RESTARTS"),
        grace=number("GRACE_SECONDS"),
        address=environment.get("POD_IP", ""),
        node=environment.get("NODE_NAME", ""),
        leader=environment.get("LEADER") or NAMES.get(runtime, "").format(run, 0),
        port=number("PORT", str(PORT)),
        store=Path(environment.get("STORE", "/store")),
    )
    if problems:
        raise InputError(problems)
    return place
