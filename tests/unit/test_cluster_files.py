"""Where a run's files lie is told of one in S3 too, of which the store knows nothing. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_files.py
"""

import argparse
import json

import pytest

from scripts.cluster import cluster_runs, deploy, results, status, watch
from scripts.cluster.kubectl import Cluster
from scripts.cluster.progress import Progress
from scripts.cluster.watch_view import View
from tests.unit.test_cluster_jobs import job, pod

PLACE = "s3://bucket/team/runs/r"
ENV = [{"name": "S3_URL", "value": "s3://bucket/team/"}]
FOUND = argparse.Namespace(run="r", overlay="", yes=True, context="", namespace="finetune")


def in_bucket(kind: str = "job", *conditions: tuple):
    """A run whose store is S3: a Job tells by its template, a TrainJob by its pods alone."""
    one = pod()
    one["spec"]["containers"][0]["env"] = ENV
    spec = {"template": {"spec": one["spec"]}} if kind == "job" else {}
    return job(kind, spec, conditions, pods=() if kind == "job" else (one,))


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_status_watch_and_runs_name_the_bucket(kind, monkeypatch, capsys):
    found = in_bucket(kind, ("Complete", "", ""))
    assert f"files    {PLACE}" in status.detail(found, Progress())
    (entry,) = cluster_runs.joined([], [found])
    assert entry["path"] == PLACE
    monkeypatch.setattr(watch, "final_loss", lambda *_: "")
    files = watch.files_of("r", [found.object, *found.pods])
    assert watch.tell_end(Cluster(), "r", found, Progress(), View(), files) == 0
    assert watch.tell_end(Cluster(), "r", None, Progress(), View(), files) == 1
    said = capsys.readouterr().out
    assert f"result: {PLACE}" in said and f"kept:   {PLACE};" in said and "/store" not in said


def test_undeploy_names_the_bucket(monkeypatch, capsys):
    monkeypatch.setattr(deploy, "find_runs", lambda *_, **__: [in_bucket()])
    monkeypatch.setattr(deploy, "take_away", lambda *_: None)
    assert deploy.undeploy(FOUND) == 0
    assert f"its files stay: {PLACE}" in capsys.readouterr().out


def test_a_run_of_the_store_is_named_there():
    assert "files    /store/runs/r on the store" in status.detail(job("job"), Progress())


def test_to_delete_a_run_in_a_bucket_takes_its_job_and_says_how_its_files_go(monkeypatch, capsys):
    asked = []

    class NoStore:
        def __init__(self, cluster):
            pass

        def ask(self, *words):
            asked.append(words)
            return []

    monkeypatch.setattr(cluster_runs, "Store", NoStore)
    monkeypatch.setattr(cluster_runs, "find_runs", lambda *_, **__: [in_bucket("job", ("Complete", "", ""))])
    monkeypatch.setattr(cluster_runs, "take_objects", lambda *_: None)
    cluster_runs.delete_run(Cluster(), FOUND)
    said = capsys.readouterr().out
    assert f"python -m scripts.s3.objects delete {PLACE}" in said and "deleted the job of r" in said
    assert asked == [("runs",)], "nothing of it is on the store"


# ---- whose they are ----


RECORDS = [
    {"name": "mine", "record": {"overlay": "medical"}, "changed": 3, "has": []},
    {"name": "medical-1a2b3c4d", "record": {}, "changed": 1, "has": []},
    {"name": "medical-like", "record": {"overlay": "demo"}, "changed": 2, "has": []},
    {"name": "medical", "record": {}, "changed": 0, "has": []},
]


@pytest.mark.parametrize(("overlay", "newest"), [("medical", "mine"), ("demo", "medical-like")])
def test_a_run_with_a_name_of_its_own_is_found_by_its_overlay_when_its_job_is_gone(monkeypatch, overlay, newest):
    monkeypatch.setattr(results, "find_runs", lambda *_, **__: [])
    asked = argparse.Namespace(run="", overlay=overlay, namespace="finetune")
    assert results.find_run(Cluster(), asked, RECORDS)["name"] == newest


def test_the_runs_of_an_overlay_are_listed_by_what_their_records_say(monkeypatch, capsys):
    monkeypatch.setattr(cluster_runs, "find_runs", lambda *_, **__: [])
    monkeypatch.setattr(cluster_runs.Store, "ask", lambda *_: RECORDS)
    cluster_runs.list_runs(Cluster(), "medical", as_json=True)
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert names == {"mine", "medical-1a2b3c4d", "medical"}
