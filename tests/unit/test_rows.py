"""Reading rows: every kind of file and hub data set gives the same rows, with numbers that a person can find."""

import json
import shutil
from pathlib import Path

import pytest
from data_cases import make_recipe, write_rows

from train.errors import InputError
from train.rows import describe_files, find_training, read_rows

DATA = Path(__file__).parent.parent / "fixtures" / "data"
ROWS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Grüße, bitte", "input": "", "output": "Guten Tag,\n東京 🙂"},
]


def read(path: object, **recipe: object) -> list:
    recipe = make_recipe(train_file=str(path), **recipe)
    return read_rows(recipe, find_training(recipe, "train.yaml"), "train.yaml").rows


def failure(path: object, **recipe: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **recipe)
    return str(caught.value)


def read_hub(name: object, **recipe: object) -> list:
    recipe = make_recipe(dataset_name=str(name), **recipe)
    return read_rows(recipe, find_training(recipe, "train.yaml"), "train.yaml").rows


@pytest.mark.parametrize("name", ["list.json", "lines.json", "rows.jsonl", "rows.csv", "rows.parquet", "bom-crlf.csv"])
def test_every_kind_of_file_gives_the_same_rows(name):
    rows = read(DATA / name)
    assert [row.fields for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2]


def test_a_jsonl_row_is_numbered_by_its_line_though_lines_before_it_are_empty(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n" + json.dumps(ROWS[0]) + "\n\r\n" + json.dumps(ROWS[1]) + "\n")
    assert [row.number for row in read(path)] == [3, 5]


def test_a_line_separator_of_unicode_within_a_text_ends_no_row(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{**ROWS[0], "output": "a\u2028b\x85c"}])
    assert read(tmp_path / "rows.jsonl")[0].fields["output"] == "a\u2028b\x85c"


def test_columns_are_renamed_and_lists_of_texts_are_joined(tmp_path):
    path = write_rows(
        tmp_path / "quotes.jsonl", [{"quote": "Be yourself.", "tags": ["honesty", "self"], "author": "W"}]
    )
    rows = read(path, data_format="completion", columns={"prompt": "quote", "completion": "tags"})
    assert rows[0].fields == {"prompt": "Be yourself.", "completion": "honesty, self"}


def test_a_missing_or_null_input_is_empty(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "input": None, "output": "b"}]
    assert [row.fields.get("input", "") for row in read(write_rows(tmp_path / "r.jsonl", rows))] == ["", ""]


def test_row_filter_keeps_the_numbers_of_the_file(tmp_path):
    rows = [{**ROWS[0], "kind": kind, "ok": ok} for kind, ok in (("bot", True), ("human", False), ("human", True))]
    path = write_rows(tmp_path / "r.jsonl", rows)
    assert [row.number for row in read(path, row_filter={"kind": "human"})] == [2, 3]
    assert [row.number for row in read(path, row_filter={"kind": "human", "ok": True})] == [3]


def test_row_filter_compares_a_csv_by_its_text(tmp_path):
    (tmp_path / "r.csv").write_text("instruction,output,level,ok\na,b,1,True\nc,d,2,False\n")
    assert [row.number for row in read(tmp_path / "r.csv", row_filter={"level": 2})] == [2]
    assert [row.number for row in read(tmp_path / "r.csv", row_filter={"ok": True})] == [1]


def test_a_csv_column_without_name_as_pandas_writes_its_index_is_passed_over(tmp_path):
    (tmp_path / "r.csv").write_text(",instruction,output\n0,a,b\n1,c,d\n")
    assert read(tmp_path / "r.csv")[0].fields == {"instruction": "a", "output": "b"}


def test_sharegpt_conversations_are_read_as_messages(tmp_path):
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    path = write_rows(tmp_path / "r.jsonl", [{"conversations": turns}])
    messages = read(path, data_format="messages", columns={"messages": "conversations"})[0].fields["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [("system", "s"), ("user", "q"), ("assistant", "a")]


def test_the_files_of_a_source_are_described_by_size_and_hash():
    recipe = make_recipe(train_file=str(DATA / "rows.jsonl"))
    described = describe_files(find_training(recipe, "train.yaml"))
    assert described[str(DATA / "rows.jsonl")]["size"] == (DATA / "rows.jsonl").stat().st_size
    assert len(described[str(DATA / "rows.jsonl")]["sha256"]) == 64


def test_a_directory_of_data_files_is_read_by_its_splits(tmp_path):
    for split, rows in (("train", ROWS * 3), ("test", ROWS[:1])):
        write_rows(tmp_path / f"{split}.jsonl", rows)
    assert [row.fields for row in read_hub(tmp_path)] == ROWS * 3
    assert len(read_hub(tmp_path, dataset_split="test")) == 1
    assert [row.number for row in read_hub(tmp_path, dataset_split="train[1:4]")] == [1, 2, 3]


def test_what_save_to_disk_wrote_is_read_and_sliced(tmp_path):
    import datasets

    one = datasets.Dataset.from_list(ROWS * 2)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=one, test=one.select([0])).save_to_disk(tmp_path / "two")
    assert [row.fields for row in read_hub(tmp_path / "one", dataset_split="train[:50%]")] == ROWS
    assert [row.fields for row in read_hub(tmp_path / "one", dataset_split="train[1:3]")] == ROWS[::-1]
    assert [row.fields for row in read_hub(tmp_path / "two", dataset_split="test")] == ROWS[:1]


def hub_cache(root: Path, name: str, revision: str) -> Path:
    """A data set as huggingface_hub keeps it: files under a snapshot, and the commit that main stands for."""
    home = root / f"datasets--{name.replace('/', '--')}"
    (home / "snapshots" / revision).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)
    return home / "snapshots" / revision


def test_a_name_is_found_in_the_hub_s_local_cache_in_the_revision_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    revision = "a" * 40
    write_rows(hub_cache(tmp_path, "owner/rows", revision) / "train.jsonl", ROWS)
    recipe = make_recipe(dataset_name="owner/rows", dataset_revision=revision)
    origin = find_training(recipe, "train.yaml")
    assert list(origin.files) == ["owner/rows/train.jsonl"]
    assert [row.fields for row in read_rows(recipe, origin, "train.yaml").rows] == ROWS
    with pytest.raises(InputError, match=f"make fetch-data DATA=owner/rows REVISION={'b' * 40}"):
        read_hub("owner/rows", dataset_revision="b" * 40)


def test_an_absent_data_set_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        read_hub("owner/absent")
    message = str(caught.value)
    assert "owner/absent is not on this machine" in message
    assert "make fetch-data DATA=owner/absent" in message
    assert "DATA=file" in message and "gated" in message


def test_the_script_of_a_data_set_is_never_run(tmp_path):
    directory = tmp_path / "tricky"
    directory.mkdir()
    (directory / "tricky.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="scripts of data sets are never run"):
        read_hub(directory)
    assert not (tmp_path / "ran").exists()


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(InputError, match=r"dataset_split: validation cannot be taken .*train"):
        read_hub(tmp_path, dataset_split="validation")


def test_reading_a_hub_data_set_leaves_no_cache_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "train.jsonl", ROWS)
    read_hub(tmp_path / "rows")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_wrong_columns_are_answered_with_the_data_format_that_fits(tmp_path):
    path = write_rows(tmp_path / "r.jsonl", [{"prompt": "q", "completion": "a"}])
    message = failure(path)
    assert "reads instruction, output, which no row has; there are: prompt, completion" in message
    assert "data_format: completion" in message


def test_wrong_columns_are_answered_with_the_columns_to_write(tmp_path):
    path = write_rows(tmp_path / "r.jsonl", [{"question": "q", "answer": "a", "id": "1"}])
    assert "columns: {instruction: question, output: answer}" in failure(path)


def test_problems_of_different_rows_are_reported_together(tmp_path):
    rows = [ROWS[0], {"instruction": 3, "output": "b"}, {"instruction": "a"}, {"instruction": "a", "output": {"b": 1}}]
    message = failure(write_rows(tmp_path / "r.jsonl", rows))
    assert "row 2: instruction is a number where text is expected" in message
    assert "row 3: lacks the field output" in message
    assert "row 4: output is an object where text is expected" in message


def test_many_bad_rows_are_named_by_the_first_ten_and_their_count(tmp_path):
    message = failure(write_rows(tmp_path / "r.jsonl", [{"instruction": "a", "output": n} for n in range(57)]))
    assert "rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … (10 of 57)" in message


def test_files_are_read_without_loading_datasets_or_pandas(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from train.data_files import read_file; from pathlib import Path;"
        f"read_file(Path({str(DATA / 'rows.csv')!r})); read_file(Path({str(DATA / 'list.json')!r}));"
        "assert not {'datasets', 'pandas', 'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    assert shutil.which(sys.executable) and subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
