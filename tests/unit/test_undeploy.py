"""Taking a run off a cluster: in which order, how long its pods are waited for, what comes meanwhile. No cluster.

.venv/bin/python -m pytest tests/unit/test_undeploy.py
"""

import argparse
from types import SimpleNamespace

import pytest

from scripts.cluster import deploy
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import IDENTITY
from tests.clock import set_time
from tests.unit.test_cluster_jobs import RUNNING, job, pod


class Leaving(Cluster):
    """A cluster whose pods have this grace, and leave after so many looks."""

    def __init__(self, looks: int, grace: int):
        super().__init__()
        self.__dict__.update(calls=[], looks=looks, grace=grace)

    def run(self, *words: str, given: str | None = None, seconds: float = 60) -> str:
        self.calls.append(words[:2])
        return "jobs.batch\npods\nservices\npytorchjobs.kubeflow.org\n" if words[0] == "api-resources" else ""

    def list(self, kind: str, selector: str = "") -> list[dict]:
        self.calls.append((kind, selector))
        self.__dict__["looks"] -= 1
        spec = {"terminationGracePeriodSeconds": self.grace}
        return [{"metadata": {"name": f"r-{number}"}, "spec": spec} for number in range(2)] if self.looks >= 0 else []


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A second goes by only where somebody sleeps for one."""
    now = [100.0]
    set_time(monkeypatch, deploy, monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))


def test_what_the_pods_need_to_save_and_leave_goes_after_them(capsys):
    cluster = Leaving(looks=70, grace=3600)
    deploy.take_away(cluster, "r")
    kinds = [call for call in cluster.calls if call[0] == "delete"]
    assert kinds == [("delete", "jobs.batch,pytorchjobs.kubeflow.org"), ("delete", ",".join(deploy.BESIDE))]
    first, last = (cluster.calls.index(call) for call in kinds)
    assert [call[0] for call in cluster.calls[first + 1 : last]] == ["pods"] * 71
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "r: 2 pods may take 3660 s more to save and leave" and len(said) == 3


def test_pods_are_waited_for_as_long_as_their_grace_and_one_that_stays_is_named():
    cluster = Leaving(looks=10**6, grace=3600)
    with pytest.raises(Refused, match="pod r-0 has not left after 3660 s; if its node is lost: kubectl"):
        deploy.take_away(cluster, "r")
    assert sum(call[0] == "pods" for call in cluster.calls) > 3600
    assert ("delete", ",".join(deploy.BESIDE)) not in cluster.calls, "a pod that may still run keeps its policy"


def test_an_undeploy_that_is_refused_says_what_helps(monkeypatch, capsys):
    def refuse(*_, **__):
        raise Refused("pod r-0 has not left after 90 s", 1)

    monkeypatch.setattr(deploy, "find_runs", refuse)
    assert deploy.undeploy(argparse.Namespace(run="r", overlay="demo", context="", namespace="finetune")) == 1
    said = capsys.readouterr().err
    assert "pod r-0 has not left after 90 s" in said and "fix: make status shows what is left" in said


def test_a_run_that_is_just_being_deleted_is_not_said_to_be_there(monkeypatch, capsys):
    leaving = job("job", pods=(pod(states=(RUNNING,)),))
    leaving.state, leaving.object["metadata"]["annotations"] = "deleting", {IDENTITY: "same"}
    monkeypatch.setattr(deploy, "find_runs", lambda *_, **__: [leaving])
    plan = SimpleNamespace(run="r", cluster=Cluster(), identity="same")
    assert deploy.deploy(plan, force=False) == 1
    assert "r: is being deleted, and saves a checkpoint; nothing was started" in capsys.readouterr().err
