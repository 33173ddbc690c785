"""The testbed's programs, kept alive as a cluster would: API server, scheduler, operators, its nodes' kubelets.

In a cluster an operator that loses its lease ends and its pod is started again, and systemd starts a kubelet again; the
testbed starts each only once. Its kubelets keep no cgroups of pods (`cgroupsPerQOS: false`), and such a one dies of a
nil pointer where a pod goes while it is started (kubernetes/kubernetes#137999).
"""

import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil

KEPT = ("apiserver", "controller", "scheduler", "operator", "coredns", "kwok")
IN_NODES = ("kubelet", "kube-proxy", "kube-router")
Program = tuple[list[bytes], dict[bytes, bytes], Path]  # words, environment, directory


class Keeper:
    """Starts again, within a second or so, what ended of the programs that ran when it began to look."""

    def __init__(self, state: Path):
        self.state, self.over = state, threading.Event()
        self.known = {name: program for name, program in known_programs(state).items() if name.startswith(KEPT)}
        self.in_nodes = node_programs()
        self.thread = threading.Thread(target=self.keep, daemon=True)

    def __enter__(self) -> "Keeper":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()

    def keep(self) -> None:
        """Look once a second until told to stop."""
        started: list[subprocess.Popen] = []
        while not self.over.wait(1):
            started = [process for process in started if process.poll() is None]  # or the dead would stay as zombies
            for name, program in self.known.items():
                if not pid_of(self.state, name):
                    print(f"\nthe testbed's {name} has ended and is started again", flush=True)
                    started.append(begin(self.state, name, *program))
            self.keep_nodes()

    def keep_nodes(self) -> None:
        """Start again what has ended in the nodes, once each time: a node may have been taken away on purpose."""
        ended = {key: words for key, (pid, began, words) in self.in_nodes.items() if start_of(pid) != began}
        for (node, name), words in ended.items():
            print(f"\nthe {name} of {node} has ended and is started again", flush=True)
            try:
                start_in_node(node, words)
            except subprocess.CalledProcessError:
                print(f"\nthe {name} of {node} could not be started again: the node does not answer", flush=True)
        if ended:
            self.in_nodes = node_programs()


def restart(name: str, seconds: float = 30) -> None:
    """Kill a program of the testbed, and return when the keeper has started it again."""
    state = Path(os.environ["KUBECONFIG"]).parent
    before = pid_of(state, name)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while pid_of(state, name) in (0, before):
        assert time.monotonic() < deadline, f"nobody starts {name} again: is no tests.cluster.programs.Keeper there?"
        time.sleep(0.2)


def node_programs() -> dict[tuple[str, str], tuple[int, str, list[str]]]:
    """By node and name: pid, start (see start_of) and words of every program of Kubernetes that runs in a node."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        name = Path(words[0]).name
        nodes = [word.partition("=")[2] for word in words if word.startswith("--hostname-override=")]
        if name in IN_NODES and nodes:
            found[nodes[0], name] = (process.pid, start_of(process.pid), words)
    return found


def start_in_node(node: str, words: list[str]) -> None:
    """Start a program in a node, in the way the testbed does. Raises CalledProcessError where the node cannot."""
    log = f"/run/{Path(words[0]).name}.log"
    command = f"nohup {shlex.join(words)} >> {log} 2>&1 < /dev/null &"
    subprocess.run(["ansible", node, "--module-name=shell", f"--args={command}"], capture_output=True, check=True)


def known_programs(state: Path) -> dict[str, Program]:
    """By name, what starts every program of the testbed that runs, each in the network it has now."""
    found = {}
    for path in (state / "pid").iterdir():
        if pid := pid_of(state, path.name):
            process = Path(f"/proc/{pid}")
            words, lines = ((process / part).read_bytes().split(b"\0")[:-1] for part in ("cmdline", "environ"))
            variables = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            # An operator has an address of its own, which its webhooks' Service names.
            network = subprocess.run(["ip", "netns", "identify", str(pid)], capture_output=True, check=True).stdout
            inside = [b"ip", b"netns", b"exec", network.strip()] if network.strip() else []
            found[path.name] = (inside + words, variables, (process / "cwd").readlink())
    return found


def pid_of(state: Path, name: str) -> int:
    """The pid of a program of the testbed, 0 where it does not run."""
    pid, began = (state / "pid" / name).read_text().split()
    return int(pid) if start_of(pid) == began else 0


def start_of(pid: int | str) -> str:
    """When a process began, in the kernel's ticks; empty for none, or one that has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def begin(state: Path, name: str, words: list, variables: dict, place: Path) -> subprocess.Popen:
    """Start a program of the testbed, in the way the testbed does."""
    with (state / "log" / f"{name}.log").open("ab") as log:
        new = subprocess.Popen(words, cwd=place, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               start_new_session=True)  # fmt: skip
    written = state / f"{name}.pid.new"  # readers must never see half a line
    written.write_text(f"{new.pid} {start_of(new.pid)}")
    written.replace(state / "pid" / name)
    return new
