"""The recipe's loader: what it fills in, and what it says about each mistake in tests/fixtures/invalid/recipes.

.venv/bin/python -m pytest tests/unit/test_recipe.py
"""

from pathlib import Path

import pytest
import yaml

from train.errors import InputError
from train.recipe import apply_settings, check_values, dump_recipe, load_recipe, read_yaml, schema, with_defaults

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
INVALID = sorted((FIXTURES / "invalid" / "recipes").glob("*.yaml"))
VALID = sorted((FIXTURES / "valid" / "recipes").glob("*.yaml"))


def complaints_about(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_there_are_recipes_to_test_with():
    assert len(INVALID) >= 40
    assert len(VALID) >= 4


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_wrong_recipe_is_refused_in_the_words_on_its_first_line(path):
    first = path.read_bytes().split(b"\n")[0].decode()
    assert first.startswith("# expects: ")
    message = complaints_about(path)
    for words in first.removeprefix("# expects: ").split(" | "):
        assert words.strip() in message


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_refusal_names_the_file_and_a_fix(path):
    for line, following in zip(*[iter(complaints_about(path).splitlines())] * 2, strict=True):
        assert line.startswith(str(path))
        assert following.startswith("  fix: ")


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_right_recipe_is_accepted(path):
    load_recipe(path)


def test_the_right_recipes_together_use_every_key():
    used = {key for path in VALID for key in read_yaml(path)[0]}
    assert used == set(schema()["properties"])


def test_all_mistakes_are_told_at_once():
    message = complaints_about(FIXTURES / "invalid" / "recipes" / "everything-at-once.yaml")
    assert message.count("  fix: ") == 4


def test_a_mistake_is_told_with_its_line():
    message = complaints_about(FIXTURES / "invalid" / "recipes" / "float-without-dot.yaml")
    assert "float-without-dot.yaml:4: learning_rate" in message


def test_a_missing_file_is_named(tmp_path):
    assert "no-such.yaml: there is no such file" in complaints_about(tmp_path / "no-such.yaml")


def test_a_directory_is_no_recipe(tmp_path):
    assert "cannot be read" in complaints_about(tmp_path)


def test_defaults_are_filled_in_and_given_values_are_kept():
    recipe = load_recipe(FIXTURES / "valid" / "recipes" / "qlora.yaml")
    assert recipe.bnb_4bit_quant_type == "fp4"
    assert recipe.lora_r == schema()["properties"]["lora_r"]["default"]
    assert recipe.model_revision is None


def test_without_validation_rows_there_is_no_validation_and_no_best_model():
    recipe = load_recipe(FIXTURES / "valid" / "recipes" / "shortest.yaml")
    assert recipe.eval_strategy == "no"
    assert recipe.load_best_model_at_end is False


def test_whole_numbers_written_as_floats_become_whole_numbers():
    recipe = load_recipe(FIXTURES / "valid" / "recipes" / "full-sharded.yaml")
    assert repr(recipe.global_batch_size) == "16"


def test_dialogues_and_completions_have_a_prompt_of_their_own():
    assert "{dialogue}" in load_recipe(FIXTURES / "valid" / "recipes" / "full-sharded.yaml").prompt_template
    base = {"model_name_or_path": "m", "train_file": "t"}
    assert with_defaults(base | {"data_format": "completion"}).prompt_template == "{prompt}"


def test_every_key_of_the_schema_has_a_description_a_group_and_a_kind():
    for key, spec in schema()["properties"].items():
        assert spec["description"].endswith("."), key
        assert spec["x-group"], key
        assert {"type", "enum", "oneOf"} & set(spec), key


def test_every_default_of_the_schema_is_a_value_it_allows():
    defaults = {key: spec["default"] for key, spec in schema()["properties"].items() if "default" in spec}
    without_conflicts = {key: value for key, value in defaults.items() if key not in ("eval_strategy", "save_strategy")}
    base = {"model_name_or_path": "m", "train_file": "t"}
    for key, value in without_conflicts.items():
        messages = [text for text in check_values(base | {key: value}, "here") if "but must" in text]
        assert not messages, key


# ---- SET on the make line ----


def test_settings_are_read_as_yaml():
    values = apply_settings(
        {"lora_r": 8}, ["lora_r=16", "learning_rate=1.0e-4", "lora_target_modules=[q_proj, v_proj]"]
    )
    assert values == {"lora_r": 16, "learning_rate": 1.0e-4, "lora_target_modules": ["q_proj", "v_proj"]}


def test_an_empty_setting_takes_the_key_away():
    assert apply_settings({"lora_r": 8, "seed": 1}, ["lora_r="]) == {"seed": 1}


def test_a_setting_may_hold_equals_signs():
    assert apply_settings({}, ["system_prompt=a=b"]) == {"system_prompt": "a=b"}


@pytest.mark.parametrize("setting", ["lora_r", "=16", "lora_r=[1"])
def test_a_setting_that_cannot_be_read_is_refused(setting):
    with pytest.raises(InputError, match="SET"):
        apply_settings({}, [setting])


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_recipe_that_is_written_reads_back_the_same(path, tmp_path):
    values = read_yaml(path)[0]
    copy = tmp_path / "train.yaml"
    copy.write_text(dump_recipe(values))
    assert read_yaml(copy)[0] == values
    assert load_recipe(copy) == load_recipe(path)


def test_small_numbers_that_are_written_stay_numbers():
    assert yaml.safe_load(dump_recipe({"learning_rate": 2.0e-5})) == {"learning_rate": 2.0e-5}
