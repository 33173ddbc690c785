"""Loss, exact match and samples on the held-out rows."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_cases import CHATML, LLAMA, make_model, prepare
from transformers import AutoModelForCausalLM

from tests.tiny import environment, make_world
from train import evaluate as program
from train.errors import InputError
from train.prepare import prepare_data
from train.prepared import load_prepared
from train.recipe import load_recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """A tiny model with prepared rows, 20 of them held out, and a recipe that counts exact matches."""
    made = make_world(tmp_path_factory.mktemp("world"), exact_match=True, generate_samples=3, max_new_tokens=6)
    prepare_data(load_recipe(made.recipe), made.model, made.data)
    return made


def run(world: SimpleNamespace, **changes) -> dict:
    """Evaluate with some keys of the recipe changed."""
    recipe = load_recipe(world.recipe)
    vars(recipe).update(changes)
    return program.evaluate(recipe, world.model, None, world.data)


def test_the_loss_is_the_mean_over_tokens_whatever_the_batch(world):
    model = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in load_prepared(world.data).validation:
        with torch.inference_mode():
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        labels = row["labels"][1:]
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    for size in (1, 7, 32):
        result = run(world, per_device_eval_batch_size=size, exact_match=False, generate_samples=0)
        assert result["eval_loss"] == pytest.approx(total / count, rel=1e-5)
        assert result["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
        assert result["tokens"] == count


def test_exact_match_counts_all_held_out_prompts_and_keeps_the_asked_samples(world, monkeypatch):
    answers = [json.loads(line)["answer"] for line in (world.data / "validation_prompts.jsonl").open()]
    told = [(f" {answer}\n" if place % 2 else answer + " more", True) for place, answer in enumerate(answers)]
    monkeypatch.setattr(program, "generate_answers", lambda *arguments: told)
    result = run(world)
    assert result["exact_match"] == {"matched": 10, "rows": 20, "share": 0.5}
    assert len(result["samples"]) == 3
    assert set(result["samples"][0]) == {"row", "prompt", "answer", "generated", "stopped"}


def test_without_exact_match_only_the_samples_are_generated(world):
    result = run(world, exact_match=False, generate_samples=2)
    assert result["exact_match"] is None
    assert len(result["samples"]) == 2


def test_no_validation_rows_are_said_and_not_guessed(world, tmp_path):
    for path in world.data.glob("train_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    check = json.loads((world.data / "data_check.json").read_text())
    del check["rows"]["validation"]
    (tmp_path / "data_check.json").write_text(json.dumps(check))
    result = program.evaluate(load_recipe(world.recipe), world.model, None, tmp_path)
    assert result["eval_loss"] is None
    assert result["samples"] == []
    assert "no validation rows" in result["message"]
    assert "no validation rows" in program.in_words(result)


def test_prompts_that_are_not_the_trained_tokens_are_refused_with_their_rows(world, tmp_path):
    for path in world.data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ids = np.load(tmp_path / "validation_ids.npy")
    np.save(tmp_path / "validation_ids.npy", (ids + 1) % 100)
    with pytest.raises(InputError, match="are not the tokens trained on"):
        program.evaluate(load_recipe(world.recipe), world.model, None, tmp_path)


@pytest.mark.parametrize(
    ("chat", "bos", "kind", "expected"),
    [(None, "<s>", "pieces", 1), (LLAMA, "<s>", "pieces", 0), (CHATML, "<s>", "bytes", 0), (None, None, "bytes", 0)],
)
def test_prompts_get_the_tokens_that_training_put_before_them(tmp_path, chat, bos, kind, expected):
    model = make_model(tmp_path / "model", chat=chat, bos=bos, kind=kind)
    rows = [{"prompt": f"say {word}", "completion": word} for word in ("one", "two", "three", "four", "five", "six")]
    _, prepared = prepare(tmp_path, rows, model, data_format="completion", validation_size=2)
    prompts = program.read_prompts(tmp_path / "data" / "validation_prompts.jsonl")
    assert len(prompts) == 2
    tokenizer = program.load_tokenizer(model)
    prefix = program.trained_prefix(tokenizer, prompts, prepared.validation, tmp_path)
    assert prefix == (tokenizer.bos_token_id,) * expected


def test_a_line_separator_inside_a_prompt_does_not_cut_the_file(tmp_path):
    path = tmp_path / "validation_prompts.jsonl"
    prompt = {"row": 1, "prompt": "a\u2028b\x0bc", "answer": "d"}
    path.write_text(json.dumps(prompt, ensure_ascii=False) + "\n", encoding="utf-8")
    assert program.read_prompts(path) == [prompt]


def test_broken_weights_give_no_loss_and_say_so(world, monkeypatch):
    monkeypatch.setattr(program, "validation_loss", lambda *arguments: (math.nan, 5))
    result = run(world, exact_match=False, generate_samples=0)
    assert result["eval_loss"] is None
    assert "nan" in result["message"]
    json.dumps(result, allow_nan=False)


def test_a_directory_without_a_model_or_adapter_is_refused(world, tmp_path):
    with pytest.raises(InputError) as found:
        program.open_model(load_recipe(world.recipe), tmp_path / "a", tmp_path / "b", torch.float32)
    assert len(found.value.problems) == 2


def test_the_program_writes_the_result_for_a_model_with_an_adapter(world, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(world.model)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    arguments = ["--recipe", world.recipe, "--model", world.model, "--adapter", tmp_path / "adapter",
                 "--data", world.data, "--output", tmp_path / "after.json"]  # fmt: skip
    command = [sys.executable, "-m", "train.evaluate", *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exact match" in done.stdout
    result = json.loads((tmp_path / "after.json").read_text())
    plain = run(world, exact_match=False, generate_samples=0)
    assert result["eval_loss"] != pytest.approx(plain["eval_loss"], abs=1e-4)
    assert [path.name for path in Path(tmp_path).iterdir() if path.name.endswith(".tmp")] == []
