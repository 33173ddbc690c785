"""The job that fetches into a cluster's store renders with and without its components, and keeps every rule of a pod.

.venv/bin/python -m pytest tests/manifests/test_fetch_renders.py
"""

import argparse
import json
import shutil

import pytest
import yaml

from scripts.cluster import fetch_job
from scripts.cluster.fetch_job import Wish
from scripts.cluster.kubectl import Cluster
from tests.manifests.matrix import OVERLAYS, VALUES, kustomize
from tests.manifests.rules import SINGLE, job_labels, references

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
MODEL = Wish("model", "owner/model", "main")
PROXY = [f"proxy.{key}={value}" for key, value in VALUES["proxy"]["proxy"].items()]
RULES = [rule for rule in SINGLE if rule is not job_labels]  # it is no run, and has no run's labels


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    """A function that renders the job of a wish, as fetch does."""
    monkeypatch.setattr(fetch_job, "BUILD", fetch_job.BUILD.with_name(f"cluster-{tmp_path.name}"))
    monkeypatch.delenv(fetch_job.ENDPOINT, raising=False)

    def render(wish: Wish, overlay: str = "demo", more: tuple = (), place: tuple = ()) -> dict:
        arguments = argparse.Namespace(overlay=overlay, more=list(more), place=list(place), without=[], runtime="")
        (job,) = kustomize(fetch_job.write(Cluster("", "team"), wish, arguments))
        return job

    yield render
    shutil.rmtree(fetch_job.BUILD, ignore_errors=True)


def container(job: dict) -> dict:
    return job["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("overlay", [path.name for path in OVERLAYS])
@pytest.mark.parametrize("kind", ["model", "data"])
def test_the_job_keeps_every_rule_whatever_the_overlay(rendered, overlay, kind):
    job = rendered(Wish(kind, "owner/name", ""), overlay)
    assert [problem for rule in RULES for problem in rule(job)] == []
    assert list(references([job])) == []
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["tunefleet.io/role"] == "fetch" and "tunefleet.io/run" not in labels
    assert job["metadata"]["namespace"] == "team"


def test_with_proxy_and_pull_secret_it_keeps_them_too(rendered):
    job = rendered(MODEL, more=("proxy", "pull-secret"), place=PROXY)
    assert [problem for rule in RULES for problem in rule(job)] == []
    assert {"name": "https_proxy", "value": "http://proxy:3128"} in container(job)["env"]
    assert job["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "image-pull"}]


def test_the_rules_bite(rendered):
    job = rendered(MODEL)
    container(job)["image"] = "tunefleet:latest"
    del container(job)["securityContext"]["capabilities"]
    found = "\n".join(problem for rule in RULES for problem in rule(job))
    assert "mutable image" in found and "drop lacks ALL" in found


def test_the_name_is_of_what_is_fetched_and_nothing_else(rendered, monkeypatch):
    names = {rendered(wish)["metadata"]["name"] for wish in (
        MODEL, Wish("model", "owner/model", "v2"), Wish("data", "owner/model", "main"))}  # fmt: skip
    assert len(names) == 3 and all(len(name) < 40 for name in names)
    monkeypatch.setenv(fetch_job.ENDPOINT, "https://mirror.example.org")
    job = rendered(MODEL, "medical", ("proxy",), PROXY)
    assert job["metadata"]["name"] in names
    assert {"name": "HF_ENDPOINT", "value": "https://mirror.example.org"} in container(job)["env"]


def test_the_token_is_a_reference_to_the_secret_and_stands_nowhere(rendered, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-for-a-manifest")
    job = rendered(MODEL)
    (token,) = [entry for entry in container(job)["env"] if entry["name"] == "HF_TOKEN"]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN", "optional": True}}
    assert "not-for-a-manifest" not in json.dumps(job)


def test_what_is_fetched_travels_as_whole_words(rendered):
    url = 'https://host/a\'b $(HF_TOKEN) "c".jsonl'
    words = container(rendered(Wish("data", url, "", "0" * 64)))["args"]
    assert words[:3] == ["python", "-m", "scripts.fetch.data"]
    assert words[words.index("--data") + 1] == url.replace("$(", "$$(") and words[-2:] == ["--store", "/store"]


def test_bad_input_is_not_tried_again_and_lost_pods_are(rendered):
    spec = rendered(MODEL)["spec"]
    fail, ignore = spec["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob" and fail["onExitCodes"]["values"] == [2]
    assert ignore["action"] == "Ignore" and spec["backoffLimit"] > 1
    assert yaml.safe_dump(spec).count("DisruptionTarget") == 1
