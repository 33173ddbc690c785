"""The demo's model and rows: small, made by this repository, and apart from each other."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.make_data import PROBLEMS, draw_rows
from demo.pretraining import documents

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "demo" / "model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def read(name):
    return [json.loads(line) for line in (ROOT / "demo" / "data" / name).read_text().splitlines()]


def test_committed_rows_are_those_the_script_draws():
    train, validation = draw_rows()
    assert read("train.jsonl") == train and read("validation.jsonl") == validation


def test_no_message_is_in_both_files_and_none_twice():
    messages = [row["input"] for name in ("train.jsonl", "validation.jsonl") for row in read(name)]
    assert len(messages) == len(set(messages)) > 2000


def test_every_answer_follows_from_its_message():
    for row in read("validation.jsonl"):
        problem, machine, team, urgency = row["output"].split(" / ")
        message = row["input"].lower()
        assert machine in message and (team == "none" or team in message)
        assert any(clause.split("{machine}")[-1].strip() in message for clause in PROBLEMS[problem])
        assert urgency in ("low", "normal", "high")


def test_base_model_never_saw_a_record_or_a_message():
    seen = "".join(islice(documents(seed=2), 20_000))
    rows = random.Random(0).sample(read("train.jsonl"), 300)
    assert not any(row[key] in seen for row in rows for key in ("instruction", "input", "output"))


def test_model_loads_plainly_and_is_small(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    assert model.config.model_type == "qwen3" and model.num_parameters() < 4_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8_000_000


def test_chat_template_ends_every_turn_with_the_stop_token(tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which team?"}]
    asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "teal"}], tokenize=False)
    assert whole.startswith(asked) and whole.removeprefix(asked) == "teal<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"


def test_padding_is_no_stop_and_nothing_is_put_before_the_text(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer("teal")["input_ids"][0] == tokenizer.encode("teal", add_special_tokens=False)[0]


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Größe: 12 µs → 北京\n\ttab"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
