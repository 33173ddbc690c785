"""Greedy answers in batches."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.tiny import make_model
from train.data_tokens import load_tokenizer
from train.generate import LARGEST_BATCH, batch_size_for, cut, generate_answers, prompt_ids, stop_ids

PROMPTS = ["w1 w2 w3", "w7", "w100 w3 w9 w9 w4 w20 w21 w22", "w5 w6", "w80 w1 w2 w90 w11"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple:
    """A model with random weights in float32, in which no rounding depends on the batch, and its tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    make_model(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, load_tokenizer(directory)


def one_by_one(model, ids: list[int], stops: list[int], most: int) -> list[int]:
    """The greedy answer the slow way: no batch, no padding, no cache."""
    new: list[int] = []
    while len(new) < most and (not new or new[-1] not in stops):
        logits = model(input_ids=torch.tensor([ids + new])).logits
        new.append(int(logits[0, -1].argmax()))
    return new


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_of_any_size_answer_as_one_prompt_alone_does(world, batch_size):
    model, tokenizer = world
    stops = stop_ids(model, tokenizer)
    with torch.inference_mode():
        wanted = [cut(one_by_one(model, ids, stops, 12), stops, tokenizer) for ids in prompt_ids(tokenizer, PROMPTS)]
    assert generate_answers(model, tokenizer, PROMPTS, 12, batch_size) == wanted


def test_the_same_prompts_get_the_same_answers_again(world):
    model, tokenizer = world
    assert generate_answers(model, tokenizer, PROMPTS, 8, 3) == generate_answers(model, tokenizer, PROMPTS, 8, 3)


def test_a_stop_token_of_the_generation_config_ends_an_answer(world):
    model, tokenizer = world
    first = int(model(input_ids=torch.tensor([prompt_ids(tokenizer, ["w7"])[0]])).logits[0, -1].argmax())
    own = model.generation_config.eos_token_id
    assert generate_answers(model, tokenizer, ["w7"], 4, 1)[0][0] != ""
    try:
        model.generation_config.eos_token_id = [1, first]
        assert generate_answers(model, tokenizer, ["w7"], 4, 1) == [("", True)]
    finally:
        model.generation_config.eos_token_id = own


def test_sampling_and_penalties_of_the_generation_config_are_not_used_and_stay(world):
    model, tokenizer = world
    plain = generate_answers(model, tokenizer, PROMPTS, 10, 5)
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=9.0)
    try:
        assert generate_answers(model, tokenizer, PROMPTS, 10, 5) == plain
        assert model.generation_config.repetition_penalty == 9.0
    finally:
        model.generation_config.update(do_sample=False, temperature=1.0, repetition_penalty=1.0)


def test_an_answer_cut_by_the_token_limit_is_not_called_stopped(world):
    model, tokenizer = world
    answers = generate_answers(model, tokenizer, PROMPTS, 3, 8)
    assert any(not stopped for _, stopped in answers)
    assert all(len(text.split()) == 3 for text, stopped in answers if not stopped)


def test_a_prompt_that_fills_the_context_gets_an_empty_answer(world):
    model, tokenizer = world
    full = " ".join(["w1"] * model.config.max_position_embeddings)
    assert generate_answers(model, tokenizer, [full], 5, 1) == [("", False)]


def test_a_small_model_answers_with_one_thread_and_gives_the_others_back(world):
    model, tokenizer = world
    before, seen = torch.get_num_threads(), []
    handle = model.register_forward_hook(lambda *arguments: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        generate_answers(model, tokenizer, ["w1"], 2, 1)
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        handle.remove()
        torch.set_num_threads(before)


def test_no_prompts_give_no_answers(world):
    assert generate_answers(*world, [], 5, 4) == []


def test_what_the_tokenizer_puts_before_a_text_is_put_there_once(tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "</s>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    assert prompt_ids(tokenizer, ["a b", "<s> a b"]) == [[0, 1, 2], [0, 1, 2]]
    assert prompt_ids(tokenizer, ["a b"], ()) == [[1, 2]]
    assert prompt_ids(tokenizer, ["a b"], (0,)) == [[0, 1, 2]]


def test_long_prompts_of_a_large_model_go_in_smaller_batches(world):
    model, _ = world
    assert batch_size_for(model.config, 100) == LARGEST_BATCH
    large = type(model.config)(num_hidden_layers=64, num_key_value_heads=64, num_attention_heads=64, head_dim=128)
    assert 1 <= batch_size_for(large, 4096) < 8
