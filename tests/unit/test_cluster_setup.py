"""What a setup decides by itself: which image data-access gets, and what the queue may hold. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_setup.py
"""

import argparse
import json

import pytest

from scripts.cluster import overlay, setup
from scripts.cluster.kubectl import Cluster
from scripts.cluster.setup_options import components
from scripts.cluster.setup_render import cluster_patches
from train.errors import InputError

RUNNING = "registry.example.com/team/tunefleet:cpu-0123456789ab"
BUILT = {"name": "localhost/tunefleet:cpu-aaaaaaaaaaaa", "target": "cpu", "digest": "sha256:new"}
TO_REGISTRY = {"name": "r/t:cpu-aaaaaaaaaaaa", "digest": "sha256:new", "reference": "r/t@sha256:new"}
TO_NODES = {"name": BUILT["name"], "digest": "sha256:new", "nodes": {}}


class Holding(Cluster):
    """A cluster that holds these objects."""

    def __init__(self, **objects):
        super().__init__()
        self.__dict__["objects"] = objects

    def get(self, kind: str, name: str) -> dict | None:
        return self.objects.get(kind)

    def list(self, kind: str, selector: str = "") -> list[dict]:
        return self.objects.get(kind, [])


def data_access(image: str) -> dict:
    return {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}


# ---- the image of data-access ----


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Where what was built and pushed is recorded."""
    monkeypatch.setattr(overlay, "ROOT", tmp_path)
    (tmp_path / "build").mkdir()

    def record(**files):
        for name, content in files.items():
            (tmp_path / "build" / f"{name}.json").write_text(json.dumps(content))

    return record


def chosen(what: str = "apply", image: str = "", **objects) -> str:
    return setup.choose_image(Holding(**objects), argparse.Namespace(what=what, image=image))


def test_an_image_that_was_pushed_to_a_registry_is_named_as_the_registry_has_it(build):
    build(image=BUILT, push=TO_REGISTRY)
    assert chosen() == chosen(deployment=data_access(RUNNING)) == "r/t@sha256:new"


def test_an_image_that_was_pushed_to_the_nodes_is_named_as_it_was_built(build):
    build(image=BUILT, push=TO_NODES)
    assert chosen(deployment=data_access(RUNNING)) == BUILT["name"]


@pytest.mark.parametrize("push", [{}, {"push": TO_REGISTRY | {"digest": "sha256:old"}}], ids=["never", "an older one"])
def test_a_data_access_that_runs_is_not_moved_to_an_image_that_was_never_pushed(build, push):
    build(image=BUILT, **push)
    assert chosen(deployment=data_access(RUNNING)) == RUNNING
    assert chosen() == BUILT["name"], "where nothing runs it can only become better"


def test_the_image_that_was_told_is_taken_and_a_check_takes_the_one_that_runs(build):
    build(image=BUILT, push=TO_REGISTRY)
    assert chosen(image="a/b:1", deployment=data_access(RUNNING)) == "a/b:1"
    assert chosen("check", deployment=data_access(RUNNING)) == RUNNING


def test_without_any_image_there_is_a_fix(build):
    with pytest.raises(InputError, match="make image push"):
        chosen()


# ---- the queue's quota ----

GROUPS = [
    {"coveredResources": ["cpu", "memory"], "flavors": [
        {"name": name, "resources": [
            {"name": "cpu", "nominalQuota": cpus}, {"name": "memory", "nominalQuota": memory}]}
        for name, cpus, memory in (("default-flavor", "8", "1Gi"), ("big-nodes", "64", "1Ti"))
    ]},
    {"coveredResources": ["nvidia.com/gpu"], "flavors": [
        {"name": "a100", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": "8", "borrowingLimit": "0"}]},
    ]},
]  # fmt: skip
KUEUE = {"customresourcedefinition": {}}
NODE = {"spec": {}, "status": {"allocatable": {"cpu": "6", "memory": "2Gi", "pods": "100"}}}


def groups_after(options: dict, **objects) -> list[dict]:
    """What a setup makes of the queue."""
    whole = setup.complete(Holding(**KUEUE, **objects), {"components": "kueue"} | options)
    (patch,) = cluster_patches(whole, components(whole))
    return json.loads(patch["patch"])[1]["value"]


def test_a_repeated_setup_leaves_a_queue_every_flavour_and_resource_that_it_was_given():
    assert groups_after({}, clusterqueue={"spec": {"resourceGroups": GROUPS}}) == GROUPS


def test_a_quota_that_was_told_is_the_queues():
    (group,) = groups_after({"queue_quota": "cpu=4"}, clusterqueue={"spec": {"resourceGroups": GROUPS}})
    assert group["flavors"][0]["resources"] == [{"name": "cpu", "nominalQuota": "4"}]


@pytest.mark.parametrize("spec", [{}, {"resourceGroups": []}, None])
def test_a_queue_without_quota_gets_what_the_nodes_have(spec):
    (group,) = groups_after({}, nodes=[NODE], **({} if spec is None else {"clusterqueue": {"spec": spec}}))
    assert group["flavors"][0]["resources"][:2] == [
        {"name": "cpu", "nominalQuota": "6"}, {"name": "memory", "nominalQuota": "2Gi"}]  # fmt: skip
