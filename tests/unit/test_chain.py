"""The record of a run: what each stage adds to it.

.venv/bin/python -m pytest tests/unit/test_chain.py
"""

import json
from pathlib import Path

import pytest

from scripts.chain import update_record
from train.files import write_json

TRAINING = {"dtype": "float32", "dtype_reason": "asked for", "versions": {"peft": "1"}, "hardware": {"cpu": "x"},
            "base_model": {"name": "m"}, "matmul_gflops": 9.0, "steps": 3}  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Path:
    """A run whose training has just ended, and is not in its record yet."""
    write_json(tmp_path / "run.json", {"recipe": {"method": "lora"}, "data": {}, "stages": {}})
    for name in ("data", "adapter"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "data" / "data_check.json", {"digest": "d"})
    write_json(tmp_path / "adapter" / "manifest.json", {"adapter_model.safetensors": {"size": 1, "sha256": "a"}})
    write_json(tmp_path / "training.json", TRAINING)
    return tmp_path


def record_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def test_a_training_leaves_its_figures_versions_and_the_results_hashes(run):
    update_record(run, "train", 1.5)
    record = record_of(run)
    assert record["versions"] == {"peft": "1"} and record["training"] == {"steps": 3}
    assert record["result"] == {"directory": "adapter", "files": {"adapter_model.safetensors": "a"}}
    assert record["stages"] == {"train": {"seconds": 1.5}}


def test_a_training_that_was_done_when_a_signal_came_is_recorded_by_the_next_stage(run):
    update_record(run, "check-data", 0.5)
    record = record_of(run)
    assert record["data"]["digest"] == "d" and record["training"] == {"steps": 3} and "result" in record
    before = record
    update_record(run, "check-data", 0.5)
    assert record_of(run) == before


def test_figures_of_a_result_that_is_gone_are_not_taken_for_a_training(run):
    (run / "adapter" / "manifest.json").unlink()
    update_record(run, "check-data", 0.5)
    assert "training" not in record_of(run)
