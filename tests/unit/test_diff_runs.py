"""What differs between two runs, made from made-up run directories.

.venv/bin/python -m pytest tests/unit/test_diff_runs.py
"""

import json
import subprocess
import sys

import pytest

from scripts.record_diff import CAUSES, Difference, causes, differences, grouped
from tests.tiny import ROOT, environment
from tests.unit.test_compare import change, runs_of


def diff(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.diff_runs", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def test_everything_that_differs_is_named_in_its_group_and_what_is_equal_is_counted(tmp_path):
    first, second = runs_of(tmp_path, a={"lora_r": 8}, b={"lora_r": 32, "loss": 0.5})
    change(first, versions={"peft": "0.21.2"}, result={"files": {"adapter_model.safetensors": "1" * 64}})
    change(second, versions={"peft": "0.22.0"}, result={"files": {"adapter_model.safetensors": "2" * 64}},
           hardware={"cpu": "another", "memory_gb": 3.0, "flags": ["amx_bf16", "avx2"]},
           layout={"threads": 4})  # fmt: skip
    done = diff("--run", "a", "b", "--runs-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert words[0] == ["a", "b"]
    for line in (["recipe"], ["lora_r", "8", "32"], ["layout"], ["threads", "1", "4"], ["versions"],
                 ["peft", "0.21.2", "0.22.0"], ["cpu", "a", "processor", "another"],
                 ["flags", "without", "with", "avx2"], ["result"], ["after:", "validation", "loss", "0.02", "0.5"],
                 ["adapter_model.safetensors", "1" * 12, "2" * 12]):  # fmt: skip
        assert line in words, line
    assert "memory_gb" not in done.stdout, "what was free at that moment is no difference"
    assert "1 of model weights" in done.stdout and "1 of layout" in done.stdout


def test_equal_runs_end_with_0_too_and_are_said_to_be_equal(tmp_path):
    runs_of(tmp_path, a={}, b={})
    done = diff("--run", "a", "b", "--runs-dir", tmp_path)
    assert done.returncode == 0 and "a and b: no difference" in done.stdout
    assert "0 whether or not anything differs" in diff("--help").stdout


def test_json_holds_all_values_whole(tmp_path):
    runs_of(tmp_path, a={}, b={"prompt_template": "x" * 300})
    done = diff("--run", "a", "b", "--runs-dir", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert found["runs"] == ["a", "b"] and found["equal"]["recipe"] > 40
    assert found["differences"] == [{"group": "recipe", "key": "prompt_template", "was": None, "now": "x" * 300}]


def test_a_group_that_one_record_lacks_is_said_not_to_be_compared(tmp_path):
    _, second = runs_of(tmp_path, a={}, b={})
    record = json.loads((second / "run.json").read_text())
    del record["versions"]
    (second / "run.json").write_text(json.dumps(record))
    done = diff("--run", "a", "b", "--runs-dir", tmp_path)
    assert "not compared: versions, of which b has no record" in done.stdout
    assert json.loads(diff("--run", "a", "b", "--runs-dir", tmp_path, "--json").stdout)["not_recorded"] == ["versions"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "a"], "RUN: a: names 1 run,"),
        ([], "RUN: (empty): names no runs"),
        (["--run", "a", "b", "a b"], "names 3 runs"),
        (["--run", "a", "a"], "names 1 run,"),
        (["--run", "a", "nowhere"], "RUN: nowhere: is no run in"),
        (["--run", "a", "torn"], "run.json: is not JSON"),
        (["--run", "bare", "nowhere"], "2 problems"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_fix(tmp_path, words, said):
    runs_of(tmp_path, a={}, b={}, torn={})
    (tmp_path / "torn" / "run.json").write_text("{")
    (tmp_path / "bare").mkdir()
    done = diff(*words, "--runs-dir", tmp_path)
    assert done.returncode == 2 and said in done.stderr and "fix: " in done.stderr


def test_causes_are_what_changes_the_arithmetic_and_nothing_else():
    was = {"recipe": {"lora_r": 8}, "versions": {"peft": "1", "torch": "2"}, "dtype": "float32", "git": "a",
           "hardware": {"cpu": "x", "cores": 8, "kernel": "6.1", "flags": []}}  # fmt: skip
    now = {**was, "recipe": {"lora_r": 16}, "versions": {"peft": "2", "torch": "2"}, "dtype": "bfloat16",
           "hardware": {"cpu": "y", "cores": 4, "kernel": "6.2", "flags": []}}  # fmt: skip
    found = causes(grouped(was), grouped(now))
    assert [one.key for one in found] == ["number format", "peft", "cpu"]
    assert {one.group for one in found} <= CAUSES.keys()
    assert found[1].in_words() == "peft: was 1, is 2"
    everything, _, _ = differences(grouped(was), grouped(now))
    assert Difference("hardware", "kernel", "6.1", "6.2") in everything
