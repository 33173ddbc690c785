"""Which rows are left out or held out, and that what is written is whole."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import (
    CHATML,
    ROW,
    failure,
    make_model,
    make_models,
    make_recipe,
    prepare,
    questions,
    shown,
    write_rows,
)

from train.errors import InputError
from train.prepare import prepare_data
from train.prepared import load_prepared


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory)


# --- rows left out


def test_rows_over_max_length_are_dropped_and_counted(tmp_path, models):
    rows = [*questions(5), {"instruction": "Long.", "output": "word " * 200}]
    check, prepared = prepare(tmp_path, rows, models["chatml"], max_length=100)
    assert check["rows"]["train"]["dropped"] == {"over max_length": {"count": 1, "rows": [6]}}
    assert len(prepared.train) == check["rows"]["train"]["kept"] == 5 and check["histogram"]["over"] == 1


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_a_row_of_just_max_length_is_kept_whole(tmp_path, models, overlong):
    _, prepared = prepare(tmp_path, questions(9), models["chatml"])
    longest = int(prepared.train.lengths.max())
    for limit, left_out in ((longest, 0), (longest - 1, int((prepared.train.lengths == longest).sum()))):
        check, _ = prepare(tmp_path, questions(9), models["chatml"], max_length=limit, overlong=overlong)
        figures = check["rows"]["train"]
        changed = (
            figures["dropped"].get("over max_length", {"count": 0}) if overlong == "drop" else figures["truncated"]
        )
        assert changed["count"] == left_out


def test_truncate_cuts_from_the_end_and_drops_what_is_cut_before_its_answer(tmp_path, models):
    rows = [ROW, {"instruction": "Long.", "output": "word " * 200}, {"instruction": "word " * 200, "output": "yes"}]
    check, prepared = prepare(tmp_path, rows, models["chatml"], max_length=64, overlong="truncate")
    figures = check["rows"]["train"]
    assert figures["truncated"] == {"count": 1, "rows": [2]} and figures["kept"] == 2
    assert figures["dropped"] == {"cut before the answer": {"count": 1, "rows": [3]}}
    _, whole = prepare(tmp_path, rows, models["chatml"], max_length=1024)
    assert prepared.train[1]["input_ids"].tolist() == whole.train[1]["input_ids"].tolist()[:64]
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
