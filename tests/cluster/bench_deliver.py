"""How long make deliver takes over a limited link while it is cut twice: once its stream, once the whole program.

    python -m tests.cluster.bench_deliver [--megabytes 1000] [--megabits 200] [--cuts 2] [--namespace ft-deliver]

Needs the testbed up, kubectl led to it (eval "$(testbed env)"), root, and a namespace made by make cluster-setup. The
link is that of the node with the data-access pod, limited by tc; what else runs on the machine or over that link is in
the figure. Exit status 1 where it takes more than 1.15 times size by bandwidth.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import DATA_ACCESS
from train import stored
from train.files import hash_file

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = stored.Artifact("model", "bench/large", COMMIT)
ALLOWED = 1.15


def make_model(store: Path, megabytes: int) -> None:
    """A model of so many MB of noise in a store of this machine."""
    incoming = MODEL.incoming(store)
    incoming.mkdir(parents=True)
    (incoming / "config.json").write_text("{}")
    block = random.Random(0).randbytes(1_000_000)
    with (incoming / "model.safetensors").open("wb") as file:
        for number in range(megabytes):
            file.write(number.to_bytes(8, "big") + block[8:])
    files = {path.name: {"size": path.stat().st_size, "sha256": hash_file(path)} for path in sorted(incoming.iterdir())}
    stored.publish(MODEL, store, files, {"source": {"host": "bench"}, "licence": "mit"})
    stored.remember(MODEL, store, "main")


@contextlib.contextmanager
def limited(cluster: Cluster, megabits: int) -> Iterator[None]:
    """The link of the node that the data-access pod is on, limited in the direction that bytes are sent."""
    pods = cluster.list("pods", f"tunefleet.io/role={DATA_ACCESS}")
    device = f"tb{pods[0]['spec']['nodeName'].removeprefix('node')}"
    limit = ["tbf", "rate", f"{megabits}mbit", "burst", "256kb", "latency", "100ms"]
    subprocess.run(["tc", "qdisc", "replace", "dev", device, "root", *limit], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", device, "root"], check=True)


def begin(cluster: Cluster, store: Path) -> subprocess.Popen:
    """make deliver, as make calls it."""
    words = ["--model", MODEL.name, "--store", str(store), "--namespace", cluster.namespace]
    command = [sys.executable, "-m", "scripts.deliver", *words]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def landed(cluster: Cluster) -> int:
    """Bytes of the large file that lie on the far end, not yet published."""
    path = MODEL.incoming(Path("/store")) / "model.safetensors"
    with contextlib.suppress(Refused):
        return int(cluster.run("exec", f"deployment/{DATA_ACCESS}", "--", "stat", "-c", "%s", str(path)))
    return 0


def await_landed(cluster: Cluster, wanted: int, process: subprocess.Popen) -> int:
    """Wait until so many bytes have landed; how many have."""
    while (have := landed(cluster)) < wanted:
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[0])
        time.sleep(0.3 if wanted < 100_000_000 else 1)  # asking costs a quarter of a CPU
    return have


def deliver(cluster: Cluster, store: Path, size: int, cuts: int) -> tuple[float, str, list[int]]:
    """Deliver it with cuts; seconds, what was said, and how much had landed at each cut."""
    began, process, said, at = time.monotonic(), begin(cluster, store), "", []
    if cuts > 0:
        at.append(await_landed(cluster, size * 3 // 10, process))
        for child in psutil.Process(process.pid).children():
            child.kill()
    if cuts > 1:
        at.append(await_landed(cluster, size * 6 // 10, process))
        process.kill()
        said = process.communicate()[0]
        process = begin(cluster, store)
    said += process.communicate(timeout=1800)[0]
    if process.returncode:
        raise RuntimeError(said)
    return time.monotonic() - began, said, at


def far_hash(cluster: Cluster) -> str:
    """The sha256 of the large file as the pod's own sha256sum has it."""
    path = Path("/store") / MODEL.path / "model.safetensors"
    return cluster.run("exec", f"deployment/{DATA_ACCESS}", "--", "sha256sum", str(path), seconds=600).split()[0]


def forget(cluster: Cluster) -> None:
    """Take away at the far end what an earlier measurement left."""
    paths = ["/store/models/bench", str(MODEL.incoming(Path("/store")))]
    cluster.run("exec", f"deployment/{DATA_ACCESS}", "--", "rm", "-rf", *paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--megabits", type=int, default=200, help="of the link, a second")
    parser.add_argument("--cuts", type=int, default=2, choices=(0, 1, 2))
    parser.add_argument("--namespace", default="ft-deliver")
    given = parser.parse_args()
    cluster, size = Cluster("", given.namespace), given.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary)
        make_model(store, given.megabytes)
        wanted = hash_file(store / MODEL.path / "model.safetensors")
        forget(cluster)
        print(f"{given.megabytes} MB, {given.megabits} Mbit/s, {given.cuts} cuts, load {os.getloadavg()[0]:.1f} before")
        with limited(cluster, given.megabits):
            seconds, said, at = deliver(cluster, store, size, given.cuts)
    print(said)
    found, ideal = far_hash(cluster), size * 8 / (given.megabits * 1e6)
    print(f"cut at {at} bytes; load {os.getloadavg()[0]:.1f} after; sha256sum in the pod: {found}")
    print(f"{seconds:.1f} s, {seconds / ideal:.3f} times size by bandwidth ({ideal:.1f} s)")
    forget(cluster)
    return 0 if found == wanted and seconds <= ALLOWED * ideal else 1


if __name__ == "__main__":
    sys.exit(main())
