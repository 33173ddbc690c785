"""Lost pods of each kind of job, which break nothing but their own run: steps lost, seconds to go on."""

import json

import pytest

from tests.cluster.faults import PAIR, RECIPE, Faults, undisturbed
from tests.cluster.runs import deploy, kubectl, team, wait_for_end

pytestmark = pytest.mark.cluster
SPACE = "ft-lost"


@pytest.fixture(scope="module")
def faults(cluster):
    """A namespace for these runs."""
    with team(SPACE):
        yield Faults(SPACE)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[int, float]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def test_an_mpijob_survives_a_lost_worker_and_a_lost_launcher(faults, expected):
    run = faults.start("mpijob", PAIR)
    faults.strike(run, "MPIJob: a worker is deleted", lambda: faults.delete(faults.named(run, "worker-1")))
    faults.strike(run, "MPIJob: the launcher is deleted", lambda: faults.delete(faults.named(run, "launcher")))
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected)


def test_a_trainjob_survives_a_lost_pod(faults, expected):
    run = faults.start("trainjob", PAIR)
    faults.strike(run, "TrainJob: a pod is killed", lambda: faults.kill(faults.named(run, "-0-1-")))
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected)


def test_a_bad_recipe_is_never_tried_again(faults):
    run = deploy(SPACE, "demo", RECIPE | {"validation_size": 0.1}, {}, "DATA=datasets/absent.jsonl", "FORCE=1")
    wait_for_end(SPACE, run, code=1)
    found = json.loads(kubectl(SPACE, "get", "pods", "--selector", f"tunefleet.io/run={run}", "-o", "json"))["items"]
    assert len(found) == 1, "one try"
    ended = found[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 2 and "datasets/absent.jsonl" in ended["message"]
    assert "datasets/absent.jsonl" in kubectl(SPACE, "logs", found[0]["metadata"]["name"])
