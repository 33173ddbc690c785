"""Runbooks of nodes that are lost, or without the image. They take from nodes what others need."""

import re
import time

import pytest

from tests.cluster.faults import PAIR, RECIPE, Faults, cable
from tests.cluster.runbook_pages import Desk, commands, until_told
from tests.cluster.runs import deploy, kubectl, make, team, wait_for_end, wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.breaks, pytest.mark.operations]
SPACE = "ft-runbook-nodes"
SHORT = {"validation_size": "", "exact_match": ""}


@pytest.fixture(scope="module", autouse=True)
def space(cluster):
    """A namespace for these runs."""
    if not cluster.testbed:
        pytest.skip("takes nodes down: the testbed's alone")
    with team(SPACE):
        yield SPACE


def test_node_lost():
    faults = Faults(SPACE)
    run = deploy(SPACE, "demo", RECIPE, PAIR, "RUNTIME=job")
    wait_for_step(SPACE, run, 12)
    second = faults.named(run, "-1-")
    node = next(pod["spec"]["nodeName"] for pod in faults.pods(run) if pod["metadata"]["name"] == second)
    faults.keep_data_access_off(node)
    desk = Desk(SPACE, run, node)
    taint, watch, back = commands("node-lost", "Mitigation")
    cable(node, "down")
    try:
        kubectl(SPACE, "wait", "--for=condition=Ready=Unknown", f"node/{node}", "--timeout=150s")
        seen = desk.type("node-lost", "Diagnosis")
        assert "NotReady" in seen and re.search(rf"^pod +1 .* {node}$", seen, re.MULTILINE), seen
        desk.one(taint, codes=(0,))
        assert f"{run} is complete" in desk.one(watch, codes=(0,))
    finally:
        cable(node, "up")
    kubectl(SPACE, "wait", "--for=condition=Ready", f"node/{node}", "--timeout=150s")
    desk.one(back, codes=(0,))
    make(SPACE, "undeploy", f"RUN={run}")


def test_image_not_on_node():
    Faults(SPACE).keep_data_access_off("node2")  # an image that containers use is not removed
    desk = Desk(SPACE, "demo-1a2b3c4d", recipe=SHORT)
    check, remove, push = commands("out-of-disk-on-nodes", "Mitigation")
    assert "CHECK=1" in check and "LIMIT=node2" in push
    deadline = time.monotonic() + 120
    while "containers use the image" in desk.one(check, codes=(0, 2)):  # of namespaces that are still going
        assert time.monotonic() < deadline, "node2 is never without containers"
        time.sleep(5)
    desk.one(remove, codes=(0,))
    place = {"nodeSelector.kubernetes.io/hostname": "node2"}
    desk.run = deploy(SPACE, "demo", SHORT, place, "WITH=node-selection", "FORCE=1")
    until_told(desk, "docs/runbooks/image-not-on-node.md")
    seen = desk.type("image-not-on-node", "Diagnosis", codes=(0, 1, 2))
    assert re.search(r"^ *node2 .* lacks it$", seen, re.MULTILINE), seen
    desk.type("image-not-on-node", "Mitigation", codes=(0, 1, 2))
    wait_for_end(SPACE, desk.run)
    desk.one(push, codes=(0,))
