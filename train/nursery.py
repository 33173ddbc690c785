"""One process that has imported the libraries, and forks a child for each program of a run.

torch, transformers and PEFT take seconds to import, and a run would do it for each of its stages and ranks. The nursery
imports them once and computes nothing, so that what it forks is as good as a fresh process: its memory is its own and
given back with it, and it can be killed by itself. Its only threads are those that numpy's OpenBLAS starts when it is
imported: they wait, and OpenBLAS ends them before a fork (pthread_atfork) and starts others where it needs them.

The kernel kills a child with the nursery, and the nursery with the program that has it. Only on Linux, and not where
there is an accelerator, whose driver survives no fork: there programs are started as ever.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys

from train.child import SIGNALS, become, held_back
from train.libraries import import_libraries
from train.orphans import LAUNCHER_PID, die_with_parent


class Nursery:
    """The nursery as the program sees it that has it; a context. To be made before that program starts any thread."""

    def __init__(self, environment: dict[str, str]):
        """Fork the nursery; `environment` holds what the libraries read when they are loaded (train.layout)."""
        self.pid = self.channel = self.answers = None
        if sys.platform != "linux":
            return
        self.channel, other = socket.socketpair()
        sys.stdout.flush()
        owner = os.getpid()
        with held_back():
            self.pid = os.fork()
            if self.pid == 0:
                self.channel.close()
                os.environ.update(environment, **{LAUNCHER_PID: str(owner)})
                serve(other)
        other.close()
        self.answers = self.channel.makefile("r")

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_) -> None:
        """End the nursery, and with it what it may still have running."""
        if self.pid:
            self.answers.close()
            self.channel.close()
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def start(self, words: list[str], environment: dict[str, str], lock: int = -1) -> "Child | subprocess.Popen":
        """Start `python -m …`, `words` beginning with "-m". The process holds the open file `lock`, if there is one."""
        pid = None
        if self.channel:
            try:
                socket.send_fds(self.channel, [b"."], [lock] if lock >= 0 else [])
                self.channel.sendall(json.dumps({"words": words, "environment": environment}).encode() + b"\n")
                pid = json.loads(self.answers.readline() or "null")
            except OSError:
                pass  # it was killed; nothing was started
        if pid is None:
            return subprocess.Popen([sys.executable, *words], env=environment, pass_fds=(lock,) if lock >= 0 else ())
        return Child(pid, self.answers)


class Child:
    """A program in a process of the nursery; as much of subprocess.Popen as is needed."""

    def __init__(self, pid: int, answers):
        self.pid, self.returncode, self.answers = pid, None, answers

    def wait(self) -> int:
        """The program's exit status, once it has ended; negative: the signal that killed it."""
        if self.returncode is None:
            answer = self.answers.readline()
            # No answer: the nursery was killed, and its child with it.
            self.returncode = json.loads(answer) if answer else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended. Its pid is nobody else's before the next start()."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # the nursery was killed, and its child with it
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


def serve(channel: socket.socket) -> None:
    """The nursery itself; returns never, neither here nor in its children."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal's Ctrl-C reaches it too, but it is for the program, which passes it on and lets the nursery go.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    request = None
    try:
        die_with_parent()
        import_libraries()
        prepare_loading()
        gc.collect()
        gc.freeze()  # collecting garbage would write to every object, and so copy what children share
        if can_fork():
            request = next_request(channel)
    finally:
        if request is None:  # whatever is wrong here, the programs themselves will say it, started as ever
            os._exit(0)
    become(**request)


def prepare_loading() -> None:
    """Have transformers compile its tables of tensor names, which else costs each child's first loading 0.4 s."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")  # of any model; it keeps the tables of all


def can_fork() -> bool:
    """Whether a fork of this process can compute. An accelerator's driver survives none, and macOS' own libraries."""
    import torch

    return sys.platform == "linux" and not torch.accelerator.is_available()


def next_request(channel: socket.socket) -> dict | None:
    """Fork a child for each request, one after the other, and tell its pid and then how it ended.

    Returns in each child what it is to do, and None in the nursery when nobody is left to ask for more.
    """
    requests, before = channel.makefile("r"), None
    while True:
        mark, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not mark:
            return None
        request = json.loads(requests.readline())
        if before:
            os.waitpid(before, 0)
        own = os.getpid()
        with held_back():
            before = os.fork()
            if before == 0:
                channel.close()
                requests.close()
                return request | {"parent": own}
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(f"{before}\n".encode())
        # Not waited for until the next request, so that its pid is nobody else's as long as it may be sent a signal.
        ended = os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        channel.sendall(f"{status}\n".encode())
