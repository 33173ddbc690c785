"""The whole benchmark with a tiny model, the others installed and run; and `make profile` from overlay to table.

.venv/bin/python -m pytest -m faults tests/unit/test_bench_whole.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench.equipment import write_rows

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def program(*words: object) -> str:
    """A program's output; it must succeed."""
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


def test_every_variant_trains_on_the_same_tokens_and_the_same_command_shows_the_result_again(tmp_path):
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"{i} it is. " * (1 + i % 9)} for i in range(200)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    command = ["scripts.bench.bench", "--what", "train", "curve", "ranks", "--data", path, "--steps", 2, "--rounds", 1,
               "--steps-curve", 2,
               "--geometry", json.dumps(TINY), "--place", tmp_path]  # fmt: skip
    program(*command)
    result = json.loads((tmp_path / "result.json").read_text())
    names = [row["variant"] for row in result["sections"]["train"]["rows"]]
    assert {"ours", "ours-qlora", "trl", "trl-packing", "trl-packing-one", "plain"} <= set(names)
    assert [row["variant"] for row in result["sections"]["curve"]["rows"]] == ["ours", "trl", "plain"]
    for run in result["sections"]["train"]["runs"]:
        assert run["eval_loss"] == pytest.approx(result["sections"]["train"]["runs"][0]["eval_loss"], rel=0.02)
    assert "TRL SFTTrainer, packing" in (tmp_path / "result.md").read_text()
    assert (tmp_path / "result.png").exists()
    assert (tmp_path / "curve.png").exists()
    assert "round 1/1  TRL SFTTrainer" in program(*command)
    assert json.loads((tmp_path / "result.json").read_text())["sections"] == result["sections"]


def test_a_use_case_is_profiled_from_its_overlay():
    printed = program("scripts.bench.profile", "--overlay", "demo")
    assert "matrix products" in printed
    trace = Path(printed.rpartition("trace: ")[2].strip())
    assert json.loads(trace.read_text())["traceEvents"]
