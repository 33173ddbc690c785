"""The nodes of the tests: ssh to them beside Ansible, what their runtimes say, their links. conftest.py makes it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ansible.images import NAME, Image

ROOT = Path(__file__).resolve().parents[2]
DOCKERD = (
    "nohup dockerd --data-root /var/lib/containerd/docker --exec-root /run/dockerx -p /run/docker.pid "
    "-H unix:///var/run/docker.sock --bridge=none --iptables=false --ip-forward=false "
    ">/run/dockerd.log 2>&1 </dev/null &"
)
# What a push could leave: its directory, Ansible's files, programs that still run. Nodes of a testbed show files of the
# workstation too, outside /tmp: there only the names that Ansible gives count.
LEFT = r"""
ls -d /var/lib/tunefleet 2>/dev/null
find /tmp -mindepth 1
find /var -maxdepth 2 -path "*/tmp/*" -name "*ansible*"
ls -d ~/.ansible/tmp/ansible-tmp-* 2>/dev/null
ps -eo args | grep -e "[t]unefleet" -e "[a]nsible_"
true"""


def tool(name: str) -> str | None:
    """A program beside this Python, or in PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


class Cluster:
    def __init__(self, inventory: Path):
        self.inventory = inventory
        self.ansible = tool("ansible-playbook")
        listing = [str(Path(self.ansible).with_name("ansible-inventory")), "-i", str(inventory), "--list"]
        told = json.loads(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)
        self.hosts = told["_meta"]["hostvars"]
        self.names = list(self.hosts)
        self.old_names: set[str] = set()
        there = set().union(*self.names_on(self.names).values())
        self.old_names = {word for word in there if not word.startswith((NAME, "tunefleet"))}
        self.clean()

    # ---- asking nodes ----

    def ssh_command(self, name: str) -> list[str]:
        host = self.hosts[name]
        words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ControlPath=none"]
        words += shlex.split(host.get("ansible_ssh_common_args", ""))
        if key := host.get("ansible_ssh_private_key_file"):
            words += ["-i", key]
        return [*words, "-l", host.get("ansible_user", "root"), host.get("ansible_host", name)]

    def try_on(self, name: str, script: str, seconds: float = 60) -> subprocess.CompletedProcess:
        """A script on a node, in /var/lib."""
        argv = [*self.ssh_command(name), f"cd /var/lib && {{ {script}\n}}"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)

    def on(self, name: str, script: str, seconds: float = 60) -> str:
        done = self.try_on(name, script, seconds)
        assert done.returncode == 0, f"{name}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def on_all(self, names: list[str], script: str) -> dict[str, str]:
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(names, pool.map(lambda name: self.on(name, script), names), strict=True))

    def digest_on(self, names: list[str], image: Image) -> dict[str, str | None]:
        """The digest under which each node's own ctr lists the image's name."""
        listed = self.on_all(names, f"ctr -n k8s.io images ls name=={image.name}")
        return {name: next(iter(re.findall(r"sha256:\w+", text)), None) for name, text in listed.items()}

    def names_on(self, names: list[str]) -> dict[str, set[str]]:
        """Every name that came into a node's containerd since the tests began."""
        listed = self.on_all(names, "ctr -n k8s.io images ls -q")
        return {name: set(text.split()) - self.old_names for name, text in listed.items()}

    def run_on(self, names: list[str], image: Image) -> dict[str, str]:
        """What the image's program prints."""
        told = self.on_all(names, f"ctr -n k8s.io run --rm {image.by_digest} tunefleet-test-run")
        return {name: text.strip() for name, text in told.items()}

    def left_on(self, names: list[str]) -> dict[str, set[str]]:
        """What a push could have left there."""
        return {name: set(text.splitlines()) for name, text in self.on_all(names, LEFT).items()}

    def docker_nodes(self) -> list[str]:
        """Nodes whose dockerd answers; where there is none, one is started on the third node."""
        asked = self.on_all(self.names, "docker info --format '{{.ServerVersion}}' 2>/dev/null || true")
        if found := [name for name, answer in asked.items() if re.match(r"\d", answer)]:
            return found
        name = self.names[2]
        if self.try_on(name, "command -v dockerd docker").returncode:
            pytest.skip("no Docker: neither does a dockerd answer on a node, nor is there one to start")
        self.on(name, DOCKERD)
        until(lambda: self.try_on(name, "docker info").returncode == 0, 30)
        return [name]

    def containerd_nodes(self, count: int) -> list[str]:
        """So many nodes that a push finds to be containerd's."""
        docker = self.on_all(self.names, "ls /run/docker.sock 2>/dev/null; true")
        found = [name for name in self.names if not docker[name]]
        return found[:count] if len(found) >= count else pytest.skip(f"fewer than {count} nodes with containerd alone")

    def clean(self) -> None:
        """Away with the images of these tests, and with what unfinished pushes left."""
        script = (
            "rm -rf /var/lib/tunefleet; "
            f"names=$(docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' 2>/dev/null | grep ^{NAME}) && "
            "docker image rm --force $names >/dev/null; true"
        )
        self.on_all(self.names, script)
        found = {name: there for name, there in self.names_on(self.names).items() if there}
        for name, there in found.items():
            self.on(name, f"ctr -n k8s.io images rm --sync {' '.join(there)}")

    # ---- links: the testbed's alone ----

    def link(self, name: str) -> str:
        """The workstation's end of the link to a node of the testbed."""
        number = re.fullmatch(r"10\.77\.0\.(\d+)", str(self.hosts[name].get("ansible_host")))
        link = f"tb{int(number[1]) - 10}" if number else ""
        if not link or not Path("/sys/class/net", link).exists():
            pytest.skip("links can be counted, slowed and cut on the testbed alone")
        return link

    def inside(self, name: str, *argv: str) -> list[str]:
        """A command in the network of a node of the testbed."""
        self.link(name)
        return ["nsenter", f"--net=/run/netns/testbed-{name}", *argv]

    def bytes_on_links(self, names: list[str]) -> dict[str, int]:
        """Of each node, in both directions, so far."""
        return {name: self.bytes_to(name) + self.counter(name, "rx_bytes") for name in names}

    def bytes_to(self, name: str) -> int:
        return self.counter(name, "tx_bytes")

    def counter(self, name: str, what: str) -> int:
        return int(Path("/sys/class/net", self.link(name), "statistics", what).read_text())

    @contextmanager
    def slow(self, megabits: dict[str, int]):
        """What goes to these nodes is limited, megabits a second."""
        links = {self.link(name): rate for name, rate in megabits.items()}
        try:
            for link, rate in links.items():
                shape = ["rate", f"{rate}mbit", "burst", "256kb", "latency", "100ms"]
                subprocess.run(["tc", "qdisc", "replace", "dev", link, "root", "tbf", *shape], check=True)
            yield
        finally:
            for link in links:
                subprocess.run(["tc", "qdisc", "del", "dev", link, "root"], check=True)

    @contextmanager
    def cut(self, name: str):
        """A link that is down."""
        link = self.link(name)
        subprocess.run(["ip", "link", "set", link, "down"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "link", "set", link, "up"], check=True)
            until(lambda: self.try_on(name, "true").returncode == 0, 30)


def until(happened, seconds: float = 30, every: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds} s for what did not happen"
        time.sleep(every)
