"""How many processes, and how many threads each: decided from cores, NUMA nodes and cgroup limits, with the reason.

Every process holds the weights, so the default is one process a NUMA node, never one a core. Physical cores only:
two hyper-threads share the units that multiply matrices.
"""

import os
from dataclasses import asdict, dataclass

from train.errors import InputError, problem
from train.hardware import Cpus, read_cpus


@dataclass(frozen=True)
class Layout:
    """Processes on this machine, threads of each, and why."""

    processes: int
    threads: int
    reason: str

    def as_dict(self) -> dict:
        """The layout as the run record holds it."""
        return asdict(self)


def choose_layout(processes: int | None = None, threads: int | None = None, cpus: Cpus | None = None) -> Layout:
    """The layout for the wanted processes and threads (None: decide). Raises InputError when there are fewer cores."""
    cpus = cpus or read_cpus()
    cores = cpus.cores
    seen = describe(cpus)
    problems = []
    if processes is not None and not 1 <= processes <= cores:
        what = f"{processes} processes on {cores} physical cores ({seen})"
        problems.append(problem("NPROC", "", what, f"take 1 to {cores}, or leave NPROC out"))
    elif processes and threads and processes * threads > cores:
        what = (
            f"{processes} processes x {threads} threads = {processes * threads}, but there are {cores} cores ({seen})"
        )
        problems.append(problem("THREADS", "", what, f"take at most {cores // processes}, or leave THREADS out"))
    elif threads is not None and not 1 <= threads <= cores:
        what = f"{threads} threads on {cores} physical cores ({seen})"
        problems.append(problem("THREADS", "", what, f"take 1 to {cores}, or leave THREADS out"))
    if problems:
        raise InputError(problems)
    if processes is None:
        processes = min(len(cpus.nodes), cores)
        why = f"one process a NUMA node, since each holds the weights ({seen})"
    else:
        why = f"{processes} process{'es' if processes > 1 else ''} asked for ({seen})"
    return Layout(processes, threads or max(1, cores // processes), why)


def thread_settings(threads: int) -> dict[str, str]:
    """Environment of a process with `threads` threads.

    A thread that waits for the others spins for a fraction of a millisecond and then sleeps. Sleeping at once made
    short operations three times slower (a norm of 1,408 x 2,048 numbers 9.5 instead of 3.3 ms on two cores); spinning
    for OpenMP's own three milliseconds makes a process slow beside others on the same cores.
    """
    wanted = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}  # GNU's OpenMP, in turns; Intel's, in milliseconds
    if "OMP_WAIT_POLICY" in os.environ:
        wanted = {}
    return {"OMP_NUM_THREADS": str(threads), **{name: os.environ.get(name, value) for name, value in wanted.items()}}


def describe(cpus: Cpus) -> str:
    """Cores, sockets, NUMA nodes and limit in one phrase."""
    total = sum(len(cores) for cores in cpus.nodes.values())
    parts = [f"{total} physical cores", f"{cpus.sockets} socket{'s' if cpus.sockets > 1 else ''}"]
    parts.append(f"{len(cpus.nodes)} NUMA node{'s' if len(cpus.nodes) > 1 else ''}")
    if cpus.quota is not None:
        parts.append(f"cgroup limit {cpus.quota:g} CPUs")
    return ", ".join(parts)
