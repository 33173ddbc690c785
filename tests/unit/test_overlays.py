"""The overlays' recipes: valid, minimal, and without the mistakes of the systems they come from.

.venv/bin/python -m pytest tests/unit/test_overlays.py
"""

import re
from pathlib import Path

import pytest

from train.recipe import apply_settings, check_values, load_recipe, read_yaml, schema

OVERLAYS = Path(__file__).resolve().parents[2] / "kustomize" / "overlays"
RECIPES = sorted(OVERLAYS.glob("*/train.yaml"))
PROPERTIES = schema()["properties"]
EACH = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)


def values_of(overlay: str) -> dict:
    return read_yaml(OVERLAYS / overlay / "train.yaml")[0]


def comments_of(overlay: str) -> str:
    text = (OVERLAYS / overlay / "train.yaml").read_text()
    return " ".join(part.strip() for part in re.findall(r"#(.*)", text))


def test_there_are_the_eight_use_cases():
    names = {path.parent.name for path in RECIPES}
    assert names == {"demo", "alpaca", "medical", "financial", "quotes", "argilla", "samsum", "template"}


@EACH
def test_an_overlay_is_a_valid_recipe(path):
    load_recipe(path)


@EACH
def test_an_overlay_states_only_what_differs_from_the_defaults(path):
    repeated = [key for key, value in read_yaml(path)[0].items() if PROPERTIES[key].get("default") == value]
    assert not repeated


@EACH
def test_floats_have_a_dot(path):
    assert not re.findall(r":\s*\d+e[-+]?\d+", path.read_text())


@EACH
def test_an_overlay_says_on_its_first_line_what_is_learned(path):
    first, second = path.read_text().split("\n")[:2]
    assert re.fullmatch(r"# [A-Z].{20,}\.", first)
    assert second == "#" or not second.startswith("#")


@EACH
def test_rows_are_held_out_for_validation(path):
    assert {"validation_file", "validation_size"} & set(read_yaml(path)[0])


@EACH
def test_an_overlay_names_its_origin_or_is_our_own(path):
    own = path.parent.name in ("demo", "template")
    assert own or "origin:" in path.read_text()


@EACH
def test_a_model_of_the_hub_is_pinned_to_a_commit(path):
    values = read_yaml(path)[0]
    local = values["model_name_or_path"].startswith(("demo/", "models/"))
    assert local or "model_revision" in values


@EACH
def test_an_overlay_holds_no_word_about_machines_and_no_secret(path):
    text = path.read_text().lower()
    for word in ("hf_", "token:", "replicas", "nnodes", "cpuperpod", "ompnumthreads"):
        assert word not in text, word


# ---- defects that the origins shipped ----


@pytest.mark.parametrize("overlay", ["medical", "financial"])
def test_both_projections_are_trained_where_a_typo_left_one_out(overlay):
    assert values_of(overlay)["lora_target_modules"] == ["q_proj", "v_proj"]
    assert "vproj" in comments_of(overlay)


@EACH
def test_no_linter_comment_is_part_of_a_prompt(path):
    recipe = load_recipe(path)
    for prompt in (recipe.prompt_with_input, recipe.prompt_without_input, recipe.prompt_template):
        assert "noqa" not in (prompt or "")


@EACH
def test_the_loss_is_on_the_answer_only(path):
    assert load_recipe(path).train_on_inputs is False


@EACH
def test_a_row_is_never_cut_before_its_end(path):
    assert load_recipe(path).overlong == "drop"


def test_the_financial_rows_are_the_first_17153():
    assert values_of("financial")["dataset_split"] == "train[:17153]"


def test_the_medical_learning_rate_is_that_of_an_adapter():
    assert load_recipe(OVERLAYS / "medical" / "train.yaml").learning_rate == 2.0e-4
    assert "2e-5" in comments_of("medical")


def test_argilla_takes_the_human_half_and_joins_the_answer_to_its_prompt():
    values = values_of("argilla")
    assert values["row_filter"] == {"kind": "human"}
    assert values["columns"] == {"prompt": "input", "completion": "generations"}


def test_argillas_full_parameter_variant_on_its_make_line_is_valid():
    line = re.search(r'SET="(.*?)"', (OVERLAYS / "argilla" / "train.yaml").read_text())[1]
    values = apply_settings(values_of("argilla"), line.split())
    assert values["method"] == "full"
    assert check_values(values, "argilla") == []


def test_quotes_are_answered_with_tags_over_4_bit_weights():
    recipe = load_recipe(OVERLAYS / "quotes" / "train.yaml")
    assert recipe.method == "qlora"
    assert recipe.prompt_template.format(prompt="To be or not to be.") == "To be or not to be. ->: "


def test_dialogues_are_asked_for_a_summary_and_the_model_is_sharded():
    recipe = load_recipe(OVERLAYS / "samsum" / "train.yaml")
    assert recipe.prompt_template.startswith("Summarize this dialog:\n{dialogue}\n---\n")
    assert recipe.fsdp is True


def test_the_demo_needs_nothing_from_outside_the_repository():
    values = values_of("demo")
    assert {values[key].split("/")[0] for key in ("model_name_or_path", "train_file", "validation_file")} == {"demo"}
    assert values["exact_match"] is True
