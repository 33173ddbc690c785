"""What a run on a cluster survives, with its figures: steps lost, seconds to go on. Breaks nodes and operators.

Each run meets several faults one after the other and ends with the curve of the same recipe undisturbed on one machine.
Nothing runs beside them: a command that takes half a minute would strike a run that is over.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cluster.faults import PAIR, Faults, cable, undisturbed
from tests.cluster.programs import restart
from tests.cluster.runs import kubectl, team, told, wait_for_end

pytestmark = [pytest.mark.cluster, pytest.mark.breaks]
SPACE = "ft-faults"
FEW, MANY = 150, 300  # steps: an elastic run goes on while its node is away
ELASTIC = {"nodes": 2, "minNodes": 1}


@pytest.fixture(scope="module")
def faults(cluster):
    """A namespace for these runs."""
    if cluster.testbed:
        wait_for_nodes()
    with team(SPACE):
        yield Faults(SPACE)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Iterator[Future]:
    """The undisturbed curve, of as many steps as the longest run here; learned while the first run waits for pods."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(undisturbed, tmp_path_factory.mktemp("undisturbed"), MANY)


def evict(pod: str) -> None:
    """What a drained node does to a pod."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    path = f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction"
    kubectl(SPACE, "create", "--raw", path, "-f", "-", given=json.dumps(body).encode())


def test_an_indexed_job_survives_lost_and_evicted_pods_and_the_api_server(faults, cluster, expected):
    run = faults.start("job", PAIR, FEW)
    faults.strike(run, "Job: a pod is killed", lambda: faults.kill(faults.named(run, "-1-")))
    faults.strike(run, "Job: the first pod is deleted", lambda: faults.delete(faults.named(run, "-0-")))
    faults.strike(run, "Job: a pod is evicted", lambda: evict(faults.named(run, "-1-")), most=1)
    if cluster.testbed:
        faults.strike(run, "Job: the API server is restarted", lambda: restart("apiserver"), most=0, stops=False)
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected.result(), FEW)


def test_an_mpijob_survives_a_lost_worker_and_a_lost_launcher(faults, expected):
    run = faults.start("mpijob", PAIR, FEW)
    faults.strike(run, "MPIJob: a worker is deleted", lambda: faults.delete(faults.named(run, "worker-1")))
    faults.strike(run, "MPIJob: the launcher is deleted", lambda: faults.delete(faults.named(run, "launcher")))
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected.result(), FEW)


def test_a_trainjob_survives_a_lost_pod(faults, expected):
    run = faults.start("trainjob", PAIR, FEW)
    faults.strike(run, "TrainJob: a pod is killed", lambda: faults.kill(faults.named(run, "-0-1-")))
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected.result(), FEW)


def test_an_elastic_pytorchjob_goes_on_without_a_lost_node_and_takes_it_back(faults, cluster, expected):
    if not cluster.testbed:
        pytest.skip("loses a node: the testbed's alone")
    run = faults.start("pytorchjob", ELASTIC, MANY)
    restarted = "PyTorchJob: the operator is restarted"
    faults.strike(run, restarted, lambda: restart("operator-training"), most=0, stops=False)
    node = next(pod["spec"]["nodeName"] for pod in faults.pods(run) if pod["metadata"]["name"].endswith("worker-1"))
    faults.keep_data_access_off(node)
    try:
        faults.strike(run, "PyTorchJob: a node is lost", lambda: cable(node, "down"))
        alone = told(kubectl(SPACE, "logs", f"{run}-worker-0"))
        assert any("silent" in event.get("reason", "") for event in alone), alone[-8:]
        assert "1 process x" in kubectl(SPACE, "logs", f"{run}-worker-0")
    finally:
        cable(node, "up")
    faults.strike(run, "PyTorchJob: the node is back", lambda: wait_for_two(run), most=1)
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected.result(), MANY)


def wait_for_nodes(seconds: float = 120) -> None:
    """Return when every node takes pods: a run is to lose one and get it back. Fails with all that is known of them."""
    nodes = ["nodes", "--selector=!testbed.local/simulated"]
    deadline = time.monotonic() + seconds
    while kubectl(SPACE, "get", *nodes, "--output=jsonpath={.items[*].spec.taints}"):
        assert time.monotonic() < deadline, kubectl(SPACE, "describe", *nodes)
        time.sleep(2)


def wait_for_two(run: str, seconds: float = 240) -> None:
    """Return when two nodes train again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = kubectl(SPACE, "logs", f"{run}-worker-0")
        if log.rfind("2 processes x") > log.rfind("1 process x"):
            return
        time.sleep(1)
    raise AssertionError(f"{run}: the second node never came back")
