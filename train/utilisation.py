"""How busy each process of a training is, and which one the others wait for.

A step ends for all processes together, since each needs the others' gradients; how long one computes shows only at the
moment when its own last gradient is there. A hook on each trained parameter notes that moment. The figures of all
processes travel in the all-reduce that every step has anyway (train.progress).
"""

import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

from train.processes import from_every_process

SLOWER = 1.2  # times the others: a rank from there on is told
LEAST_STEPS = 5  # rows differ in length, so one step says little
SECONDS_BETWEEN = 30.0


class Utilisation:
    """The figures of this process, and on each step those of all."""

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world
        self.nodes: list[str] = []
        self.ready = self.step_began = 0.0
        self.seen = self.counted = self.in_window = 0  # steps
        self.totals, self.window, self.waited = [0.0] * world, [0.0] * world, [0.0] * world
        self.window_began, self.named = time.perf_counter(), None
        self.wall_began, self.cpu_began = time.perf_counter(), time.process_time()

    def watch(self, parameters: Iterable[Any]) -> None:
        """Note from now on when this process's gradients are there. Not on an accelerator: it is behind the program."""
        for parameter in parameters:
            if parameter.requires_grad and parameter.device.type == "cpu":
                parameter.register_post_accumulate_grad_hook(self.note)

    def note(self, _parameter: Any) -> None:
        """A gradient is there; the last one of a step counts."""
        self.ready = time.perf_counter()

    def begin(self) -> None:
        """The training begins: all processes tell their nodes, once."""
        self.nodes = from_every_process(os.environ.get("NODE_NAME") or socket.gethostname(), self.world)
        self.wall_began, self.cpu_began = time.perf_counter(), time.process_time()

    def step_begins(self) -> None:
        """A step's clock starts."""
        self.step_began = time.perf_counter()

    def share(self) -> list[float]:
        """This process's seconds of the step among zeros, so that the sum over all processes is everybody's."""
        mine = [0.0] * self.world
        mine[self.rank] = max(self.ready - self.step_began, 0.0)
        return mine

    def take(self, seconds: list[float]) -> None:
        """Everybody's seconds of the step that ended. The first step is warming up and not counted."""
        self.seen += 1
        if self.seen == 1 or not all(seconds):
            return
        self.counted += 1
        self.in_window += 1
        for rank, own in enumerate(seconds):
            self.totals[rank] += own
            self.window[rank] += own
            self.waited[rank] += max(seconds) - own

    def slowest(self, now: float) -> tuple[int, float] | None:
        """The rank that computed longest in the last half minute, and how many times the others' median; else None."""
        if self.world == 1 or self.in_window < LEAST_STEPS or now - self.window_began < SECONDS_BETWEEN:
            return None
        found = slowest_of(self.window)
        self.window, self.window_began, self.in_window = [0.0] * self.world, now, 0
        return found

    def words(self, rank: int, ratio: float) -> str:
        """A line about a rank that others wait for; empty where it is none, or was told already."""
        before, self.named = self.named, rank if ratio > SLOWER else None
        if self.named is None or self.named == before:
            return ""
        where = f" on {self.nodes[rank]}" if self.nodes else ""
        return f"rank {rank}{where} computes {ratio:.1f}x as long a step as the others; they wait for it"

    def of_all(self) -> list[dict[str, Any]]:
        """One entry a rank, of the time since this start; all processes call this together."""
        import torch

        wall = max(time.perf_counter() - self.wall_began, 1e-9)
        busy = (time.process_time() - self.cpu_began) / (wall * torch.get_num_threads())
        said = from_every_process((round(busy, 3), round(peak_memory() / 1e9, 3)), self.world)
        return [
            {
                "rank": rank,
                "node": self.nodes[rank] if self.nodes else "",
                "cpu_share": share,
                "peak_memory_gb": memory,
                "step_compute_seconds": round(self.totals[rank] / self.counted, 4) if self.counted else None,
                "step_wait_seconds": round(self.waited[rank] / self.counted, 4) if self.counted else None,
            }
            for rank, (share, memory) in enumerate(said)
        ]


def slowest_of(seconds: list[float]) -> tuple[int, float]:
    """The rank with the most seconds, and how many times the median of the others that is."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    others = statistics.median(seconds[:rank] + seconds[rank + 1 :])
    return rank, seconds[rank] / max(others, 1e-9)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
