"""What a forked process does to be a program of its own: arguments, environment, signals, threads, name."""

import atexit
import ctypes
import os
import runpy
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from train.libraries import set_up_libraries
from train.orphans import LAUNCHER_PID, die_with_parent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
HANDLERS = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}


def hold_back() -> None:
    """Have signals wait, until run_as() or let_go()."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def let_go() -> None:
    """Have signals come again, those that waited first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait while the block forks: a child would meet them with its parent's handlers. run_as() lets them go."""
    hold_back()
    parent = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == parent:
            let_go()


def become(words: list[str], environment: dict[str, str], parent: int) -> NoReturn:
    """Be `python -m …` from here on, `words` beginning with "-m"; ends with its exit status.

    `parent` is the pid that the parent had before the fork: it may have ended since.
    """
    status: int | str | None = 1
    try:
        status = run_as(words, environment, parent)
    finally:
        leave(status)


def become_rank(words: list[str], environment: dict[str, str], parent: int) -> None:
    """As become(), for torchrun, which forks too: it waits for the function's return, or for an exit status but 0."""
    status: int | str | None = 1
    try:
        status = run_as(words, environment, parent)
    finally:
        if status not in (None, 0):
            leave(status)
    finish()


def run_as(words: list[str], environment: dict[str, str], parent: int) -> int | str | None:
    """Run `python -m …` in this process; returns what it ended with: a status, a reason, None for 0."""
    forget_parent()
    os.environ.clear()
    os.environ.update(environment | {LAUNCHER_PID: str(parent)})
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    let_go()
    try:
        die_with_parent()
        sys.orig_argv = [sys.executable, *words]
        sys.argv = words[1:]
        sys.stdout.reconfigure(line_buffering=True)  # as torchrun has it: who follows a log sees each line at once
        show_as(["python", *words])
        set_up_libraries(rank=int(environment.get("RANK", "0")))
        if "torch" in sys.modules and environment.get("OMP_NUM_THREADS", "").isdigit():
            sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))  # OpenMP read it before the fork
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code
    return 0


def forget_parent() -> None:
    """What the parent does at its own end, such as removing its temporary directories, is not for a child to do."""
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False


def leave(status: int | str | None) -> NoReturn:
    """End this process as Python ends a program; nothing may reach the program that it was forked from."""
    try:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        if status is not None and not isinstance(status, int):  # sys.exit("a reason")
            print(status, file=sys.stderr)
        finish()
    finally:
        os._exit(status if isinstance(status, int) else int(status is not None))


def finish() -> None:
    """What Python does before it ends; multiprocessing's forks do the same."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


def show_as(words: list[str]) -> None:
    """Have ps and top show this command line, as much of it as there is room for. Linux only; elsewhere the old stays.

    The kernel shows the memory in which it once put the arguments; /proc/self/stat says where that is.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    begin, end = int(fields[45]), int(fields[46])
    text = "\0".join(words).encode()[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
