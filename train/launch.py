"""Start the processes of one training on this machine with torchrun, and translate how they ended.

    python -m train.launch --nproc 2 --threads 1 -- --recipe R --model DIR --data RUN/data --output RUN

What stands behind -- goes to train.finetune. SIGTERM and SIGINT are passed on to the processes, which save a
checkpoint and leave; torchrun's own way would kill them after 30 seconds, less than a step can take on CPUs.
Exit status: that of train.finetune (0, 2 or 75), 1 when a process failed or was killed.
"""

import argparse
import os
import signal
import socket
import sys

from train.errors import InputError, problem, run_program
from train.layout import choose_layout, thread_settings
from train.orphans import LAUNCHER_PID


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nproc", type=int, help="processes; default: one a NUMA node")
    parser.add_argument("--threads", type=int, help="threads of each process; default: its share of the cores")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="-- and the arguments of train.finetune")
    arguments = parser.parse_args()
    layout = choose_layout(arguments.nproc, arguments.threads)
    os.environ.update(thread_settings(layout.threads))
    os.environ[LAUNCHER_PID] = str(os.getpid())
    return launch(layout.processes, [part for part in arguments.rest if part != "--"])


def launch(processes: int, arguments: list[str]) -> int:
    """Run train.finetune in `processes` processes; returns the exit status."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import run as torchrun

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    # Given a signal that nobody sends, torchrun leaves the others to pass_on.
    options = [
        "--nproc-per-node",
        str(processes),
        "--signals_to_handle",
        "SIGUSR2",
        *meeting_point(),
        "--max-restarts",
        "0",
    ]
    try:
        torchrun(get_args_parser().parse_args([*options, "-m", "train.finetune", *arguments]))
    except ChildFailedError as error:
        return translate(error)
    return 0


def meeting_point() -> list[str]:
    """Where the processes meet: a free port, or the user's MASTER_PORT. Raises InputError if that is taken."""
    port = os.environ.get("MASTER_PORT")
    if port is None:
        return ["--standalone"]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except (OSError, OverflowError, ValueError) as error:
            fix = "choose another port, or unset MASTER_PORT to have a free one taken"
            raise InputError(problem("MASTER_PORT", port, f"cannot be used: {error}", fix)) from None
    return ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", port]


def pass_on(number: int, frame) -> None:
    """Hand a signal to the training processes, the children of this one."""
    for pid in child_processes():
        os.kill(pid, number)


def child_processes() -> list[int]:
    """Pids of this process's children."""
    import psutil

    return [child.pid for child in psutil.Process().children()]


def translate(error) -> int:
    """The exit status for processes that failed; says in a sentence which failed first and how."""
    statuses = {failure.exitcode for failure in error.failures.values()}
    for status in (2, 75):
        if status in statuses:
            return status
    rank, first = error.get_first_failure()
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        hint = " (the kernel does so when memory runs out: see dmesg)" if name == "SIGKILL" else ""
        how = f"was killed by {name}{hint}"
    else:
        how = f"ended with status {first.exitcode}; its error stands above"
    print(f"error: training process {rank} {how}. The same command goes on from the last checkpoint.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_program(main)
