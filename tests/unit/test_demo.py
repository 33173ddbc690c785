"""The demo's data set and model are what demo/README.md says they are."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from demo import make_data, pretraining

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "demo" / "data"
MODEL = ROOT / "demo" / "model"
NAMES = ("train", "validation")


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    return {
        name: [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in NAMES
    }


@pytest.fixture(scope="module")
def pretraining_text() -> str:
    return "".join(islice(pretraining.documents(seed=2), 40_000))


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL)


def record_fields(row: dict[str, str]) -> list[str]:
    return row["output"].split(" | ")


def test_regenerated_data_is_identical(tmp_path):
    command = [sys.executable, "-m", "demo.make_data", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in NAMES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (DATA / f"{name}.jsonl").read_bytes()


def test_no_message_occurs_twice(rows):
    messages = [row["input"] for name in NAMES for row in rows[name]]
    assert len(messages) == len(set(messages)) == make_data.TRAIN_ROWS + make_data.VALIDATION_ROWS


def test_every_row_has_three_filled_fields(rows):
    for row in rows["train"] + rows["validation"]:
        assert list(row) == ["instruction", "input", "output"]
        assert all(value == value.strip() != "" for value in row.values())


def test_every_record_is_read_from_its_message(rows):
    for row in rows["train"] + rows["validation"]:
        problem, *values = record_fields(row)
        assert problem in make_data.PROBLEMS
        assert len(values) == 3
        assert all(value == "none" or value in row["input"] for value in values)


def test_validation_teams_and_machines_are_unseen_in_training(rows):
    _, machines, teams, _ = (
        [{record_fields(row)[place] for row in rows[name]} for name in NAMES] for place in range(4)
    )
    assert machines[0].isdisjoint(machines[1])
    assert teams[0] & teams[1] == {"none"}


def test_every_problem_is_in_both_files(rows):
    for name in NAMES:
        assert {record_fields(row)[0] for row in rows[name]} == set(make_data.PROBLEMS)


def test_records_never_occur_in_pretraining_text(pretraining_text, rows):
    assert not any(problem in pretraining_text for problem in make_data.PROBLEMS)
    assert not any(line.count(" | ") > 1 for line in pretraining_text.splitlines())
    assert not any(instruction in pretraining_text for instruction in make_data.INSTRUCTIONS)


def test_messages_of_the_data_set_never_occur_in_pretraining_text(pretraining_text):
    text = re.sub(r"\b[a-z]+-\d+", "{node}", pretraining_text.lower())
    assert "{node}" in text
    assert [wording for wordings in make_data.PROBLEMS.values() for wording in wordings if wording in text] == []


def test_model_directory_is_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8_000_000


def test_model_loads_and_answers_a_question_it_was_trained_for(model, tokenizer):
    question = "Name the machine.\nA new disk arrived for gpu-42. Lena will tell the others."
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=10)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "gpu-42<|im_end|>"


def test_weights_are_bf16_with_tied_embeddings(model):
    import torch

    assert model.config.model_type == "qwen3"
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_chat_template_writes_what_the_model_was_trained_on(tokenizer):
    turns = [("system", "Answer briefly."), ("user", "Spell ab."), ("assistant", "a b"), ("user", " Why?\n")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == pretraining.render(turns)
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == pretraining.render(turns) + "<|im_start|>assistant\n"


def test_chat_survives_encoding_and_decoding(tokenizer):
    text = pretraining.render([("user", "Grüße an node-07 ≥ 14:05?"), ("assistant", "ok | ✓")])
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [ids[0], ids[-2]]


def test_pad_and_end_tokens_differ(model, tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.bos_token is None
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")}) == 3
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_rows_are_forty_to_a_hundred_and_ten_tokens_long(rows, tokenizer):
    for row in rows["train"] + rows["validation"]:
        turns = [("user", f"{row['instruction']}\n\n{row['input']}"), ("assistant", row["output"])]
        assert 40 <= len(tokenizer(pretraining.render(turns))["input_ids"]) <= 110
