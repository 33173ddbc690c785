"""Which files of a repository are fetched, and which repositories are refused.

.venv/bin/python -m pytest tests/hub/test_hub_choice.py
"""

import pytest

from scripts.fetch.choose import INDEX, File, choose_dataset, choose_model
from train.errors import InputError

SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def files(*names: str, size: int = 1000) -> list[File]:
    return [File(name, size, "0" * 40) for name in names]


def chosen(*names: str, shards: set[str] | None = None) -> set[str]:
    return {file.name for file in choose_model(files(*names), shards, "model o/m").files}


def complaint(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_model_is_its_weights_once_its_tokenizer_and_its_licence():
    needed = {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja", "README.md", "LICENSE", "LICENSE.txt", "USE_POLICY.md", INDEX,
        *SHARDS,
    }  # fmt: skip
    rest = {
        "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "modeling_x.py",
        "original/consolidated.00.pth", "original/params.json", "model.fp16.safetensors", "onnx/model.onnx",
        "tf_model.h5",
        "model.safetensors.index.fp16.json", "flax_model.msgpack", "m.Q4.gguf", ".gitattributes", "training_args.bin",
        "model.safetensors", "picture.png", "README/evil.py", "tokenizer.py",
    }  # fmt: skip
    assert chosen(*needed, *rest, shards=SHARDS) == needed


def test_without_an_index_a_model_is_one_file():
    assert chosen("config.json", "model.safetensors", "other.safetensors") == {"config.json", "model.safetensors"}


def test_an_index_of_shards_that_are_not_there_gives_way_to_the_single_file():
    assert chosen("config.json", "model.safetensors", INDEX, shards=SHARDS) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("config.json", "pytorch_model.bin"), ("only as pickles (.bin)", "refs/pr/1")),
        (("config.json", "weights.pth", "weights.py"), ("only as pickles (.pth)",)),
        (("model.Q4_K_M.gguf",), ("only .gguf", "converted from")),
        (("config.json", "consolidated.safetensors"), ("only .safetensors", "transformers' layout")),
        (("adapter_config.json", "adapter_model.safetensors"), ("is an adapter", "base model")),
        (("README.md",), ("has no weights",)),
        (("model.safetensors",), ("config.json: is missing",)),
    ],
)
def test_what_cannot_be_loaded_safely_is_refused_with_what_to_do(names, words):
    said = complaint(choose_model, files(*names), None, "model o/m")
    assert "model o/m" in said
    for word in words:
        assert word in said


def test_an_index_of_shards_that_are_nowhere_is_refused():
    assert "never finished" in complaint(choose_model, files("config.json", INDEX), SHARDS, "model o/m")


def test_a_data_set_is_its_rows_and_its_licence():
    needed = {"data/train-00000.parquet", "a.jsonl", "b.json", "c.csv", "d.txt", "e.arrow", "f.jsonl.gz", "README.md",
              "LICENSE", "dataset_infos.json"}  # fmt: skip
    rest = {"loader.py", "x.png", ".gitattributes", ".cache/x.json", "state.json", "model.bin", "requirements.txt"}
    assert {file.name for file in choose_dataset(files(*needed, *rest), "dataset o/d").files} == needed


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("samsum.py", "README.md"), ("only a loading script", "refs/convert/parquet")),
        (("samsum.py", "dataset_infos.json"), ("only a loading script",)),
        (("corpus.7z", "README.md"), ("has no files of rows, only .7z, .md",)),
        ((), ("only nothing",)),
    ],
)
def test_a_data_set_without_rows_is_refused_with_what_to_do(names, words):
    said = complaint(choose_dataset, files(*names), "dataset o/d")
    for word in words:
        assert word in said


@pytest.mark.parametrize("name", ["../../evil.json", "a/../../evil.json", ".hidden/evil.json"])
def test_rows_whose_name_leads_out_of_the_store_stay_behind(name):
    assert [file.name for file in choose_dataset(files(name, "rows.json"), "dataset o/d").files] == ["rows.json"]


@pytest.mark.parametrize("name", ["/etc/evil.json", "a\\..\\evil.json"])
def test_rows_whose_name_is_no_relative_one_are_refused(name):
    assert "distrust this repository" in complaint(choose_dataset, files(name, "rows.json"), "dataset o/d")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", ".partial/evil"])
def test_weights_whose_name_leads_out_of_the_store_are_refused(name):
    shards = {f"{name}.safetensors"}
    listed = files("config.json", INDEX, *shards)
    assert "distrust this repository" in complaint(choose_model, listed, shards, "model o/m")


def test_the_choice_says_sizes_and_what_stays_behind_and_why():
    listed = [File("model.safetensors", 2_000_000_000, ""), File("config.json", 500, ""), File("m.bin", 4_000_000, "")]
    table = choose_model(listed, None, "model o/m").table().splitlines()
    assert table[0].split() == ["2.0", "GB", "model.safetensors"]
    assert table[2].split() == ["2.0", "GB", "2", "files", "to", "fetch"]
    assert "4.0 MB of pickles" in table[3]


def test_a_choice_of_hundreds_of_files_is_shown_in_a_screen():
    table = choose_dataset(files(*(f"part-{number}.parquet" for number in range(300))), "dataset o/d").table()
    assert len(table.splitlines()) < 20
    assert "and 285 more" in table
