"""Quantising: what is refused, by which figures, and the whole way where auto-round is installed.

.venv/bin/python -m pytest tests/unit/test_quantise.py
"""

import json
import sys
from pathlib import Path

import pytest

from tests.tiny import make_model
from train import quantise
from train.errors import InputError

FIGURES = {"perplexity": 2.0, "stop_ids": [1], "stopped": 4, "asked": 4}  # fmt: skip


def program(*words: object) -> str:
    """The program in this process; what it objected to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["quantise", *map(str, words)])
        try:
            quantise.main()
        except InputError as error:
            return str(error)
    return ""


def objections(bits: str, **changes) -> list[str]:
    return quantise.judge({"model": FIGURES, "quantised": FIGURES | changes}, bits, Path("out"))


def test_a_perplexity_within_the_limit_is_accepted():
    assert objections("8", perplexity=2.019) == []
    assert objections("4", perplexity=2.09) == []


@pytest.mark.parametrize(("bits", "perplexity"), [("8", 2.03), ("4", 2.11), ("4", float("nan"))])
def test_a_perplexity_above_the_limit_is_refused_with_the_figures(bits, perplexity):
    (message,) = objections(bits, perplexity=perplexity)
    assert f"perplexity {perplexity:.4f}" in message
    assert "FORCE=1" in message


def test_answers_that_no_longer_end_are_refused():
    assert "3 of 4 answers end by themselves, the model's 4" in objections("8", stopped=3)[0]
    assert objections("8", stop_ids=[2])


def test_a_model_without_rows_is_judged_by_its_stops_alone():
    without = FIGURES | {"perplexity": None}
    assert quantise.judge({"model": without, "quantised": without}, "8", Path("out")) == []


def test_wrong_words_are_told_all_at_once(tmp_path):
    said = program("--run", "none", "--bits", 5, "--runs-dir", tmp_path)
    assert "BITS: 5: is no size to quantise to" in said
    assert "RUN: none: is no run" in said


def test_removing_what_is_not_there_says_so(tmp_path):
    make_model(tmp_path / "m")
    assert "is no export" in program("--model", tmp_path / "m", "--remove")


@pytest.mark.parametrize("bits", ["8", "4"])
def test_a_model_is_quantised_measured_and_removed_again(tmp_path, bits):
    pytest.importorskip("auto_round")
    make_model(tmp_path / "m")
    assert program("--model", tmp_path / "m", "--bits", bits, "--force") == ""
    made = tmp_path / f"m-quantised-{bits}bit"
    record = json.loads((made / "quantise.json").read_text())
    assert record["figures"]["quantised"]["size"] < record["figures"]["model"]["size"]
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= {path.name for path in made.iterdir()}
    assert program("--model", made, "--bits", bits).startswith(f"{made}/config.json: quantization_config")
    assert program("--model", tmp_path / "m", "--bits", bits, "--remove") == ""
    assert not made.exists()
