"""The preflight of a large cluster with ten pods on every node, and what it says of them.

SIMULATED_NODES=500 .venv/bin/python -m pytest -s tests/cluster/test_preflight_scale.py
prints the seconds over 500 nodes with 5,000 pods (docs/preflight.md); to make so many takes minutes.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.cluster.simulated import MARK, cluster_of
from tests.cluster.teams import ROOT, image, kubectl, tried

pytestmark = [pytest.mark.cluster, pytest.mark.breaks]  # hundreds of nodes beside whatever else runs

SPACE = "ft-preflight-scale"
NODES = int(os.environ.get("SIMULATED_NODES", "24"))
# Ten pods of 4 CPUs on each node leave 56 of 96 free.
LINE = f"--with spread node-taint node-selection --place nodeTaint={MARK} nodeSelector.{MARK}=true"


@pytest.fixture(scope="module", autouse=True)
def crowd():
    """The crowded cluster."""
    if not tried("get", "nodes", "--output", "name").stdout or "kwok" not in kubectl(
        "get", "nodes", "--output", "wide"
    ):
        pytest.skip("the cluster keeps no simulated nodes alive (kwok)")
    with cluster_of(SPACE, NODES, 10 * NODES):
        yield


def preflight(*place: str) -> tuple[float, dict[str, str]]:
    """Seconds of the whole program, and what it says to each question."""
    words = [sys.executable, "-m", "scripts.cluster.preflight", "--overlay", "demo", "--json", "--namespace", SPACE]
    words += [*LINE.split(), f"image={image()}", "processesPerNode=1", *place]
    begun = time.monotonic()
    done = subprocess.run(
        [*words, "--set", "per_device_train_batch_size=1", "global_batch_size=48"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode in (0, 1), done.stderr
    answers = {one["question"]: f"{one['status']}: {one['found']}" for one in json.loads(done.stdout)}
    return time.monotonic() - begun, answers


def test_hundreds_of_nodes_are_judged_and_the_nearest_misses_named():
    seconds, answers = preflight("nodes=16", "minNodes=16", "resources.requests.cpu=56", "resources.limits.cpu=56")
    print(f"{seconds:.1f} s over {NODES} nodes with {10 * NODES} pods")
    said = answers["does it fit on the nodes"]
    assert said.startswith("passed: 16 trainer pods with 56 cpu, 2.0 GiB memory: 1 on "), said
    assert said.endswith("and 10 more nodes")
    seconds, answers = preflight("nodes=16", "minNodes=16", "resources.requests.cpu=60", "resources.limits.cpu=60")
    print(f"{seconds:.1f} s over {NODES} nodes with {10 * NODES} pods")
    said = answers["does it fit on the nodes"]
    assert said.startswith("failed: 0 of 16 trainer pods find a place (60 cpu, 2.0 GiB memory each); "), said
    assert "is short of 4 cpu (56 free of 96)" in said
    assert f"{NODES - 3} nodes short too" in said
    assert said.endswith("would fit an empty cluster, but not now")
