"""The day of a person with a deployer's rights and no others: deploy, again, changed, undeploy, results, delete.

.venv/bin/python -m pytest tests/cluster/test_deploy.py
"""

import json
from pathlib import Path

import pytest

from tests.cluster.preflight_asks import as_deployer
from tests.cluster.runs import LASTING, deploy, described, kubectl, make, read, wait_for_end, wait_for_step

pytestmark = pytest.mark.cluster

TEAM = "ft-deployer"
RECIPE = LASTING | {
    "save_steps": 5,
    "eval_strategy": "'no'",
    "eval_steps": "",
    "validation_size": "",
    "load_best_model_at_end": "false",
    "exact_match": "",
    "seed": 7,
}
SHORT = RECIPE | {"max_steps": 2, "save_steps": 2}
PLACE = {"nodes": 1}


@pytest.fixture(scope="module", autouse=True)
def deployer(cluster, tmp_path_factory):
    """A namespace, and kubectl led to it as its deployer."""
    empty = ["exec", "deploy/data-access", "--", "sh", "-c", "rm -rf /store/runs/*"]
    with as_deployer(TEAM, tmp_path_factory.mktemp("login") / "config", lambda: kubectl(TEAM, *empty)):
        yield


@pytest.fixture(scope="module")
def run(deployer) -> str:
    """A run that trains."""
    name = deploy(TEAM, "demo", RECIPE, PLACE)
    wait_for_step(TEAM, name, 1)
    return name


def jobs() -> set[str]:
    """The runs that are on the cluster."""
    found = json.loads(kubectl(TEAM, "get", "jobs", "-o", "json"))["items"]
    return {one["metadata"]["name"] for one in found}


def test_the_same_again_starts_nothing(run):
    said = make(TEAM, "deploy", *described("demo", RECIPE, PLACE))
    assert f"{run}: is running already" in said
    assert jobs() == {run}


def test_diff_finds_nothing_to_change_in_what_is_there(run):
    assert f"{run}: the cluster has it just so" in make(TEAM, "diff", *described("demo", RECIPE, PLACE))


def test_a_run_that_is_undeployed_in_the_middle_leaves_its_checkpoint_and_goes_on_from_it(run):
    reached = wait_for_step(TEAM, run, 6)["step"]
    assert f"its files stay: /store/runs/{run} on the store" in make(TEAM, "undeploy", f"RUN={run}")
    assert jobs() == set()
    left = kubectl(
        TEAM, "get", "services,networkpolicies,configmaps", f"--selector=tunefleet.io/run={run}", "-o", "name"
    )
    assert left == ""
    assert deploy(TEAM, "demo", RECIPE, PLACE) == run
    assert wait_for_step(TEAM, run, 1, kind="resumed")["step"] >= reached // 5 * 5
    make(TEAM, "undeploy", f"RUN={run}")  # that such a run ends with every step: test_reliability.py


@pytest.fixture(scope="module")
def ended(deployer) -> str:
    """A run that is complete."""
    name = deploy(TEAM, "demo", SHORT, PLACE)
    wait_for_end(TEAM, name)
    return name


def test_a_run_that_is_complete_is_not_done_again(ended):
    assert f"{ended}: complete" in make(TEAM, "deploy", *described("demo", SHORT, PLACE))
    assert jobs() == {ended}


def test_another_recipe_is_a_run_beside_it_and_may_not_take_its_name(ended):
    other = SHORT | {"seed": 8}
    said = make(TEAM, "deploy", *described("demo", other, PLACE), f"RUN={ended}", code=2)
    assert "is the name of another run" in said and f"make undeploy RUN={ended}" in said
    beside = deploy(TEAM, "demo", other, PLACE)
    assert beside != ended and jobs() == {ended, beside}
    make(TEAM, "undeploy", f"RUN={beside}")
    assert jobs() == {ended}


def test_results_come_home_and_a_deployer_may_delete_the_run(ended, tmp_path):
    make(TEAM, "results", f"RUN={ended}", f"TO={tmp_path}")
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_size > 10_000
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "complete"
    make(TEAM, "delete-run", "ON=cluster", f"RUN={ended}", "YES=1")
    assert jobs() == set()
    assert ended not in kubectl(TEAM, "exec", "deploy/data-access", "--", "ls", "/store/runs").split()


def test_the_rendered_directory_alone_runs_too_with_kubectl_apply(deployer):
    name = "demo-by-hand"
    make(TEAM, "render", *described("demo", SHORT, PLACE), f"RUN={name}")
    built = Path(__file__).resolve().parents[2] / "build" / "cluster" / name
    kubectl(TEAM, "apply", "-k", str(built))
    wait_for_end(TEAM, name)
    assert json.loads(read(TEAM, name, "run.json"))["status"] == "complete"
    assert "max_steps: 2\n" in read(TEAM, name, "train.yaml")


def test_a_bad_recipe_is_never_tried_again(deployer):
    run = deploy(TEAM, "demo", SHORT | {"validation_size": 0.1}, PLACE, "DATA=datasets/absent.jsonl", "FORCE=1")
    wait_for_end(TEAM, run, code=1)
    found = json.loads(kubectl(TEAM, "get", "pods", "--selector", f"tunefleet.io/run={run}", "-o", "json"))["items"]
    assert len(found) == 1, "one try"
    ended = found[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 2 and "datasets/absent.jsonl" in ended["message"]
    assert "datasets/absent.jsonl" in kubectl(TEAM, "logs", found[0]["metadata"]["name"])
