"""sweep.yaml: what its points are, and what is said about each mistake in tests/fixtures/invalid/sweeps.

.venv/bin/python -m pytest tests/unit/test_sweep.py
"""

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

from scripts.sweep import check, record
from scripts.sweep import sweep as sweep_here
from scripts.sweep.file import SweepFile, read_sweep, schema
from scripts.sweep.points import draw, settings, words
from train.errors import InputError
from train.recipe import apply_settings, complaints_about

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
INVALID = sorted((FIXTURES / "invalid" / "sweeps").glob("*.yaml"))
OVERLAYS = Path(__file__).resolve().parents[2] / "kustomize" / "overlays"
RECIPE = {"model_name_or_path": "m", "train_file": "t", "validation_size": 0.1, "learning_rate": 0.005,
          "num_train_epochs": 2}  # fmt: skip


def line(**more) -> argparse.Namespace:
    return argparse.Namespace(**{"set": [], "model": None, "data": None, "overlay": "demo", "sweep": ""} | more)


def complaints(path: Path, recipe: dict = RECIPE, **more) -> list[str]:
    """What is wrong with a sweep of this recipe."""
    try:
        sweep = read_sweep(path)
    except InputError as error:
        return error.problems
    return check.check_points(sweep, recipe, [f"recipe: {one}" for one in complaints_about(recipe)], line(**more))


def sweep_of(tmp_path: Path, **values) -> SweepFile:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return read_sweep(path)


# ---- what is wrong ----


def test_there_are_wrong_sweeps_to_test_with():
    assert len(INVALID) >= 24


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_wrong_sweep_is_refused_in_the_words_on_its_first_line_with_file_and_fix(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# expects: ")
    found = complaints(path)
    for expected in first.removeprefix("# expects: ").split(" | "):
        assert expected.strip() in "\n".join(found)
    for one in found:
        place, fix = one.splitlines()
        assert place.startswith(str(path)) and fix.startswith("  fix: ")


def test_all_mistakes_are_told_at_once():
    assert len(complaints(FIXTURES / "invalid" / "sweeps" / "everything-at-once.yaml")) == 4


def test_one_rule_that_many_points_break_is_told_once(tmp_path):
    sweep_of(tmp_path, grid={"seed": [1, 2, 3, 4, 5, 6], "per_device_train_batch_size": [4, 3]})
    (found,) = complaints(tmp_path / "sweep.yaml")
    assert "points 2 (seed=1 per_device_train_batch_size=3), 4 (" in found and "and 2 more: global_batch_size" in found


def test_a_missing_file_says_how_to_get_one(tmp_path):
    (found,) = complaints(tmp_path / "none.yaml")
    assert "none.yaml: there is no such file" in found and "docs/sweeps.md" in found


def test_a_value_on_the_make_line_and_in_the_sweep_is_refused(tmp_path):
    sweep_of(tmp_path, grid={"lora_r": [8], "train_file": ["a", "b"]})
    found = complaints(tmp_path / "sweep.yaml", set=["lora_r=4"], data="c.jsonl")
    assert [one.split(": is also")[0] for one in found] == ["SET: lora_r", "DATA: train_file"]


def test_what_is_wrong_with_the_recipe_is_told_once_and_only_where_a_point_has_it(tmp_path):
    sweep_of(tmp_path, grid={"lora_r": [8, 16]})
    (found,) = complaints(tmp_path / "sweep.yaml", RECIPE | {"eval_steps": 4})
    assert found.startswith("recipe: ")
    sweep_of(tmp_path, points=[{"eval_steps": None}])
    assert complaints(tmp_path / "sweep.yaml", RECIPE | {"eval_steps": 4}) == []


def test_the_schema_is_one_and_every_part_has_an_example_and_a_meaning():
    jsonschema.Draft202012Validator.check_schema(schema())
    parts = [schema()]
    while parts:
        part = parts.pop()
        inside = [*part.get("properties", {}).values(), part.get("additionalProperties"), part.get("items")]
        inside = [one for one in inside if isinstance(one, dict)]
        assert all(one["description"] and one["x-example"] for one in inside)
        parts += inside


@pytest.mark.parametrize("path", sorted(OVERLAYS.glob("*/sweep.yaml")), ids=lambda path: path.parent.name)
def test_the_sweep_of_an_overlay_fits_its_recipe(path):
    assert check.find_sweep(line(overlay=path.parent.name, validation_data=None)).points


def test_argillas_sweep_is_over_ranks():
    assert read_sweep(OVERLAYS / "argilla" / "sweep.yaml").points == [{"lora_r": rank} for rank in (8, 16, 32, 64)]


def test_the_page_has_every_key_with_its_default_and_examples_that_are_right(tmp_path):
    text = (OVERLAYS.parents[1] / "docs" / "sweeps.md").read_text()
    for key, spec in schema()["properties"].items():
        assert f"    {key}:" in text or re.search(rf"^\| `{key}` \|.*\| `{spec['default']}` \|$", text, re.MULTILINE)
    examples = re.findall(r"^    ((?:grid|points|random): .*\n(?:    .*\n)+)", text, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        (tmp_path / "sweep.yaml").write_text(textwrap.dedent(f"    {example}"))
        assert len(read_sweep(tmp_path / "sweep.yaml").points) in (2, 8)


# ---- which points there are ----


def test_a_grid_is_every_combination_in_the_order_of_the_file(tmp_path):
    sweep = sweep_of(tmp_path, grid={"lora_r": [8, 16], "seed": [1, 2]})
    assert [words(point) for point in sweep.points] == [
        "lora_r=8 seed=1", "lora_r=8 seed=2", "lora_r=16 seed=1", "lora_r=16 seed=2"]  # fmt: skip
    assert (sweep.at_once, sweep.metric) == (2, "eval_loss")


FIRST_DRAW = "learning_rate=5.958e-5 lora_r=8 lora_dropout=0.0513"
RANDOM = {
    "draws": 8,
    "seed": 1,
    "keys": {
        "learning_rate": {"log_uniform": [1.0e-5, 1.0e-3]},
        "lora_r": {"choice": [8, 16]},
        "lora_dropout": {"uniform": [0, 0.1]},
    },
}


def test_draws_are_the_same_for_the_same_seed_and_lie_within_their_bounds():
    points = draw({"random": RANDOM})
    assert points == draw({"random": RANDOM}) != draw({"random": RANDOM | {"seed": 2}})
    assert len(points) == 8 and {point["lora_r"] for point in points} == {8, 16}
    assert all(1.0e-5 <= point["learning_rate"] <= 1.0e-3 and 0 <= point["lora_dropout"] <= 0.1 for point in points)
    assert words(points[0]) == FIRST_DRAW, "on every machine and in every version of Python"


def test_more_draws_and_more_keys_keep_what_was_drawn():
    points = draw({"random": RANDOM})
    assert draw({"random": RANDOM | {"draws": 12}})[:8] == points
    more = RANDOM | {"keys": RANDOM["keys"] | {"weight_decay": {"uniform": [0, 1]}}}
    assert [{**point, "weight_decay": 0} for point in draw({"random": more})] == [
        {**point, "weight_decay": 0} for point in points]  # fmt: skip


def test_draws_are_different_from_each_other_or_said_to_be_too_many(tmp_path):
    few = {"draws": 6, "keys": {"lora_r": {"choice": [8, 16]}, "seed": {"choice": [1, 2, 3]}}}
    assert len({words(point) for point in draw({"random": few})}) == 6
    with pytest.raises(InputError, match="is more than the 2 different ones there are"):
        sweep_of(tmp_path, random={"draws": 4, "keys": {"learning_rate": {"uniform": [0.1, 0.1001]}}})


@pytest.mark.parametrize(
    "value", [8, 1.0e-5, 0.1, 1.0e20, True, "no", "a, b: c", "'q'", ["q_proj", "v_proj"], {"a": 1}]
)
def test_a_point_as_settings_reads_back_to_the_same_values(value):
    assert apply_settings({"other": 1}, settings({"key": value})) == {"other": 1, "key": value}


def test_a_point_may_take_a_key_away():
    assert apply_settings({"lora_r": 8}, settings({"lora_r": None})) == {}
    assert words({}) == "the recipe as it is"


def test_keys_that_change_what_is_validated_are_named(tmp_path):
    assert check.note_on_rows(sweep_of(tmp_path, grid={"lora_r": [8, 16]})) == ""
    assert "note: seed, max_length also decide" in check.note_on_rows(
        sweep_of(tmp_path, grid={"seed": [1, 2], "max_length": [64, 128]})
    )


# ---- its record ----


def kept(tmp_path: Path, runs: Path, **values) -> dict:
    sweep = sweep_of(tmp_path, **values)
    names = [f"demo-{number}" for number in range(len(sweep.points))]
    made = record.make_record(sweep, "demo", record.HERE, "", names)
    record.save_record(runs, made)
    return made


def finish(run: Path, loss: float, share: float) -> None:
    run.mkdir(parents=True)
    (run / "report.html").write_text("")
    (run / "after.json").write_text(json.dumps({"eval_loss": loss, "exact_match": {"share": share},
                                                "rouge": {"rougeL": share}}))  # fmt: skip


def test_an_edited_sweep_is_another_one_and_the_newest_is_found(tmp_path):
    runs = tmp_path / "runs"
    first = kept(tmp_path, runs, grid={"lora_r": [8, 16]})
    assert kept(tmp_path, runs, grid={"lora_r": [8, 16]}, at_once=4)["name"] == first["name"]
    second = kept(tmp_path, runs, grid={"lora_r": [8, 32]}) | {"used": "2999"}
    record.save_record(runs, second)
    assert second["name"] != first["name"]
    assert record.load_record(runs, "demo", record.HERE)["name"] == second["name"]
    assert record.load_record(runs, "demo", record.HERE, name=first["name"])["name"] == first["name"]
    assert sorted(path.name for path in runs.iterdir()) == sorted(
        f"{one['name']}.sweep.json" for one in (first, second)
    )


def test_a_sweep_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    made = kept(tmp_path, tmp_path / "runs", grid={"lora_r": [8, 16]})
    with pytest.raises(InputError, match=f"there are: {made['name']}"):
        record.load_record(tmp_path / "runs", "argilla", record.HERE)
    with pytest.raises(InputError, match="there are: none; make sweep OVERLAY=demo ON=cluster starts one"):
        record.load_record(tmp_path / "runs", "demo", record.CLUSTER, "finetune")


@pytest.mark.parametrize(
    ("metric", "best", "figure"), [("eval_loss", 3, "1.2500"), ("exact_match", 2, "50.0%"), ("rouge", 2, "0.5000")]
)
def test_the_table_marks_the_best_of_what_is_done(tmp_path, metric, best, figure):
    made = kept(tmp_path, tmp_path / "runs", grid={"lora_r": [8, 16, 32, 64]}, metric=metric)
    for number, loss in enumerate([float("nan"), 1.5, 1.25]):
        finish(tmp_path / "runs" / f"demo-{number}", loss, [0.1, 0.5, 0.2][number])
    states = [record.state_here(tmp_path / "runs" / point["run"]) for point in made["points"]]
    assert states == ["complete"] * 3 + ["not started"]
    lines = record.table(made, tmp_path / "runs", states)
    assert "3 of 4 done" in lines[0]
    assert [number for number, text in enumerate(lines, -1) if "  best" in text] == [best]
    assert f"{figure}  best" in lines[best + 1]


# ---- one point after the other ----


def work(tmp_path: Path, start) -> tuple[int, dict, Path]:
    """Work through four ranks; `start` gets each point and its run."""
    runs = tmp_path / "runs"
    made = kept(tmp_path, runs, grid={"lora_r": [2, 4, 8, 16]})
    by_rank = {point["values"]["lora_r"]: runs / point["run"] for point in made["points"]}
    return sweep_here.work_through(made, runs, lambda point: start(point, by_rank[point["lora_r"]])), made, runs


def test_an_edited_sweep_takes_what_is_done_and_runs_the_rest(tmp_path, compare):
    work(tmp_path, learn)
    edited = kept(tmp_path, tmp_path / "runs", points=[{"lora_r": 16}, {"lora_r": 32}, {"lora_r": 2}])
    edited["points"][0]["run"], edited["points"][2]["run"] = "demo-3", "demo-0"  # as their recipes name them
    edited["points"][1]["run"] = "demo-4"
    begun = []
    again = sweep_here.work_through(edited, tmp_path / "runs", lambda point: begun.append(point) or 1)
    assert begun == [{"lora_r": 32}] and again == 1


def learn(point: dict, run: Path) -> int:
    finish(run, 1.0 / point["lora_r"], 0.5)
    (run / "run.json").write_text(json.dumps({"stages": {"train": {"seconds": 50}, "after": {"seconds": 10}}}))
    return 0


def test_a_point_that_fails_does_not_stop_the_others_and_is_told_at_the_end(tmp_path, capsys, compare):
    def start(point, run):
        if point["lora_r"] == 4:
            return 1
        if point["lora_r"] == 8:
            raise InputError("train.yaml: it does not fit\n  fix: make it fit")
        return learn(point, run)

    status, made, runs = work(tmp_path, start)
    said = capsys.readouterr()
    assert status == 1 and "2 of 4 done" in said.out and "=== 4 of 4: lora_r=16" in said.out
    assert "error: train.yaml: it does not fit" in said.err
    assert [line[: line.index("  (")] for line in said.err.splitlines() if line.startswith("failed: ")] == [
        "failed: 2 of 4: lora_r=4", "failed: 3 of 4: lora_r=8"]  # fmt: skip
    assert compare == [[runs / made["points"][number]["run"] for number in (0, 3)]]


def test_the_time_left_is_told_by_the_points_that_are_done(tmp_path, capsys, compare):
    assert work(tmp_path, learn)[0] == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("=== ") and " of " in line]
    assert heads == [
        "=== 1 of 4: lora_r=2",
        "=== 2 of 4: lora_r=4  (about 3:00 min left)",
        "=== 3 of 4: lora_r=8  (about 2:00 min left)",
        "=== 4 of 4: lora_r=16  (about 1:00 min left)",
    ]


@pytest.mark.parametrize("how", ["status", "exception"])
def test_ctrl_c_ends_the_sweep_and_the_same_again_does_what_is_missing(tmp_path, capsys, compare, how):
    def start(point, run):
        if point["lora_r"] == 4 and how == "exception":
            raise KeyboardInterrupt
        return 130 if point["lora_r"] == 4 else learn(point, run)

    assert work(tmp_path, start)[0] == 130
    said = capsys.readouterr()
    assert "stopped: 1 of 4 points are done; the same command goes on." in said.err and compare == []
    begun = []
    assert work(tmp_path, lambda point, run: begun.append(point["lora_r"]) or learn(point, run))[0] == 0
    assert begun == [4, 8, 16] and len(compare[0]) == 4


@pytest.fixture
def compare(monkeypatch) -> list:
    """A stand-in for scripts.compare; which runs it was given for a page."""
    given: list = []
    module = ModuleType("scripts.compare")
    module.write_comparison = lambda runs, page: given.append(runs)
    module.print_comparison = lambda runs: None
    monkeypatch.setitem(sys.modules, "scripts.compare", module)
    return given
