"""Other use cases on the demo's model, a few steps each on real or own rows: the validation loss falls, proofs hold."""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.e2e.chain import read, run_chain
from tests.tiny import ROOT

pytestmark = pytest.mark.faults  # minutes; `make test` has the demo

SHARED = Path(os.environ.get("SHARED", ROOT.parent / "shared"))
MEDICAL = SHARED / "data" / "medical_meadow_1000.json"
QUICK = [
    *("max_steps=8", "num_train_epochs=", "learning_rate=3.0e-3", "max_eval_samples=24"),
    *("generate_samples=2", "max_new_tokens=16"),
    *("eval_strategy=steps", "eval_steps=8", "save_strategy=steps", "save_steps=8"),
]


def falls(run: Path) -> bool:
    """Whether the validation loss fell, in the training's own figures and between the two evaluations."""
    training = read(run, "run.json")["training"]
    measured = read(run, "after.json")["eval_loss"] < read(run, "before.json")["eval_loss"]
    return training["eval_loss_last"] < training["eval_loss_first"] and measured


@pytest.mark.skipif(not MEDICAL.exists(), reason="needs the medical rows (SHARED=directory with data/)")
def test_medical_learns_from_real_rows(tmp_path):
    data = ["--model", "demo/model", "--data", str(MEDICAL)]
    run, _ = run_chain(tmp_path, "medical", *data, "--set", *QUICK, "bad_rows=drop")
    assert falls(run)
    assert all(check["result"] == "passed" for check in read(run, "merged/merge.json")["checks"])


def test_quotes_learns_over_a_four_bit_base(tmp_path):
    quotes = tmp_path / "quotes.jsonl"
    rows = (json.loads(line) for line in (ROOT / "demo/data/train.jsonl").read_text().splitlines()[:300])
    with quotes.open("w") as file:
        for row in rows:
            tags = row["output"].split(" / ")
            file.write(json.dumps({"quote": row["input"], "author": "nobody", "tags": tags}) + "\n")
    data = ["--model", "demo/model", "--data", str(quotes)]
    run, _ = run_chain(tmp_path, "quotes", *data, "--set", *QUICK)
    assert read(run, "run.json")["recipe"]["method"] == "qlora"
    assert falls(run)


def test_full_training_learns_and_leaves_a_whole_model(tmp_path):
    full = ["method=full", "lora_r=", "lora_alpha=", "lora_dropout=", "lora_target_modules=", "merge="]
    run, _ = run_chain(tmp_path, "demo", "--set", *QUICK, *full, "exact_match=", "learning_rate=1.0e-3")
    assert falls(run)
    assert (run / "model" / "model.safetensors").exists() and not (run / "merged").exists()
    base, model = (AutoModelForCausalLM.from_pretrained(path) for path in (ROOT / "demo/model", run / "model"))
    assert model.dtype == base.dtype, "stored in the base's number format"
