"""The training of a run in one pod, started again after every failure that may have been another pod's."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from scripts import pod_mpi, pod_peers
from scripts.chain import run_child
from scripts.pod_place import Place
from train.checkpoint import steps_of
from train.errors import EXIT_BAD_INPUT
from train.events import tell
from train.hardware import cgroup_directories, read_text
from train.launch import REASON
from train.layout import thread_settings
from train.nursery import Nursery
from train.orphans import LAUNCHER_PID
from train.recipe import load_recipe

STOPPED = 75  # train.finetune: a checkpoint was saved because some process of the run was asked to leave
LONGEST_PAUSE = 30.0


class Ended(Exception):
    """The pod's work is over; `status` is the exit status, the text the reason."""

    def __init__(self, status: int, reason: str):
        self.status = status
        super().__init__(reason)


def read_run(run: Path) -> tuple[SimpleNamespace, Path]:
    """Recipe and base model of a prepared run."""
    return load_recipe(run / "train.yaml"), Path(json.loads((run / "run.json").read_text())["model_path"])


def train(
    place: Place,
    words: list[str],
    lock: int,
    nursery: Nursery | None = None,
    before: Callable[[], bool] = lambda: True,
) -> float:
    """Train until it is done; returns the seconds. Raises Ended when asked to leave, or when going on is of no use.

    `words` start train.launch; `before` is asked before each start whether there is anything left to do. Failures
    count only as long as no new checkpoint comes between them.
    """
    started, failures = time.monotonic(), 0
    if place.leads:
        print("--- train", flush=True)
        tell("stage", stage="train", state="started")
    while before():
        reached, killed = newest(place.directory), kills_for_memory()
        status, received, reason = attempt(place, words, lock, nursery)
        if received:
            raise Ended(143, "was asked to leave, and left a checkpoint" if status == STOPPED else "was asked to leave")
        if status == 0:
            break
        if status == EXIT_BAD_INPUT:
            raise Ended(EXIT_BAD_INPUT, "the training found bad input; its messages stand in the log")
        progress = newest(place.directory) > reached
        if kills_for_memory() > killed:
            reason = f"a process was killed because the pod's memory limit was reached ({memory_limit()})"
            if not progress:
                raise Ended(1, f"{reason}; raise resources.limits.memory, or lower per_device_train_batch_size")
        failures = 0 if progress or status == STOPPED else failures + 1
        if failures > place.restarts:
            raise Ended(1, f"{reason}; failed {failures} times without a new checkpoint")
        tell("restart", attempt=failures, reason=reason)
        time.sleep(min(2.0**failures, LONGEST_PAUSE))
    seconds = time.monotonic() - started
    if place.leads:
        tell("stage", stage="train", state="done", seconds=round(seconds, 1))
    return seconds


def attempt(place: Place, words: list[str], lock: int, nursery: Nursery | None = None) -> tuple[int, int | None, str]:
    """Start the processes once; returns their status, the signal this pod got meanwhile, and a reason in words."""
    note = Path(os.environ.get("TMPDIR", "/tmp")) / "reason"
    note.unlink(missing_ok=True)
    environment = dict(os.environ) | {REASON: str(note)}
    silent: list[str] = []

    def watch(process: subprocess.Popen):
        def lost(name: str) -> None:
            silent.append(name)
            process.kill()  # its processes die with it; asked to stop, they would wait for the lost one

        return pod_peers.watched(peers, lost)

    if place.runtime == "mpijob":
        hosts = pod_mpi.read_hosts()
        pod_mpi.wait_for(hosts, lambda silent: tell("waiting", **{"for": ", ".join(silent)}))
        rank = ["python", "-m", "train.mpi_rank", *words[words.index("--") + 1 :]]
        environment |= thread_settings(place.threads)
        # mpirun passes SIGUSR1 on to the ranks, which save a checkpoint; at SIGTERM it would kill them.
        instead = {signal.SIGTERM: signal.SIGUSR1, signal.SIGINT: signal.SIGUSR1}
        command = pod_mpi.on_all(place, hosts, rank, environment)
        peers = [(host, pod_mpi.SSH_PORT) for host in hosts]
        status, received = run_child(command, environment, lock, instead, watch)
    else:
        environment |= {LAUNCHER_PID: str(os.getpid())}
        peers = [(name, pod_peers.PORT) for name in place.others]
        status, received = run_child(words, environment, lock, beside=watch, nursery=nursery)
    if silent:
        reason = f"{silent[0]} has been silent for {pod_peers.SILENT:.0f} s"
    elif status == STOPPED:
        reason = "another pod was asked to leave"
    elif note.exists():
        reason = note.read_text()
    else:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        reason = f"the training {how}"
    return status, received, reason


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 for none."""
    return max(steps_of(run / "checkpoints"), default=0)


def kills_for_memory() -> int:
    """How often the kernel has killed a process of this container because its memory limit was reached."""
    counts = [0]
    for directory in cgroup_directories(Path("/"), "memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in read_text(directory / name).splitlines():
                word, _, count = line.partition(" ")
                counts += [int(count)] if word == "oom_kill" and count.isdigit() else []
    return max(counts)


def memory_limit() -> str:
    """The container's memory limit in words."""
    limit = limit_of_memory()
    return f"{limit / 2**30:.1f} GiB" if limit else "none is set"


def limit_of_memory() -> int | None:
    """The container's memory limit in bytes, None where it has none."""
    found = [
        int(text)
        for directory in cgroup_directories(Path("/"), "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := read_text(directory / name)).isdigit() and int(text) < 1 << 60
    ]
    return min(found, default=None)
