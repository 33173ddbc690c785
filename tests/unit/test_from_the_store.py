"""Runs find models and data sets by their names in the store, say which they were, and refuse damaged ones.

.venv/bin/python -m pytest tests/unit/test_from_the_store.py
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from data_cases import write_rows

from scripts import run as chain
from scripts.pod_prepare import settle
from scripts.runs import fingerprint
from tests.stores import FIRST, SECOND, put, put_model
from tests.tiny import make_world
from train.data_hub import dataset_files, find_dataset, read_dataset
from train.errors import InputError
from train.files import hash_file
from train.in_store import describe, find_by_name, wrong_sizes
from train.inputs import find_inputs
from train.merge_output import is_carried
from train.prepare import prepare_data
from train.recipe import load_recipe, with_defaults
from train.sources import find_model
from train.stored import MANIFEST, REFS, published

ROWS = b'{"instruction": "a", "output": "b"}\n{"instruction": "c", "output": "d"}\n'


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """An empty store, and a hub's cache with nothing in it."""
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "store"


def model_of(name: str, revision: str | None = None) -> Path:
    return find_model(SimpleNamespace(model_name_or_path=name, model_revision=revision), "train.yaml")


def test_a_model_is_found_by_its_name_and_by_commit_branch_or_none(store):
    first = put(store, "model", "org/name", FIRST, {"config.json": b"{}"})
    assert model_of("org/name") == model_of("org/name", "main") == model_of("org/name", FIRST) == first
    second = put(store, "model", "org/name", SECOND, {"config.json": b"{} "}, reference="v2")
    assert (model_of("org/name", "v2"), model_of("org/name")) == (second, first)
    with pytest.raises(InputError, match=f"make fetch-model MODEL=org/name REVISION={'c' * 40}"):
        model_of("org/name", "c" * 40)


def test_a_data_set_is_found_by_its_name_where_rows_of_one_s_own_have_one_word(store):
    directory = put(store, "dataset", "rows", "sha256-0123456789abcdef", {"rows.jsonl": ROWS})
    assert find_dataset("rows", None, "train.yaml") == directory
    with pytest.raises(InputError, match=r"make fetch-data DATA=absent \W"):
        find_dataset("absent", None, "train.yaml")


def test_a_directory_that_happens_to_have_the_name_does_not_hide_what_was_fetched(store, tmp_path, monkeypatch):
    directory = put(store, "dataset", "train", "sha256-0123456789abcdef", {"train.jsonl": ROWS})
    model = put(store, "model", "org/name", FIRST, {"config.json": b"{}"})
    for name in ("train", "org/name"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (find_dataset("train", None, "train.yaml"), model_of("org/name")) == (directory, model)
    assert (find_dataset("./train", None, "train.yaml"), model_of("./org/name")) == (
        Path("./train"),
        Path("./org/name"),
    )
    assert settle({"dataset_name": "train"}, store, {})["dataset_name"] == str(directory)
    assert settle({"dataset_name": "tests"}, store, {})["dataset_name"] == "tests", "not the image's own code"


def test_in_a_pod_the_message_names_the_cluster_s_command(store, monkeypatch):
    monkeypatch.setenv("NODE_INDEX", "0")
    with pytest.raises(InputError, match="make fetch-model ON=cluster MODEL=org/name "):
        model_of("org/name")


def test_what_was_brought_by_hand_is_found_and_half_a_publication_and_bookkeeping_are_not(store):
    by_hand = store / "models" / "org" / "name" / FIRST
    by_hand.mkdir(parents=True)
    (by_hand.parent / REFS).write_text("{}")
    assert find_by_name("model", "org/name", FIRST) is None
    assert find_by_name("model", "org/name", None) is None, "refs.json alone is no model"
    (by_hand / "config.json").write_text("{}")
    assert find_by_name("model", "org/name", FIRST) == by_hand
    assert find_by_name("model", "../models/org/name", FIRST) is None


def test_a_pod_keeps_to_what_an_earlier_one_of_its_run_found(tmp_path):
    store = tmp_path / "store"
    values = {"model_name_or_path": "org/name", "dataset_name": "org/rows"}
    old = put(store, "model", "org/name", FIRST, {"config.json": b"{}"})
    rows = put(store, "dataset", "org/rows", FIRST, {"train.jsonl": ROWS})
    assert settle(values, store, {}) == {"model_name_or_path": str(old), "dataset_name": str(rows)}
    before = {"model": describe(old), "dataset": describe(rows)}
    new = put(store, "model", "org/name", SECOND, {"config.json": b"{} "})
    assert settle(values, store, before)["model_name_or_path"] == str(old)
    assert settle(values, store, {})["model_name_or_path"] == str(new)
    shutil.rmtree(old)
    assert settle(values, store, before)["model_name_or_path"] == str(new), "another model: the run's identity says so"


# ---- the manifest disturbs nobody ----


def test_the_manifest_is_not_read_as_rows(store):
    for name, files in (
        ("org/named", ("train.jsonl", "more/train-2.jsonl")),
        ("org/nameless", ("some.jsonl", "more/some.jsonl")),
        ("org/json", ("a.json", "b.json")),
    ):
        directory = put(store, "dataset", name, FIRST, dict.fromkeys(files, ROWS) | {"README.md": b"# Rows"})
        read = read_dataset(directory, name, None, "train", "train.yaml")
        assert [row["output"] for _, row in read] == ["b", "d", "b", "d"], name
        assert directory / MANIFEST not in dataset_files(directory)


def test_a_model_has_the_same_fingerprint_with_and_without_manifest_and_a_merged_one_inherits_none(store, tmp_path):
    world = make_world(tmp_path / "world")
    directory = put_model(store, "org/tiny", FIRST, world.model)
    assert (directory / MANIFEST).is_file()
    assert fingerprint(directory) == fingerprint(world.model)
    assert is_carried(directory / "config.json") and not is_carried(directory / MANIFEST)


# ---- the split of a fetched data set ----


def test_the_split_of_a_recipe_is_the_same_rows_wherever_the_data_set_lies(store, tmp_path):
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(50)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    fetched = put(store, "dataset", "org/finance", FIRST, {"train.json": text})
    (tmp_path / "by-hand").mkdir()
    write_rows(tmp_path / "by-hand" / "train.jsonl", rows)
    taken = [read_dataset(where, "finance", None, "train[:17]", "train.yaml") for where in (fetched, fetched)]
    assert [row["output"] for _, row in taken[0]] == [str(n) for n in range(17)]
    assert taken[0] == taken[1] == read_dataset(tmp_path / "by-hand", "finance", None, "train[:17]", "train.yaml")


# ---- make run ----


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("sound"))


def make_run(monkeypatch, tmp_path: Path, world, *words: str, **values) -> dict:
    """What `make run UNTIL=check-data` records of a recipe with these values."""
    overlay = tmp_path / "overlays" / "mine"
    overlay.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load(world.recipe.read_text()) | values
    (overlay / "train.yaml").write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    monkeypatch.setattr(chain, "OVERLAYS", tmp_path / "overlays")
    monkeypatch.setattr(chain, "ROOT", tmp_path)
    line = ["run", "--overlay", "mine", "--runs-dir", str(tmp_path / "runs"), "--until", "check-data", "--nproc", "1"]
    monkeypatch.setattr(sys, "argv", [*line, *words])
    assert chain.main() == 0
    records = sorted((tmp_path / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(records[-1].read_text())


def test_a_run_records_which_model_and_data_it_took_and_the_digest_of_its_split(monkeypatch, store, tmp_path, sound):
    model = put_model(store, "org/tiny", FIRST, sound.model)
    text = "".join(json.dumps({"prompt": f"w{n} ", "completion": f"w{n + 1}"}) + "\n" for n in range(60)).encode()
    rows = put(store, "dataset", "org/finance", SECOND, {"train.jsonl": text})
    named = {"model_name_or_path": "org/tiny", "dataset_name": "org/finance", "train_file": None,
             "dataset_split": "train[:40]", "model_revision": FIRST}  # fmt: skip
    first = make_run(monkeypatch, tmp_path, sound, **named)
    assert first["model_path"] == str(model)
    assert first["artifacts"]["model"] == {
        "name": "org/tiny", "revision": FIRST, "licence": "apache-2.0", "manifest": hash_file(model / MANIFEST),
    }  # fmt: skip
    assert first["artifacts"]["dataset"]["revision"] == SECOND
    assert list(first["data"]["sources"]) == ["org/finance/train.jsonl"]
    assert dataset_files(rows) == [rows / "train.jsonl"]
    recipe = load_recipe(tmp_path / "runs" / first["name"] / "train.yaml")
    again = prepare_data(recipe, model, tmp_path / "again")
    recipe.dataset_split = "train[:50]"
    longer = prepare_data(recipe, model, tmp_path / "longer")
    assert first["data"]["digest"] == again["digest"] != longer["digest"]


def test_data_on_the_make_line_may_be_a_name_in_the_store_or_a_file_there(store):
    directory = put(store, "dataset", "rows", "sha256-0123456789abcdef", {"rows.jsonl": ROWS})
    for data, key in (("rows", "dataset_name"), (str(directory / "rows.jsonl"), "train_file")):
        line = SimpleNamespace(model="org/tiny", data=data, validation_data=None, set=[])
        values, problems = chain.own_recipe(chain.OVERLAYS / "medical" / "train.yaml", line)
        assert problems == [] and values[key] == data
        assert not values.keys() & ({"dataset_name", "train_file"} - {key})
        found = find_inputs(with_defaults(values), "train.yaml", [])
        assert found.artifacts["dataset"]["name"] == "rows" and len(found.sources) == 1


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_model_whose_files_have_other_sizes_is_refused_before_anything_starts(
    monkeypatch, store, tmp_path, sound, damage
):
    directory = put_model(store, "org/tiny", FIRST, sound.model)
    weights = directory / "tokenizer_config.json"
    weights.write_bytes(weights.read_bytes()[:-1]) if damage == "short" else weights.unlink()
    with pytest.raises(InputError) as caught:
        make_run(monkeypatch, tmp_path, sound, model_name_or_path="org/tiny")
    said = str(caught.value)
    assert "tokenizer_config.json " + ("has " if damage == "short" else "is missing") in said
    assert f"make verify-model MODEL=org/tiny REVISION={FIRST} says" in said
    assert not (tmp_path / "runs").exists()


def test_a_whole_directory_and_one_without_manifest_have_no_wrong_sizes(store, tmp_path):
    directory = put(store, "dataset", "org/rows", FIRST, {"train.jsonl": ROWS})
    assert wrong_sizes("dataset", directory) == wrong_sizes("dataset", tmp_path) == []
    assert published(store) == [directory]
