"""The processes of a training on this machine alone: forked where the libraries are imported already.

torchrun would import them once for itself and once more for each process. The ranks meet at a socket that is open
before they begin, so that none has to find a free port or to wait for another.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable

from train.child import become, held_back

STARTED = "TUNEFLEET_STARTED"  # when train.launch began, in seconds since 1970
MEETING = "TUNEFLEET_MEETING"  # for rank 0: the descriptor of the socket at which the ranks meet


def run_ranks(processes: int, meeting: socket.socket, grace: float, arguments: list[str]) -> dict[int, int]:
    """Run train.finetune in `processes` processes; returns the status of each rank, in the order in which they ended.

    The others are asked to leave when one fails, and killed `grace` seconds later.
    """
    host, port = meeting.getsockname()
    ranks: dict[int, int] = {}
    launcher = os.getpid()
    with held_back():
        for rank in range(processes):
            pid = os.fork()
            if pid == 0:
                own = place(rank, processes, host, port) | {MEETING: str(os.dup(meeting.fileno()) if rank == 0 else -1)}
                meeting.close()
                become(["-m", "train.finetune", *arguments], os.environ | own, launcher)
            ranks[pid] = rank
    meeting.close()
    return wait(ranks, grace)


def place(rank: int, processes: int, host: str, port: int) -> dict[str, str]:
    """What torchrun would say to a rank of one machine."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    values |= {"MASTER_ADDR": host, "MASTER_PORT": port, "GROUP_RANK": 0}
    return {name: str(value) for name, value in values.items()}


def wait(ranks: dict[int, int], grace: float) -> dict[int, int]:
    """Wait for all processes, by pid their ranks; returns their statuses, in the order in which they ended."""
    statuses: dict[int, int] = {}
    killer = None
    while ranks:
        pid, status = os.wait()
        if pid not in ranks:
            continue
        statuses[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
        if killer is None and any(statuses.values()):
            send(ranks, signal.SIGTERM)
            killer = threading.Timer(grace, send, (ranks, signal.SIGKILL))
            killer.start()
    if killer:
        killer.cancel()
    return statuses


def process_start() -> float:
    """When this process began, in seconds since 1970."""
    import psutil

    return psutil.Process().create_time()


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes that were not waited for yet."""
    for pid in list(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
