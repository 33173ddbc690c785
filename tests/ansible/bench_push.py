"""How long until the last node runs the image: `make push` beside what people do otherwise, in one run.

    make bench-push                                   # or, with other sizes:
    .venv/bin/python -m tests.ansible.bench_push --megabytes 300 --megabits 50 --nodes 8 --ways push copy

On a testbed of nodes in namespaces of one machine. Every link is limited to the same rate in both directions, the
workstation's too, so size/bandwidth is what one copy to one node takes at best. Each way ends when every node has
imported the image. The nodes share this machine's cores and disk, which is to the disadvantage of all ways that serve
them at once; the slower the links, the less that matters: hence 20 Mbit/s. Writes build/bench-push.md.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ansible import torrent
from tests.ansible.cluster import ROOT, Cluster
from tests.ansible.images import Image, make_image
from tests.ansible.pushes import Playbook

TABLE = ROOT / "build" / "bench-push.md"
IMPORT = "ctr -n k8s.io images import"
COPY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {src: "%(archive)s", dest: /var/lib/bench.tar, mode: "0600"}
    - ansible.builtin.command: ctr -n k8s.io images import /var/lib/bench.tar
"""


def main() -> None:
    arguments = parse_arguments()
    if "torrent" in arguments.ways and not shutil.which("aria2c"):
        print("BitTorrent is left out: there is no aria2c (apt-get install aria2)")
        arguments.ways.remove("torrent")
    TABLE.parent.mkdir(exist_ok=True)
    with ExitStack() as stack:
        cluster = stack.enter_context(testbed(arguments.nodes))
        names = cluster.containerd_nodes(arguments.nodes)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "build")))
        image = make_image(folder, "bench", arguments.megabytes, zstd=bool(shutil.which("zstd")))
        archive = write_archive(folder, image)
        best = image.size * 8 / (arguments.megabits * 1e6)
        stack.enter_context(limited(cluster, names, arguments.megabits))
        rows = [measure(way, cluster, names, image, archive, best) for way in arguments.ways]
    text = table(rows, arguments, image.size, best)
    TABLE.write_text(text)
    print(f"\n{text}\n{TABLE}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the image")
    parser.add_argument("--megabits", type=int, default=20, help="of every link, a second")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=["push", "torrent", "copy", "loop"])
    return parser.parse_args()


@contextmanager
def testbed(nodes: int):
    """The testbed under SHARED; one that was not up is stopped again."""
    program = ROOT / os.environ.get("SHARED", "../shared") / "testbed" / "testbed"
    if not program.exists():
        sys.exit(f"error: {program}: there is no testbed\n  fix: SHARED=directory of the test equipment")
    up = [line for line in output(program, "status").splitlines() if line.startswith("node") and line.endswith(" up")]
    if not up:
        output(program, "up", "--nodes", str(nodes), "--with", "")
    try:
        yield Cluster(Path(output(program, "env").split("ANSIBLE_INVENTORY=")[1].split()[0]))
    finally:
        if not up:
            output(program, "down")


def output(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def limited(cluster: Cluster, names: list[str], megabits: int):
    """Every link slow in both directions: to the nodes, from them, and from the workstation."""
    ends = [[]] + [["nsenter", f"--net=/run/netns/testbed-{name}"] for name in names]
    links = ["testbed0"] + ["eth0"] * len(names)
    limits = ["rate", f"{megabits}mbit", "burst", "256kb", "latency", "100ms"]
    with cluster.slow(dict.fromkeys(names, megabits)):
        try:
            for end, link in zip(ends, links, strict=True):
                subprocess.run([*end, "tc", "qdisc", "replace", "dev", link, "root", "tbf", *limits], check=True)
            yield
        finally:
            for end, link in zip(ends, links, strict=True):
                subprocess.run([*end, "tc", "qdisc", "del", "dev", link, "root"], check=False)


def write_archive(folder: Path, image: Image) -> Path:
    """The image as one file, as people copy it around."""
    path = folder / "pushed.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder / "oci", arcname=".")
    return path


# ---- the ways ----


def by_push(cluster: Cluster, names: list[str], image: Image, archive: Path) -> None:
    done = Playbook(cluster, "push-image", image, limit=names).wait(seconds=3600)
    if done.code:
        sys.exit(done.said)


def by_loop(cluster: Cluster, names: list[str], image: Image, archive: Path) -> None:
    """Node after node: copy, import."""
    for name in names:
        with archive.open("rb") as stream:
            receive = f"cat > /var/lib/bench.tar && {IMPORT} /var/lib/bench.tar && rm /var/lib/bench.tar"
            subprocess.run([*cluster.ssh_command(name), receive], stdin=stream, stdout=subprocess.DEVNULL, check=True)


def by_copy(cluster: Cluster, names: list[str], image: Image, archive: Path) -> None:
    """Ansible's copy module, all nodes at once."""
    playbook = archive.with_name("copy.yml")
    playbook.write_text(COPY % {"archive": archive})
    argv = [cluster.ansible, "-i", cluster.inventory, playbook, "--limit", ",".join(names), "--forks", str(len(names))]
    subprocess.run(argv, cwd=ROOT / "ansible", stdout=subprocess.DEVNULL, check=True)
    cluster.on_all(names, "rm /var/lib/bench.tar")


def by_torrent(cluster: Cluster, names: list[str], image: Image, archive: Path) -> None:
    """A BitTorrent swarm of aria2 on every node, which here is installed there and reaches the workstation directly."""
    torrent.spread(cluster, names, archive, "/var/lib")
    cluster.on_all(names, f"{IMPORT} /var/lib/{archive.name} && rm /var/lib/{archive.name}")


WAYS: dict[str, Callable] = {"push": by_push, "loop": by_loop, "copy": by_copy, "torrent": by_torrent}
TITLES = {
    "push": "`make push`",
    "torrent": "BitTorrent (aria2) + import",
    "copy": "Ansible's copy + import",
    "loop": "loop of ssh copy + import",
}


def measure(way: str, cluster: Cluster, names: list[str], image: Image, archive: Path, best: float) -> dict:
    cluster.clean()
    if held := set(
        cluster.on_all(names, f"ctr -n k8s.io content ls -q | grep -e {image.layers[1]['digest']}; true").values()
    ) - {""}:
        sys.exit(f"error: nodes hold layers of the image from before: {held}\n  fix: remove it there")
    sent = sum(cluster.bytes_to(name) for name in names)
    uplink = int(Path("/sys/class/net/testbed0/statistics/tx_bytes").read_text())
    print(f"{TITLES[way]} ...", flush=True)
    began = time.monotonic()
    WAYS[way](cluster, names, image, archive)
    seconds = time.monotonic() - began
    missing = [name for name, digest in cluster.digest_on(names, image).items() if digest != image.digest]
    if missing:
        sys.exit(f"error: {way}: {missing} did not get the image")
    row = {"way": TITLES[way], "seconds": seconds, "ratio": seconds / best}
    row["uplink"] = (int(Path("/sys/class/net/testbed0/statistics/tx_bytes").read_text()) - uplink) / image.size
    row["nodes"] = (sum(cluster.bytes_to(name) for name in names) - sent) / image.size / len(names)
    print(f"  {seconds:.0f} s, {row['ratio']:.2f} x", flush=True)
    cluster.clean()
    return row


def table(rows: list[dict], arguments: argparse.Namespace, size: int, best: float) -> str:
    lines = [
        f"{arguments.nodes} nodes, an image of {size / 1e6:.0f} MB, every link {arguments.megabits} Mbit/s: "
        f"size/bandwidth is {best:.0f} s. All nodes on one machine of {os.cpu_count()} cores ({platform.machine()}), "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        "| Way | Seconds to the last node | of size/bandwidth | Copies the workstation sent | Copies a node got |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["way"],
            f"{row['seconds']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['uplink']:.2f}",
            f"{row['nodes']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
