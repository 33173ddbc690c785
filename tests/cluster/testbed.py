"""SHARED's testbed with this checkout's image on its nodes: started, attached to, stopped again."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.image_inputs import files_hash
from scripts.image_layout import LAYOUT, is_whole
from tests.cluster.programs import Keeper, node_programs, start_in_node

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / os.environ.get("SHARED", "../shared") / "testbed" / "testbed"
EVERYTHING = "kubernetes,training,mpi,trainer,kueue,netpol,secrets,registry,s3"
NODES, SIMULATED = 2, 4
KUBE_ROUTER = ("--kubeconfig=/run/testbed/kube-router.kubeconfig", "--run-firewall=true", "--run-router=false",
               "--run-service-proxy=false", "--service-cluster-ip-range=10.96.0.0/16")  # fmt: skip
VARIABLES = ("PATH", "KUBECONFIG", "ANSIBLE_INVENTORY", "TESTBED_REGISTRY", "AWS_ACCESS_KEY_ID",
             "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE")  # fmt: skip
ATTACHED = "TUNEFLEET_TESTBED_IS_UP"  # whoever started this process has brought it up, with the image


class CannotRun(Exception):
    """Why there is no testbed here."""


@contextlib.contextmanager
def running() -> Iterator[Path]:
    """The testbed's program, the testbed up and this process led to it. What was started here is stopped again.

    Raises CannotRun where it cannot be.
    """
    if os.environ.get(ATTACHED) == "1":
        yield PATH
        return
    if not PATH.exists():
        raise CannotRun("there is no testbed under SHARED, and TUNEFLEET_TEST_CLUSTER is not 1")
    if os.geteuid() or platform.machine() != "x86_64":
        raise CannotRun("the testbed needs root and x86-64")
    check_image()
    was_up = any(line.split()[:2] == ["apiserver", "up"] for line in ask("status").splitlines())
    if not was_up:
        ask("up", "--nodes", str(NODES), "--with", EVERYTHING, "--simulated", str(SIMULATED))
    attach(ask("env"))
    enforce_policies()
    free_volumes()
    push = subprocess.run(["make", "push"], cwd=ROOT, capture_output=True, text=True, check=False)
    if push.returncode:
        raise RuntimeError(f"make push: {push.stdout[-4000:]}{push.stderr[-2000:]}")
    os.environ[ATTACHED] = "1"
    with Keeper(Path(os.environ["KUBECONFIG"]).parent):
        yield PATH
    del os.environ[ATTACHED]
    if not was_up:
        ask("down")


def enforce_policies() -> None:
    """Start kube-router again on nodes where it has ended: it does so when it is started before its node is known."""
    running = node_programs()
    for node in (f"node{number}" for number in range(1, NODES + 1)):
        if (node, "kube-router") not in running:
            start_in_node(node, ["kube-router", *KUBE_ROUTER, f"--hostname-override={node}"])


def check_image() -> None:
    """This checkout's image must have been built."""
    record = ROOT / "build" / "image.json"
    if os.environ.get("TUNEFLEET_TEST_IMAGE"):
        return
    if not record.is_file():
        raise CannotRun("there is no image in build/: make image, or make test-image, which leaves one")
    told = json.loads(record.read_text())
    if told["sources"] != files_hash() or not is_whole(LAYOUT, told["digest"]):
        raise RuntimeError("the image in build/ is not whole, or of other sources than this checkout's: make image")


def attach(exports: str) -> None:
    """Take the testbed's `export NAME=value` lines into this process and its children."""
    printed = subprocess.run(["bash", "-c", f"{exports}\nenv -0"], capture_output=True, text=True, check=True).stdout
    found = dict(line.partition("=")[::2] for line in printed.split("\0"))
    os.environ.update({name: found[name] for name in VARIABLES if name in found})
    # The testbed's kubectl first, then this checkout's programs, as make has them.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def free_volumes() -> None:
    """Let the testbed's eight volumes be claimed again: a volume stays bound to a claim that is gone."""
    listing = ["kubectl", "get", "pv", "-o", "json"]
    for volume in json.loads(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)["items"]:
        if volume["status"]["phase"] == "Released":
            forget = '[{"op": "remove", "path": "/spec/claimRef"}]'
            words = ["kubectl", "patch", "pv", volume["metadata"]["name"], "--type=json", f"--patch={forget}"]
            subprocess.run(words, capture_output=True, check=False)  # another session may have been first


def ask(*words: str) -> str:
    """What the testbed says."""
    done = subprocess.run([PATH, *words], capture_output=True, text=True, check=False)
    if "missing" in done.stderr and done.returncode:
        raise CannotRun(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
