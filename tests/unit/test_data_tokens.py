"""Which tokens carry loss, how a row begins and ends, and which tokenizers are refused."""

import json

import pytest
import torch
from data_cases import CHATML, LLAMA, MODELS, ROW, failure, make_model, make_models, prepare, questions, shown
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory)


# --- which tokens carry loss

ANSWERS = ["It is 3.", " leading and trailing ", "\nline\n\n", "東京 🙂 schöne Grüße", "x", "### Instruction:\nSay it."]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompt", ["{prompt}", "Q: {prompt}\nA: ", "{prompt}\n", "{prompt}   ", "{prompt}\n\n\n"])
def test_the_mask_covers_exactly_answer_and_stop_behind_the_prompt_as_generation_sees_it(
    tmp_path, models, name, prompt
):
    rows = [{"prompt": f"What is {n}?", "completion": answer} for n, answer in enumerate(ANSWERS)]
    check, prepared = prepare(
        tmp_path, rows, models[name], data_format="completion", prompt_template=prompt, validation_size=2, seed=1
    )
    tokenizer = Tokenizer.from_file(str(models[name] / "tokenizer.json"))
    stop = {"chatml": "<|im_end|>", "thinking": "<|im_end|>", "plain": "<|endoftext|>"}.get(name, "</s>")
    asked = [json.loads(line) for line in (tmp_path / "data" / "validation_prompts.jsonl").read_text().splitlines()]
    assert len(prepared.validation) == len(asked) == 2 and len(prepared.train) == 4
    for index, line in enumerate(asked):
        ids, labels = (prepared.validation[index][key].tolist() for key in ("input_ids", "labels"))
        start = len(line["prompt_ids"])
        assert ids[:start] == line["prompt_ids"] == tokenizer.encode(
            line["prompt"], add_special_tokens=check["prompt"] == "plain"
        ).ids  # fmt: skip
        trained = [i for i, label in enumerate(labels) if label != -100]
        assert trained == list(range(start, ids.index(tokenizer.token_to_id(stop), start) + 1))
        text = tokenizer.decode(ids[start : trained[-1]], skip_special_tokens=False).removeprefix("<think>\n\n</think>")
        assert text.strip() == line["answer"].strip() == rows[line["row"] - 1]["completion"].strip()
        assert ids[trained[-1] + 1 :] == ([] if name not in ("chatml", "thinking") else tokenizer.encode("\n").ids)
        assert all(labels[i] == ids[i] for i in trained)


def test_a_conversation_carries_loss_on_each_answer_and_its_stop_token_only(tmp_path, models):
    said = [("system", "Be brief."), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")]
    turns = [{"role": role, "content": text} for role, text in said]
    _, prepared = prepare(tmp_path, [{"messages": turns}], models["chatml"], data_format="messages")
    text, trained = shown(prepared.train, 0, models["chatml"])
    assert trained == "1<|im_end|>2<|im_end|>"
    assert text.count("<|im_end|>\n") == 5


def test_train_on_inputs_lets_all_tokens_but_the_first_carry_loss(tmp_path, models):
    _, prepared = prepare(tmp_path, [ROW], models["chatml"], train_on_inputs=True)
    labels = prepared.train[0]["labels"]
    assert labels[0] == -100 and torch.equal(labels[1:], prepared.train[0]["input_ids"][1:])
    assert prepared.train.trained.tolist() == [len(labels) - 1]


def test_plain_text_carries_loss_throughout_and_ends_in_the_end_token(tmp_path, models):
    rows = [{"text": "Once upon a time."}, {"text": "Two documents.<|endoftext|>In one row."}]
    check, prepared = prepare(tmp_path, rows, models["plain"], data_format="text", validation_size=1)
    text, trained = shown(prepared.train, 0, models["plain"])
    assert text.endswith("<|endoftext|>") and trained == text[1:]
    assert not (tmp_path / "data" / "validation_prompts.jsonl").exists()
    assert check["special_tokens_in_text"] == {"count": 1, "rows": [2]}


@pytest.mark.parametrize("name", ["plain", "plain pieces"])
def test_a_prompt_and_answer_that_would_share_a_token_are_cut_apart_and_counted(tmp_path, models, name):
    answer = "東京" if name == "plain" else " space first"
    rows = [{"prompt": "Where?", "completion": answer}, {"prompt": "Where?", "completion": "2."}]
    check, prepared = prepare(tmp_path, rows, models[name], data_format="completion", prompt_template="{prompt} A: ")
    assert check["split_boundaries"] == {"count": 1, "rows": [1]}
    assert any("Does the prompt end with a space?" in note for note in check["notes"])
    tokenizer = Tokenizer.from_file(str(models[name] / "tokenizer.json"))
    text = f"Where? A: {answer}"
    ids = prepared.train[0]["input_ids"].tolist()
    assert ids[:-1] != tokenizer.encode(text).ids
    assert tokenizer.decode(ids).strip() == text


def test_the_row_s_tokens_are_those_of_its_text_where_nothing_is_joined(tmp_path, models):
    check, prepared = prepare(tmp_path, questions(20), models["plain with BOS"])
    tokenizer = Tokenizer.from_file(str(models["plain with BOS"] / "tokenizer.json"))
    assert check["split_boundaries"]["count"] == 0
    text, _ = shown(prepared.train, 3, models["plain with BOS"])
    whole = tokenizer.encode(text.removeprefix("<s>"), add_special_tokens=True).ids
    assert prepared.train[3]["input_ids"].tolist() == whole


# --- the beginning and the end of a row


def test_bos_is_put_once_by_the_tokenizer_or_by_the_template(tmp_path, models):
    for name, by in (("plain with BOS", "tokenizer"), ("llama", "chat template")):
        check, prepared = prepare(tmp_path, [ROW], models[name])
        assert check["bos"] == {"token": "<s>", "first": True, "by": by}
        assert shown(prepared.train, 0, models[name])[0].count("<s>") == 1
    check, _ = prepare(tmp_path, [ROW], models["plain"])
    assert check["bos"]["token"] is None


def test_a_doubled_bos_is_an_error_that_names_the_rows(tmp_path, models):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    message = failure(tmp_path, rows, models["plain with BOS"], data_format="completion", prompt_template="<s>{prompt}")
    assert "rows 1, 2: begins with <s> twice" in message
    doubled = make_model(tmp_path / "doubled", chat="{{ bos_token }}" + LLAMA, bos="<s>", eos="</s>")
    assert "row 1: begins with <s> twice" in failure(tmp_path, [ROW], doubled)


def test_a_template_whose_end_is_no_stop_token_is_an_error_that_shows_the_end(tmp_path):
    model = make_model(tmp_path / "model", eos="<|endoftext|>")
    message = failure(tmp_path, [ROW], model)
    assert "row 1: an answer without stop token (<|endoftext|>; behind it stands '<|im_end|>\\n')" in message


def test_a_conversation_of_which_only_the_last_answer_ends_in_a_stop_token_is_an_error(tmp_path):
    late = CHATML.replace("'<|im_end|>\\n'", "('<|im_end|>\\n' if loop.last or m['role'] == 'user' else '\\n')")
    model = make_model(tmp_path / "model", chat=late)
    turns = [{"role": role, "content": "hello"} for role in ("user", "assistant") * 2]
    message = failure(tmp_path, [{"messages": turns[:2]}, {"messages": turns}], model, data_format="messages")
    assert "row 2: an answer without stop token" in message


def test_a_stop_token_of_the_generation_config_counts(tmp_path):
    model = make_model(tmp_path / "model", eos="<|endoftext|>", generation={"eos_token_id": [0, 2]})
    check, _ = prepare(tmp_path, [ROW], model)
    assert check["stop"]["tokens"] == ["<|im_end|>"] and check["stop"]["in_loss"] and check["stop"]["obeyed"]


def test_a_stop_token_that_generate_would_not_obey_is_noted(tmp_path):
    model = make_model(tmp_path / "model", generation={"eos_token_id": 0})
    check, _ = prepare(tmp_path, [ROW], model)
    assert not check["stop"]["obeyed"] and any("does not stop there" in note for note in check["notes"])


def test_a_model_without_any_stop_token_is_refused(tmp_path):
    model = make_model(tmp_path / "model", chat=None, eos=None)
    assert "an answer without stop token (the model names none" in failure(tmp_path, [ROW], model)


# --- the model's side


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    model = make_model(tmp_path / "model", config={"vocab_size": 100})
    assert "but the model's embedding only 100" in failure(tmp_path, [ROW], model)


def test_a_max_length_beyond_the_model_s_positions_is_refused(tmp_path, models):
    message = failure(tmp_path, [ROW], models["chatml"], max_length=4096)
    assert "max_length: is 4096, but the model reads at most 2048 tokens" in message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda model: (model / "config.json").unlink(), "holds no config.json"),
        (lambda model: (model / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda model: (model / "tokenizer.json").write_text('{"version"'), "tokenizer.json: is not JSON"),
        (lambda model: (model / "tokenizer.json").write_text('{"added_tokens": []}'), "tokenizer: cannot be loaded"),
        (lambda model: (model / "tokenizer.json").unlink(), "tokenizer: cannot be loaded"),
    ],
    ids=["no config", "broken config", "broken tokenizer", "strange tokenizer", "no tokenizer"],
)
def test_a_model_s_directory_that_lacks_something_is_named(tmp_path, spoil, said):
    model = make_model(tmp_path / "model")
    spoil(model)
    assert said in failure(tmp_path, [ROW], model)
    assert "there is no such directory" in failure(tmp_path, [ROW], tmp_path / "absent")


def test_truncation_and_padding_saved_in_the_tokenizer_do_not_act(tmp_path):
    model = make_model(tmp_path / "model")
    saved = Tokenizer.from_file(str(model / "tokenizer.json"))
    saved.enable_truncation(8)
    saved.enable_padding(length=64)
    saved.save(str(model / "tokenizer.json"))
    _, prepared = prepare(tmp_path, [ROW], model)
    text, trained = shown(prepared.train, 0, model)
    assert trained == "It is 3.<|im_end|>" and text.endswith("It is 3.<|im_end|>\n")
