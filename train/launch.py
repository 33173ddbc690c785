"""Start the processes of one training on this machine, with torchrun or by fork, and translate how they ended.

    python -m train.launch --nproc 2 --threads 1 -- --recipe R --model DIR --data RUN/data --output RUN
    python -m train.launch --nproc 1 --nodes 1:2 --leader HOST:29500 --host --address IP -- …    (on each machine)

The processes are forks of this program, where they can be (train.nursery). On this machine alone it starts them itself;
else torchrun does. On several machines the one with --host keeps torchrun's meeting point (c10d);
--nodes 1:2 goes on with one machine when the other is lost, and takes it in again when it is back. What stands behind
-- goes to train.finetune. SIGTERM and SIGINT are passed on to the processes, which save a checkpoint and leave;
torchrun's own way would kill them after 30 seconds, less than a step can take on CPUs.
Exit status: that of train.finetune (0, 2 or 75), 1 when a process failed or was killed.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from train.allocator import prefer_tcmalloc
from train.child import become_rank, hold_back, let_go
from train.errors import InputError, problem, run_program
from train.layout import Layout, choose_layout, thread_settings
from train.libraries import import_libraries
from train.nursery import can_fork
from train.orphans import LAUNCHER_PID
from train.ranks import STARTED, process_start, run_ranks

LAST_CALL = 20  # seconds for more machines to come once there are enough: about what one takes to import torch
REASON = "TUNEFLEET_REASON"  # a file that gets why the training ended, in a sentence


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nproc", type=int, help="processes; default: one a NUMA node")
    parser.add_argument("--threads", type=int, help="threads of each process; default: its share of the cores")
    parser.add_argument("--nodes", default="1", help="machines of the training: 2, or 1:2 for elastic")
    parser.add_argument("--leader", default="", help="host:port of the machine with --host, where there are several")
    parser.add_argument("--host", action="store_true", help="this is the machine at which the others meet")
    parser.add_argument("--address", default="", help="this machine's address, as the others reach it")
    parser.add_argument("--grace", type=int, default=30, help="seconds a process may take to save and leave")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="-- and the arguments of train.finetune")
    arguments = parser.parse_args()
    layout = Layout(arguments.nproc, arguments.threads, "given")
    if not (arguments.nproc and arguments.threads):  # both come from who has checked them
        layout = choose_layout(arguments.nproc, arguments.threads)
    os.environ.update(thread_settings(layout.threads))
    os.environ[LAUNCHER_PID] = str(os.getpid())
    os.environ[STARTED] = str(process_start())
    rest = [part for part in arguments.rest if part != "--"]
    import_libraries()
    if arguments.leader:
        return launch(layout.processes, meet_others(arguments), arguments.grace, rest)
    if can_fork():
        return launch_here(layout.processes, arguments.grace, rest)
    return launch(layout.processes, meet_here(), arguments.grace, rest)


def launch_here(processes: int, grace: int, arguments: list[str]) -> int:
    """Run train.finetune in `processes` processes of this machine, without torchrun; returns the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    statuses = run_ranks(processes, meeting_point(), grace, arguments)
    failed = [(rank, status) for rank, status in statuses.items() if status]
    return conclude({status for _, status in failed}, *failed[0]) if failed else 0


def launch(processes: int, meeting: list[str], grace: int, arguments: list[str]) -> int:
    """Run train.finetune in `processes` processes that meet as `meeting` says; returns the exit status."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, get_args_parser
    from torch.distributed.run import run as torchrun

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    # When a machine joins, torchrun asks the processes to leave, and kills them 30 seconds later whatever its options.
    LocalElasticAgent._shutdown.__defaults__ = (signal.SIGTERM, grace)
    # Given a signal that nobody sends, torchrun leaves the others to pass_on.
    options = [
        "--nproc-per-node",
        str(processes),
        "--signals_to_handle",
        "SIGUSR2",
        *meeting,
        "--max-restarts",
        "0",
    ]
    chosen = get_args_parser().parse_args([*options, "-m", "train.finetune", *arguments])
    try:
        if can_fork():
            os.register_at_fork(before=hold_back, after_in_parent=let_go)
            chosen.start_method = "fork"
            elastic_launch(config_from_args(chosen)[0], run_rank)(*arguments)
        else:
            torchrun(chosen)
    except ChildFailedError as error:
        return translate(error)
    return 0


def run_rank(*arguments: str) -> None:
    """One process of the training, forked by torchrun, which has put its place into the environment."""
    become_rank(["-m", "train.finetune", *arguments], dict(os.environ), int(os.environ[LAUNCHER_PID]))


def meet_others(arguments: argparse.Namespace) -> list[str]:
    """torchrun's options for processes on several machines. Waiting for one that is not there yet is no failure."""
    # Where torchrun 2.13 shares its store with the processes, it tells the first one's address in its first round only:
    # a machine that joins a later round would wait for it in vain.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    settings = {"is_host": int(arguments.host), "join_timeout": 7 * 86400, "last_call_timeout": LAST_CALL}
    options = ["--nnodes", arguments.nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", arguments.leader]
    options += ["--rdzv-id", "tunefleet", "--rdzv-conf", ",".join(f"{key}={value}" for key, value in settings.items())]
    return [*options, *(["--local-addr", arguments.address] if arguments.address else [])]


def meet_here() -> list[str]:
    """torchrun's options for processes on this machine alone, which meet at a free port, or at the user's MASTER_PORT.

    Raises InputError if that is taken.
    """
    port = os.environ.get("MASTER_PORT")
    if port is None:
        return ["--standalone"]
    meeting_point().close()
    return ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", port]


def meeting_point() -> socket.socket:
    """A socket that listens at a free port, or at the user's MASTER_PORT. Raises InputError if that is taken."""
    port = os.environ.get("MASTER_PORT", "0")
    try:
        return socket.create_server(("127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as error:
        fix = "choose another port, or unset MASTER_PORT to have a free one taken"
        raise InputError(problem("MASTER_PORT", port, f"cannot be used: {error}", fix)) from None


def pass_on(number: int, frame) -> None:
    """Hand a signal to the training processes, the children of this one."""
    for pid in child_processes():
        os.kill(pid, number)


def child_processes() -> list[int]:
    """Pids of this process's children."""
    import psutil

    return [child.pid for child in psutil.Process().children()]


def translate(error) -> int:
    """The exit status for processes of which torchrun says that they failed."""
    rank, first = error.get_first_failure()
    return conclude({failure.exitcode for failure in error.failures.values()}, rank, first.exitcode)


def conclude(statuses: set[int], rank: int, first: int) -> int:
    """The exit status for processes that failed; says in a sentence how that `rank` failed that was first to."""
    for status in (2, 75):
        if status in statuses:
            return status
    if first < 0:
        name = signal.Signals(-first).name
        hint = " (the kernel does so when memory runs out: see dmesg)" if name == "SIGKILL" else ""
        how = f"was killed by {name}{hint}"
    else:
        how = f"ended with status {first}; its error stands above"
    print(f"error: training process {rank} {how}. The same command goes on from the last checkpoint.", file=sys.stderr)
    note_reason(f"training process {rank} {how}")
    return 1


def note_reason(text: str) -> None:
    """Leave the reason where the program that started this one looks for it, if it does."""
    if os.environ.get(REASON):
        Path(os.environ[REASON]).write_text(text)


if __name__ == "__main__":
    prefer_tcmalloc()
    run_program(main)
