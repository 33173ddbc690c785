"""What a setup decides by itself: which image data-access gets, and what the queue may hold. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_setup.py
"""

import argparse
import json

import pytest

from scripts.cluster import overlay, setup
from scripts.cluster.kubectl import Cluster
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
