"""Bad rows, one fixture each: a recipe (line 1 is the reason) and the data it names, refused with the message here."""

from pathlib import Path

import pytest
from data_cases import make_model

from train.errors import InputError
from train.prepare import prepare_data
from train.recipe import load_recipe

FIXTURES = Path(__file__).parent.parent / "fixtures" / "invalid" / "data"
MESSAGES = {
    "absent-data-directory": "dataset_name: there is no directory ./data/absent",
    "absent-data-set": "owner/absent is not on this machine\n  fix: fetch it: make fetch-data DATA=owner/absent",
    "absent-file": "nowhere.jsonl: there is no such file",
    "absent-split": "absent-split.yaml: dataset_split: validation cannot be taken from splits: Unknown split",
    "all-held-out": "all-held-out.yaml: validation_size: is 5, but all-held-out.jsonl holds 5 rows",
    "all-over-length": "max_length: is 8, and no train row of all-over-length.jsonl fits: the shortest has",
    "begins-with-answer": "row 2: messages begins with assistant instead of a user message",
    "beyond-positions": "max_length: is 4096, but the model reads at most 2048 tokens",
    "broken-json-line-17": "broken-json-line-17.jsonl: row 17: is not JSON: Expecting ',' delimiter",
    "broken-list": "broken-list.json: row 2: is not JSON: no comma follows it (line 12)",
    "broken-parquet": "broken-parquet.parquet: is not a whole Parquet file",
    "csv-column-twice": "header: names output twice",
    "csv-comma-unquoted": "row 2: has 3 fields where the header has 2 (line 3)",
    "csv-open-quote": "row 2: is not CSV: unexpected end of data",
    "csv-semicolons": "separate the columns by commas",
    "csv-without-header": "if the file's first line is a row already, put a line with the columns' names above it",
    "cut-off": "row 4: is not JSON: Unterminated string starting at (character 27)\n  fix: the file seems",
    "data-set-script": "scripts of data sets are never run",
    "directory": "directory.jsonl: cannot be read: Is a directory",
    "doubled-bos": "row 1: begins with <s> twice",
    "empty-answers": "empty-answers.jsonl: rows 2, 4: no answer",
    "empty-file": "empty-file.json: is empty",
    "ends-with-question": "row 2: messages ends with user instead of an answer",
    "field-missing-in-a-row": "row 2: lacks the field output",
    "filter-leaves-nothing": "row_filter: {'kind': 'human'} leaves no row of",
    "filter-on-unknown-field": "row_filter: filter-on-unknown-field.jsonl has no field kind",
    "half-a-character": "row 2: output holds \\ud83d, half of a character",
    "in-train-and-validation": "rows 10, 11: in train and in validation",
    "lfs-pointer": "is a Git LFS pointer, not the rows themselves",
    "line-no-object": "row 2: is no JSON object but [",
    "list-never-closed": "row 3: is not JSON: the file ends within the list (line 17)\n  fix: the file seems",
    "messages-as-text": "row 1: messages is text where a list of messages is expected",
    "no-chat-template": "use_chat_template: is true, but the model's tokenizer has no chat template",
    "no-rows": "no-rows.json: holds no rows",
    "not-utf8": "not-utf8.jsonl: is not UTF-8: byte 0xf6 on line 2\n  fix: convert it: iconv -f latin1",
    "nothing-left-to-learn": "max_length: is 8, and no train row of nothing-left-to-learn.jsonl fits",
    "number-as-answer": "rows 2, 3: output is a number where text is expected",
    "object-as-answer": "row 2: output is an object where text is expected",
    "only-equal-rows": "validation_size: wants 1 of 4 rows, but equal rows stay together",
    "renamed-to-nothing": "columns[completion]: renamed-to-nothing.jsonl has no field tag\n  fix: take one of: quote",
    "role-missing": "row 2: messages has a message without role",
    "single-object": "is a single object instead of a list of rows\n  fix: the rows seem to lie under data",
    "slice-beyond-split": "dataset_split: train[100:200] cannot be taken from splits",
    "stop-token-in-answer": "row 2: the answer's own text holds the stop token <|im_end|>",
    "system-in-the-middle": "row 1: messages has a system message that is not the first",
    "unknown-role": "row 2: messages has a message of role bot\n  fix: take one of: system, user, assistant, tool",
    "unknown-suffix": "unknown-suffix.txt: ends in .txt",
    "utf-16": "utf-16.csv: is not UTF-8: byte 0xff on line 1\n  fix: convert it: iconv -f utf-16",
    "wrong-columns": "reads instruction, output, which no row has; there are: prompt, completion\n  fix: data_format",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    make = tmp_path_factory.mktemp
    return {
        "chat": make_model(make("chat")),
        "base": make_model(make("base"), chat=None, bos="<s>", eos="</s>"),
    }


def refusal(name, models, output, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(output / "hub"))
    recipe = Path(f"{name}.yaml")
    model = models["base" if name in ("doubled-bos", "no-chat-template") else "chat"]
    with pytest.raises(InputError) as caught:
        prepare_data(load_recipe(recipe), model, output / "data", recipe)
    return caught.value.problems


def test_every_fixture_has_a_message_and_a_reason():
    fixtures = sorted(FIXTURES.glob("*.yaml"))
    assert len(fixtures) >= 20
    assert {path.stem for path in fixtures} == set(MESSAGES)
    assert all(path.read_text().startswith("# ") for path in fixtures)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_the_bad_rows_are_refused_with_a_message_a_person_can_act_on(name, models, tmp_path, monkeypatch):
    problems = refusal(name, models, tmp_path, monkeypatch)
    assert any(MESSAGES[name] in message for message in problems), problems
    assert all("\n  fix: " in message for message in problems)
    assert not (tmp_path / "data").exists()
