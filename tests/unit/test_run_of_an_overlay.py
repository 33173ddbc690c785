"""A run made from an overlay and the make line: what is recorded of it, and that two at once do not meet. No cluster.

.venv/bin/python -m pytest tests/unit/test_run_of_an_overlay.py
"""

import argparse

import pytest
import yaml

from scripts.cluster import overlay
from scripts.cluster.names import STARTED_BY


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
