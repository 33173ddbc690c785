"""Nodes to push to: those of TUNEFLEET_TEST_INVENTORY, or SHARED's testbed, started where it is not up."""

import os
import platform
import secrets
import subprocess
from itertools import count
from pathlib import Path

import pytest

from tests.ansible.cluster import ROOT, Cluster, tool
from tests.ansible.images import Image, make_image

WANTED = 8  # nodes


@pytest.fixture(scope="session")
def inventory():
    """The inventory's file. What was started here is stopped again."""
    if tool("ansible-playbook") is None:
        pytest.skip("there is no ansible-playbook")
    if platform.machine() != "x86_64":
        pytest.skip("the program in the test's images is one for x86-64")
    if given := os.environ.get("TUNEFLEET_TEST_INVENTORY"):
        yield Path(given).resolve()
        return
    testbed = ROOT / os.environ.get("SHARED", "../shared") / "testbed" / "testbed"
    if not testbed.exists():
        pytest.skip("there is no testbed under SHARED, and no TUNEFLEET_TEST_INVENTORY")
    if os.geteuid():
        pytest.skip("the testbed needs root")
    nodes = [line for line in ask(testbed, "status").splitlines() if line.startswith("node") and line.endswith(" up")]
    if 0 < len(nodes) < WANTED:
        pytest.skip(f"a testbed of {len(nodes)} nodes is up, {WANTED} are wanted")
    if not nodes:
        ask(testbed, "up", "--nodes", str(WANTED), "--with", "")
    yield Path(ask(testbed, "env").split("ANSIBLE_INVENTORY=")[1].split()[0])
    if not nodes:
        ask(testbed, "down")


def ask(testbed: Path, *words: str) -> str:
    done = subprocess.run([testbed, *words], capture_output=True, text=True)
    if "missing" in done.stderr and done.returncode:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def all_nodes(inventory) -> Cluster:
    return Cluster(inventory)


@pytest.fixture
def cluster(all_nodes):
    """The nodes, without any image of these tests before and after."""
    yield all_nodes
    all_nodes.clean()


@pytest.fixture(scope="session")
def new_image(tmp_path_factory):
    """Makes images that no node has seen; those with the same base share everything but their last layer."""
    numbers, session = count(), secrets.token_hex(4)

    def make(megabytes: int, base: str = "", **more: object) -> Image:
        number = next(numbers)
        tag = f"{base or f'image{number}'}.{session}-{number}"
        return make_image(tmp_path_factory.mktemp("image"), tag, megabytes, **more)

    return make
