"""A run made from an overlay and the make line: what is recorded of it, and that two at once do not meet. No cluster.

.venv/bin/python -m pytest tests/unit/test_run_of_an_overlay.py
"""

import argparse
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from scripts import pod_place
from scripts.cluster import overlay
from scripts.cluster.names import OVERLAY, STARTED_BY
from scripts.cluster.placement import read_placement


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes the plan of a make line, in a build directory of its own."""
    monkeypatch.setattr(overlay, "BUILD", tmp_path)

    def plan(*words: str) -> overlay.Plan:
        parser = argparse.ArgumentParser()
        overlay.add_run_options(parser)
        return overlay.make_plan(parser.parse_args(words))

    return plan


def test_the_recorded_command_is_the_whole_one(planned):
    plan = planned("--overlay", "demo", "--run", "mine", "--set", "lora_r=16", "seed=3", "--place", "threads=1",
                   "--runtime", "trainjob", "--with", "spread", "--data", "datasets/a b.jsonl")  # fmt: skip
    (patch,) = yaml.safe_load((plan.directory / "kustomization.yaml").read_text())["patches"]
    told = yaml.safe_load(patch["patch"])["metadata"]["annotations"][STARTED_BY]
    assert told == (
        "make deploy OVERLAY=demo RUN=mine DATA='datasets/a b.jsonl' RUNTIME=trainjob SET='lora_r=16 seed=3' "
        "PLACE=threads=1 WITH=spread"
    )
    assert planned("--overlay", "demo").command == "make deploy OVERLAY=demo"


def test_two_makes_at_once_end_well_and_one_of_them_stays(tmp_path):
    def put(number: int) -> None:
        for turn in range(100):
            aside = tmp_path / f".r.{number}.tmp"
            aside.mkdir()
            (aside / "train.yaml").write_text(f"{number} {turn}")
            overlay.put_in_place(aside, tmp_path / "r")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert (tmp_path / "r" / "train.yaml").read_text().endswith(" 99")
    assert {path.name for path in tmp_path.iterdir()} == {"r", ".lock"}


def test_the_same_again_leaves_what_another_may_be_reading(planned):
    before = planned("--overlay", "demo").directory.stat()
    assert planned("--overlay", "demo").directory.stat().st_ino == before.st_ino


def test_the_overlay_is_in_the_placement_for_the_runs_record(planned):
    path = planned("--overlay", "demo", "--run", "mine").directory / "cluster.yaml"
    assert yaml.safe_load(path.read_text())["metadata"]["annotations"][OVERLAY] == "demo"
    assert pod_place.OVERLAY == OVERLAY
    assert read_placement(path)[0]["run"] == "mine", "the schema takes it"
