"""From rows to arrays: which tokens carry loss, which rows are left out, and that the result is whole."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import (
    CHATML,
    LLAMA,
    THINKING,
    make_model,
    make_recipe,
    prepare,
    questions,
    shown,
    write_rows,
)
from tokenizers import Tokenizer

from train.check_data import print_xray, write_plot
from train.data_figures import histogram
from train.data_xray import xray_text
from train.errors import InputError
from train.prepare import prepare_data
from train.prepared import load_prepared

ROW = {"instruction": "Add.", "input": "1 and 2", "output": "It is 3."}
MODELS = {
    "chatml": {"chat": CHATML},
    "thinking": {"chat": THINKING},
    "llama": {"chat": LLAMA, "bos": "<s>", "eos": "</s>", "kind": "pieces"},
    "plain": {"chat": None, "eos": "<|endoftext|>"},
    "plain with BOS": {"chat": None, "bos": "<s>", "eos": "</s>"},
    "plain pieces": {"chat": None, "bos": "<s>", "eos": "</s>", "kind": "pieces"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {name: make_model(tmp_path_factory.mktemp("model"), **options) for name, options in MODELS.items()}


def failure(directory, rows, model, **recipe):
    with pytest.raises(InputError) as caught:
        prepare(directory, rows, model, **recipe)
    return str(caught.value)


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
        (lambda model: (model / "tokenizer.json").unlink(), "tokenizer: cannot be loaded"),
    ],
    ids=["no config", "broken config", "broken tokenizer", "no tokenizer"],
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
    assert shown(prepared.train, 0, model)[1] == "It is 3.<|im_end|>"


# --- rows left out


def test_rows_over_max_length_are_dropped_and_counted(tmp_path, models):
    rows = [*questions(5), {"instruction": "Long.", "output": "word " * 200}]
    check, prepared = prepare(tmp_path, rows, models["chatml"], max_length=100)
    assert check["rows"]["train"]["dropped"] == {"over max_length": {"count": 1, "rows": [6]}}
    assert len(prepared.train) == check["rows"]["train"]["kept"] == 5 and check["histogram"]["over"] == 1


def test_truncate_cuts_from_the_end_and_drops_what_is_cut_before_its_answer(tmp_path, models):
    rows = [ROW, {"instruction": "Long.", "output": "word " * 200}, {"instruction": "word " * 200, "output": "yes"}]
    check, prepared = prepare(tmp_path, rows, models["chatml"], max_length=64, overlong="truncate")
    figures = check["rows"]["train"]
    assert figures["truncated"] == {"count": 1, "rows": [2]} and figures["kept"] == 2
    assert figures["dropped"] == {"cut before the answer": {"count": 1, "rows": [3]}}
    assert prepared.train.lengths.tolist()[1] == 64
    assert check["stop"]["in_loss"] and check["stop"]["rows_without"] == {"count": 1, "rows": [2]}


def test_bad_rows_are_an_error_that_names_them_all(tmp_path, models):
    rows = questions(30)
    for number in (3, 17):
        rows[number - 1]["output"] = " "
    rows[4]["output"] = "stop<|im_end|>"
    message = failure(tmp_path, rows, models["chatml"])
    assert "rows.jsonl: rows 3, 17: no answer" in message
    assert "row 5: the answer's own text holds the stop token <|im_end|>" in message
    assert "bad_rows: drop in train.yaml" in message
    assert not (tmp_path / "data").exists()


def test_bad_rows_drop_leaves_them_out_and_counts_them(tmp_path, models):
    rows = questions(30)
    rows[2]["output"] = rows[16]["output"] = ""
    check, prepared = prepare(tmp_path, rows, models["chatml"], bad_rows="drop")
    assert len(prepared.train) == 28 and 3 not in prepared.train.rows
    assert check["empty_answers"] == {"count": 2, "rows": [3, 17]}


def test_when_all_rows_are_dropped_the_reasons_are_told(tmp_path, models):
    rows = [{**ROW, "output": ""}] * 3
    assert "no row is left: 3 no answer" in failure(tmp_path, rows, models["chatml"], bad_rows="drop")


def test_when_no_row_fits_the_lengths_are_told(tmp_path, models):
    message = failure(tmp_path, questions(5), models["chatml"], max_length=8)
    assert "max_length: is 8, and no train row" in message and "overlong: truncate" in message


# --- train and validation


def test_the_split_is_decided_by_the_seed_alone(tmp_path, models):
    def held(seed, rows):
        _, prepared = prepare(tmp_path, rows, models["chatml"], validation_size=10, seed=seed)
        texts = [shown(prepared.validation, i, models["chatml"])[1] for i in range(len(prepared.validation))]
        numbers = {int(number) for number in [*prepared.train.rows, *prepared.validation.rows]}
        assert numbers == set(range(1, len(rows) + 1))
        return set(texts)

    rows = questions(50)
    assert held(1, rows) == held(1, rows[::-1]) != held(2, rows)
    assert len(held(1, rows)) == 10


def test_equal_rows_never_end_on_both_sides(tmp_path, models):
    rows = questions(20) * 3
    for seed in range(5):
        check, prepared = prepare(tmp_path, rows, models["chatml"], validation_size=0.3, seed=seed)
        sides = [{shown(part, i, models["chatml"])[0] for i in range(len(part))}
                 for part in (prepared.train, prepared.validation)]  # fmt: skip
        assert not sides[0] & sides[1] and len(prepared.validation) == 18 and len(prepared.train) == 42
    assert check["duplicates"]["count"] == 28 and check["duplicates"]["rows"][0][0] < check["duplicates"]["rows"][0][1]


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path, models):
    message = failure(tmp_path, questions(5), models["chatml"], validation_size=5)
    assert "validation_size: is 5, but" in message and "holds 5 rows" in message
    assert "equal rows stay together" in failure(tmp_path, [ROW] * 5, models["chatml"], validation_size=2)


def test_a_row_in_both_files_is_an_error_or_left_out_of_train(tmp_path, models):
    held = write_rows(tmp_path / "held.jsonl", questions(8)[5:])
    message = failure(tmp_path, questions(8), models["chatml"], validation_file=held)
    assert "rows.jsonl: rows 6, 7, 8: in train and in validation" in message
    check, prepared = prepare(tmp_path, questions(8), models["chatml"], validation_file=held, bad_rows="drop")
    assert prepared.train.rows.tolist() == [1, 2, 3, 4, 5] and len(prepared.validation) == 3
    assert check["overlap"] == {"count": 3, "rows": [6, 7, 8]}


def test_samples_are_drawn_with_the_seed_and_held_out_rows_from_the_first(tmp_path, models):
    recipe = {"validation_size": 10, "max_train_samples": 7, "max_eval_samples": 4}
    check, one = prepare(tmp_path, questions(50), models["chatml"], seed=1, **recipe)
    _, two = prepare(tmp_path, questions(50), models["chatml"], seed=2, **recipe)
    assert len(one.train) == len(two.train) == 7 and len(one.validation) == 4
    assert one.train.rows.tolist() == sorted(one.train.rows.tolist()) != two.train.rows.tolist()
    assert check["rows"]["train"] | {"dropped": {}} == {
        "source": str(tmp_path / "rows.jsonl"), "read": 50, "filtered": 0, "held_out": 10, "not_drawn": 33,
        "kept": 7, "truncated": {"count": 0, "rows": []}, "dropped": {},
    }  # fmt: skip


# --- the figures


def test_the_figures_count_what_the_arrays_hold(tmp_path, models):
    check, prepared = prepare(tmp_path, questions(40), models["chatml"], validation_size=0.25, num_train_epochs=2.5)
    for label, part in (("train", prepared.train), ("validation", prepared.validation)):
        assert check["tokens"][label]["total"] == part.lengths.sum() == len(part.ids)
        trained = sum(int((part[i]["labels"] != -100).sum()) for i in range(len(part)))
        assert check["tokens"][label]["trained"] == part.trained.sum() == trained
        assert check["lengths"][label]["max"] == part.lengths.max()
    assert sum(check["histogram"]["counts"]) == 40
    assert check["steps_per_epoch"] == 8 and check["steps"] == 20
    assert 0 <= check["padding_waste"] < 0.5


def test_the_bars_of_the_histogram_hold_every_length_once():
    for limit in (8, 100, 512, 513, 4096):
        for lengths in ([1], [limit], [1, 2, limit - 1, limit, limit + 1], list(range(1, 2 * limit))):
            bars = histogram(lengths, limit)
            assert len(bars["counts"]) == len(bars["edges"]) - 1 <= 14
            assert sum(bars["counts"]) == sum(length <= limit for length in lengths)
            assert bars["over"] == sum(length > limit for length in lengths)
            low, high = bars["edges"][-2:]
            assert bars["counts"][-1] == sum(low < length <= high for length in lengths)


def test_samples_show_the_text_with_the_trained_tokens_marked(tmp_path, models, capsys):
    rows = [{"instruction": "Say\x1b[31m it.", "output": "Tab\tand\nlines, " + "many words " * 40}, *questions(6)]
    check, _ = prepare(tmp_path, rows, models["chatml"])
    assert len(check["samples"]) == 3
    assert "".join(piece["text"] for piece in check["samples"][1]["pieces"]).startswith("<|im_start|>user\n")
    print_xray(check)
    plain = capsys.readouterr().out
    assert (
        "«It is 1.<|im_end|>»↵" in plain and "\x1b" not in plain and "Say\\x1b[31m it." in plain and "Tab⇥and↵" in plain
    )
    assert max(map(len, plain.splitlines())) <= 96
    coloured = xray_text(check, colour=True, width=88)
    assert "\033[30;42mIt is 1.<|im_end|>\033[0m↵" in coloured


def test_the_xray_says_what_it_looked_for(tmp_path, models):
    rows = [*questions(9), questions(1)[0], {"instruction": "a", "output": ""}]
    check, _ = prepare(tmp_path, rows, models["llama"], bad_rows="drop", validation_size=2, seed=3)
    text = xray_text(check)
    for said in (
        "stop token in the loss   yes: </s>",
        "BOS                      <s>, once, put there by the chat template",
        "empty answers            1 (rows 11) left out",
        "duplicates in train      1 (rows 10 = 1)",
        "in train and validation  none",
        "steps    2 an epoch, of 4 rows each; 6 in all",
    ):
        assert said in text


def test_the_lengths_are_drawn_as_png(tmp_path, models):
    check, _ = prepare(tmp_path, questions(6), models["chatml"])
    write_plot(check, tmp_path / "data" / "lengths.png")
    assert (tmp_path / "data" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "data").glob(".*"))


# --- the directory


def test_the_same_inputs_are_prepared_once_and_give_the_same_digest(tmp_path, models):
    rows = questions(20)
    first, _ = prepare(tmp_path, rows, models["chatml"], validation_size=4)
    written = (tmp_path / "data" / "data_check.json").stat().st_mtime_ns
    second, _ = prepare(tmp_path, rows, models["chatml"], validation_size=4)
    assert (first["reused"], second["reused"]) == (False, True)
    assert {**first, "reused": True} == second
    assert (tmp_path / "data" / "data_check.json").stat().st_mtime_ns == written
    third, _ = prepare(tmp_path, rows, models["chatml"], validation_size=4, learning_rate=1.0e-4)
    assert third["reused"]
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert prepare(other, rows, models["chatml"], validation_size=4)[0]["digest"] == first["digest"]


@pytest.mark.parametrize("change", ["rows", "recipe", "tokenizer", "damage"])
def test_changed_inputs_or_damaged_arrays_are_prepared_again(tmp_path, change):
    model = make_model(tmp_path / "model")
    first, _ = prepare(tmp_path, questions(20), model)
    rows, recipe = (
        questions(21) if change == "rows" else questions(20),
        {"max_length": 64} if change == "recipe" else {},
    )
    if change == "tokenizer":
        (model / "chat_template.jinja").write_text(CHATML.replace("| trim", "| trim | trim"))
    if change == "damage":
        ids = np.load(tmp_path / "data" / "train_ids.npy")
        ids[5] += 1
        np.save(tmp_path / "data" / "train_ids.npy", ids)
    again, prepared = prepare(tmp_path, rows, model, **recipe)
    assert not again["reused"] and again["digest"] == load_prepared(tmp_path / "data").check["digest"]
    assert (again["digest"] == first["digest"]) == (change in ("damage", "recipe", "tokenizer"))
    assert len(prepared.train) == len(rows)


def test_sources_are_recorded_by_hash(tmp_path, models):
    check, _ = prepare(tmp_path, questions(5), models["chatml"])
    path = tmp_path / "rows.jsonl"
    assert check["sources"] == {
        str(path): {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    }


def test_a_failed_write_leaves_the_former_rows_and_nothing_else(tmp_path, models, monkeypatch):
    first, _ = prepare(tmp_path, questions(5), models["chatml"])

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.prepare.np.save", full)
    assert "cannot be written: No space left on device" in failure(tmp_path, questions(6), models["chatml"])
    assert load_prepared(tmp_path / "data").check["digest"] == first["digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "rows.jsonl"]


def test_an_output_that_cannot_be_written_is_named(tmp_path, models):
    (tmp_path / "file").write_text("")
    recipe = make_recipe(train_file=write_rows(tmp_path / "rows.jsonl", questions(5)))
    with pytest.raises(InputError, match="file/data: cannot be written: Not a directory"):
        prepare_data(recipe, models["chatml"], tmp_path / "file" / "data")


@pytest.mark.parametrize("spoil", ["absent", "cut", "mixed"])
def test_prepared_rows_that_are_not_whole_are_refused(tmp_path, models, spoil):
    prepare(tmp_path, questions(5), models["chatml"])
    data = tmp_path / "data"
    if spoil == "absent":
        (data / "data_check.json").unlink()
    elif spoil == "cut":
        os.truncate(data / "train_ids.npy", 150)
    else:
        np.save(data / "train_loss.npy", np.zeros(3, np.uint8))
    with pytest.raises(InputError, match="prepare them again: make check-data"):
        load_prepared(data)


def test_token_rows_behave_as_a_list(tmp_path, models):
    _, prepared = prepare(tmp_path, questions(5), models["chatml"])
    assert len(list(prepared.train)) == len(prepared.train) == 5
    assert prepared.train[0]["input_ids"].dtype == prepared.train[0]["labels"].dtype == torch.int64
    assert prepared.validation is None


# --- real data


def test_the_demo_s_rows_are_prepared_for_the_demo_s_model(tmp_path):
    root = Path(__file__).parent.parent.parent
    if not (root / "demo" / "model" / "tokenizer.json").is_file():
        pytest.skip("demo/model is not there")
    recipe = make_recipe(
        train_file=str(root / "demo/data/train.jsonl"), validation_file=str(root / "demo/data/validation.jsonl")
    )
    check = prepare_data(recipe, root / "demo" / "model", tmp_path / "data")
    assert check["stop"]["in_loss"] and check["stop"]["obeyed"] and check["prompt"] == "chat template"
    assert check["rows"]["train"]["kept"] == check["rows"]["train"]["read"]


def test_a_thousand_real_rows_are_prepared(tmp_path, models):
    path = Path(os.environ.get("SHARED", "../shared")) / "data" / "medical_meadow_1000.json"
    if not path.is_file():
        pytest.skip("SHARED holds no data/medical_meadow_1000.json")
    recipe = make_recipe(
        train_file=str(path), validation_size=0.1, max_length=2048, bad_rows="drop", overlong="truncate"
    )
    check = prepare_data(recipe, models["llama"], tmp_path / "data")
    assert check["rows"]["train"]["read"] == 1000
    assert check["rows"]["train"]["kept"] + check["rows"]["validation"]["kept"] > 900
