"""GPU use cases on nodes that only exist in the API: what is asked for, where it lands, and how a queue bounds it."""

import json
import time

import pytest

from tests.cluster.runs import kubectl, make, team

pytestmark = pytest.mark.cluster
SPACE = "ft-gpus"
# samsum as it is, 4 pods with 8 GPUs, 64 CPUs and 384 GiB each, on the testbed's simulated nodes.
WORDS = [
    "OVERLAY=samsum",
    "PLACE=nodeTaint=testbed.local/simulated nodeSelector.testbed.local/simulated=true deadlineSeconds=600",
    "FORCE=1",  # neither model nor image is there, and nothing will run
]
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def space(cluster):
    """A namespace with a queue of its own, for nodes that are simulated."""
    if not cluster.testbed:
        pytest.skip("needs the testbed's simulated nodes")
    # What every kubelet says of its node; a simulated one has none that would.
    kubectl(SPACE, "label", "nodes", "--selector=testbed.local/simulated", "--overwrite", "kubernetes.io/os=linux")
    with team(SPACE):
        yield SPACE


def deploy(*words: str) -> str:
    """Deploy; returns the run's name."""
    return run_of(make(SPACE, "deploy", *WORDS, *words))


def run_of(printed: str) -> str:
    """The run's name, from what deploy says."""
    return next(line.split("RUN=")[1] for line in printed.splitlines() if "make watch RUN=" in line).strip()


def pods(run: str) -> list[dict]:
    """The run's pods."""
    return json.loads(kubectl(SPACE, "get", "pods", "--selector", f"tunefleet.io/run={run}", "-o", "json"))["items"]


def wait_until(what, seconds: float = 90):
    """What a function returns, once that is true. Fails where it stays false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(1)
    raise AssertionError("did not happen in time")


def test_pods_of_a_trainjob_ask_for_eight_gpus_each_and_land_on_gpu_nodes(space):
    run = deploy("WITH=node-taint node-selection")
    placed = wait_until(lambda: [pod for pod in pods(run) if pod["spec"].get("nodeName")][3:] and pods(run))
    assert len(placed) == 4 and all(pod["spec"]["nodeName"].startswith("simulated-") for pod in placed)
    for pod in placed:
        asked = pod["spec"]["containers"][0]["resources"]
        assert asked["requests"][GPU] == asked["limits"][GPU] == "8" and asked["requests"]["memory"] == "384Gi"
        environment = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
        assert environment["PET_NNODES"] == "4" and environment["PET_NPROC_PER_NODE"] == "8"
    make(SPACE, "undeploy", f"RUN={run}")
    assert pods(run) == []


def test_a_fifth_node_that_is_not_there_is_waited_for_and_never_doubled_up(space):
    # By PyTorchJob: the simulated pods of other kinds are over at once, and leave their node to the next.
    more = [word.replace("deadline", "nodes=5 minNodes=5 deadline") for word in WORDS]
    words = [*more, "RUNTIME=pytorchjob", "WITH=node-taint node-selection", "SET=global_batch_size=80"]
    run = run_of(make(SPACE, "deploy", *words))
    wait_until(lambda: len([pod for pod in pods(run) if pod["spec"].get("nodeName")]) == 4 and len(pods(run)) == 5)
    time.sleep(3)
    nodes = [pod["spec"]["nodeName"] for pod in pods(run) if pod["spec"].get("nodeName")]
    assert len(nodes) == len(set(nodes)) == 4, "one pod a node"
    make(SPACE, "undeploy", f"RUN={run}")


def test_a_queue_with_too_few_gpus_holds_the_run_back_and_says_by_how_much(space):
    queue = json.loads(kubectl(SPACE, "get", "clusterqueue", "ft-gpus", "-o", "json"))
    resources = queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    index = next(number for number, one in enumerate(resources) if one["name"] == GPU)
    path = f"/spec/resourceGroups/0/flavors/0/resources/{index}/nominalQuota"

    def allow(gpus: int) -> None:
        patch = json.dumps([{"op": "replace", "path": path, "value": gpus}])
        kubectl(SPACE, "patch", "clusterqueue", "ft-gpus", "--type=json", f"--patch={patch}")

    allow(16)
    place = "WITH=node-taint node-selection queue-kueue"
    words = [WORDS[0], f"{WORDS[1]} queue=finetune", WORDS[2]]
    printed = make(SPACE, "preflight", *words[:2], place, code=2)
    assert "32" in printed and "16" in printed and GPU in printed
    run = run_of(make(SPACE, "deploy", *words, place))
    status = wait_until(lambda: (text := make(SPACE, "status", f"RUN={run}")) and "queued" in text and text)
    assert GPU in status and pods(run) == []
    allow(32)
    wait_until(lambda: len([pod for pod in pods(run) if pod["spec"].get("nodeName")]) == 4)
    make(SPACE, "undeploy", f"RUN={run}")
