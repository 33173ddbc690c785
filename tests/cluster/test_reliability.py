"""What a run on a cluster survives, with its figures: steps lost, seconds to go on. Breaks nodes and operators.

Each run meets several faults one after the other and ends with the curve of the same recipe undisturbed on one machine.
No other tests run beside them: a command that takes half a minute would strike a run that is over. Where RELIABILITY
names a file for the figures, each run has the cluster to itself.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cluster.faults import PAIR, Faults, cable, undisturbed
from tests.cluster.programs import restart
from tests.cluster.runs import kubectl, team, told, wait_for_end

pytestmark = [pytest.mark.cluster, pytest.mark.breaks]
SPACE = "ft-faults"
FEW, MANY = 100, 220  # steps: an elastic run goes on while its node is away
ELASTIC = {"nodes": 2, "minNodes": 1}
LANES = 1 if os.environ.get("RELIABILITY") else 2


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


def of_a_job(faults: Faults) -> str:
    """An Indexed Job's run, struck."""
    run = faults.start("job", PAIR, FEW)
    faults.strike(run, "Job: a pod is killed", lambda: faults.kill(faults.named(run, "-1-")))
    faults.strike(run, "Job: the first pod is deleted", lambda: faults.delete(faults.named(run, "-0-")))
    faults.strike(run, "Job: a pod is evicted", lambda: evict(faults.named(run, "-1-")), most=1)
    wait_for_end(SPACE, run)
    return run


def of_an_mpijob(faults: Faults) -> str:
    """An MPIJob's run, struck."""
    run = faults.start("mpijob", PAIR, FEW)
    faults.strike(run, "MPIJob: a worker is deleted", lambda: faults.delete(faults.named(run, "worker-1")))
    faults.strike(run, "MPIJob: the launcher is deleted", lambda: faults.delete(faults.named(run, "launcher")))
    wait_for_end(SPACE, run)
    return run


def of_a_trainjob(faults: Faults) -> str:
    """A TrainJob's run, struck."""
    run = faults.start("trainjob", PAIR, FEW)
    faults.strike(run, "TrainJob: a pod is killed", lambda: faults.kill(faults.named(run, "-0-1-")))
    wait_for_end(SPACE, run)
    return run


@pytest.fixture(scope="module")
def struck(faults, expected) -> Iterator[dict[str, Future]]:
    """The runs that only lose pods of their own, side by side: while those start again, the other has the CPUs."""
    with ThreadPoolExecutor(LANES) as pool:
        runs = {run.__name__: pool.submit(run, faults) for run in (of_a_job, of_an_mpijob, of_a_trainjob)}
        yield runs
        for run in runs.values():
            run.cancel()


@pytest.mark.parametrize("run", ["of_a_job", "of_an_mpijob", "of_a_trainjob"])
def test_a_run_survives_lost_pods(faults, struck, expected, run):
    faults.same_curve(struck[run].result(timeout=1200), expected.result(), FEW)


def test_an_elastic_pytorchjob_survives_operator_api_server_and_a_lost_node_that_it_takes_back(
    faults, cluster, expected
):
    if not cluster.testbed:
        pytest.skip("loses a node: the testbed's alone")
    run = faults.start("pytorchjob", ELASTIC, MANY)
    restarted = "PyTorchJob: the operator is restarted"
    faults.strike(run, restarted, lambda: restart("operator-training"), most=0, stops=False)
    restarted = "PyTorchJob: the API server is restarted"
    faults.strike(run, restarted, lambda: restart("apiserver"), most=0, stops=False)
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
