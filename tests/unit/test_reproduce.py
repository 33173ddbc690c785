"""Whether a run can be trained again: what its record says, what is here, and what is said of the result. No training.

.venv/bin/python -m pytest tests/unit/test_reproduce.py
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from scripts import reproduce_inputs as inputs
from scripts.reproduce import claim_again, find_places, make_plan, with_recorded_model
from scripts.reproduce_verdict import verdict
from scripts.runs import fingerprint, identity
from tests.tiny import ROOT, environment, make_world
from train.base_model import describe_base
from train.checkpoint import seal
from train.errors import InputError
from train.files import hash_file
from train.layout import Layout
from train.recipe import check_values, dump_recipe, read_yaml, with_defaults
from train.results import put_in_order

RECIPES = sorted([*(ROOT / "kustomize" / "overlays").glob("*/train.yaml"),
                  *(ROOT / "tests" / "fixtures" / "valid" / "recipes").glob("*.yaml")])  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """A model, rows and a recipe."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made, tmp_path) -> SimpleNamespace:
    """The same in a directory that a test may change, with the record of a run of it, as it is here and now."""
    home = shutil.copytree(made.root, tmp_path / "world")
    values, _ = read_yaml(made.recipe)
    values |= {"model_name_or_path": str(home / "model"), "train_file": str(home / "rows.jsonl")}
    recipe, layout = with_defaults(values), Layout(1, 1, "one")
    rows = {values["train_file"]: {"size": (home / "rows.jsonl").stat().st_size,
                                   "sha256": hash_file(home / "rows.jsonl")}}  # fmt: skip
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "train.yaml").write_text(dump_recipe(values))
    record = {
        "name": "a", "identity": identity(recipe, home / "model", rows, layout), "recipe": vars(recipe),
        "model_path": str(home / "model"), "model_files": fingerprint(home / "model"),
        "base_model": describe_base(home / "model", values["model_name_or_path"]), "layout": layout.as_dict(),
        "data": {"sources": rows, "digest": "d" * 64}, "training": {"steps": 1}, "artifacts": {},
        "versions": {"peft": "0.0.1", "python": "3.9.9"}, "hardware": {"cpu": "an abacus", "cores": 1},
        "git": "c" * 40, "image": "registry/image@sha256:1", "dtype": "bfloat16",
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    return SimpleNamespace(run=run, record=record, values=values, layout=layout, home=home, runs=run.parent)


def given(**values: str) -> argparse.Namespace:
    return argparse.Namespace(**{"model": None, "data": None, "validation_data": None, **values})


def plan_of(world: SimpleNamespace, **values: str):
    return make_plan(world.record, inputs.recorded_values(world.record, world.run, given(**values)), world.layout,
                     world.run, world.runs / "a-reproduced")  # fmt: skip


def refusal(world: SimpleNamespace, **values: str) -> str:
    with pytest.raises(InputError) as caught:
        plan_of(world, **values)
    assert all("\n  fix: " in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


# ---- the recipe ----


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_comes_back_from_its_record_alone(path):
    values, _ = read_yaml(path)
    recorded = json.loads(json.dumps(vars(with_defaults(values))))
    again = inputs.as_recorded(recorded)
    assert check_values(again, path) == []
    assert vars(with_defaults(again)) == recorded


def test_the_runs_own_recipe_is_taken_only_while_it_is_what_was_recorded(world):
    assert inputs.recorded_values(world.record, world.run, given()) == world.values
    (world.run / "train.yaml").write_text(dump_recipe(world.values | {"lora_r": 64}))
    assert with_defaults(inputs.recorded_values(world.record, world.run, given())).lora_r == world.values["lora_r"]
    (world.run / "train.yaml").unlink()
    assert with_defaults(inputs.recorded_values(world.record, world.run, given())).lora_r == world.values["lora_r"]


def test_a_key_that_no_recipe_has_any_more_is_an_error(world):
    world.record["recipe"]["lora_colour"] = "blue"
    with pytest.raises(InputError, match="lora_colour"):
        inputs.recorded_values(world.record, world.run, given())


def test_a_default_that_is_another_by_now_is_an_error(world):
    world.record["recipe"]["warmup_steps"] = None
    assert "recipe.warmup_steps: was None, is 0" in refusal(world)


# ---- model and rows ----


def test_what_lies_here_as_it_was_is_taken_and_what_may_differ_is_named(world):
    plan, differing = plan_of(world)
    assert plan.model == world.home / "model" and plan.identity == world.record["identity"]
    told = [one.in_words() for one in differing]
    for said in ("peft: was 0.0.1, is ", "python: was 3.9.9, is ", "cpu: was an abacus, is ",
                 "number format: was bfloat16, is float32", "image: was registry/image@sha256:1, is none",
                 f"commit: was {'c' * 40}, is "):  # fmt: skip
        assert any(line.startswith(said) for line in told), said


def test_every_file_that_changed_is_named_at_once_with_was_and_is(world):
    model, rows = world.home / "model", world.home / "rows.jsonl"
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + "\n")
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n")
    said = refusal(world)
    assert f"{model / 'model.safetensors'}: was sha256 " in said and ", is sha256 " in said
    assert f"{model / 'tokenizer.json'}: was sha256 " in said
    assert f"{model / 'config.json'}: was " in said and " bytes, is " in said
    assert f"data: {rows}: was sha256 " in said
    assert "MODEL=directory" in said and "DATA=file" in said


def test_what_is_wrong_and_what_may_differ_is_told_in_one_go(world, capsys):
    (world.home / "rows.jsonl").write_text("{}\n")
    with pytest.raises(InputError) as caught:
        make_plan(world.record, world.values, world.layout, world.run, world.runs / "b", ["too few cores\n  fix: more"])
    assert caught.value.problems[0].startswith("too few cores")
    assert "rows.jsonl: was sha256" in str(caught.value)
    assert "warning: peft: was 0.0.1, is " in capsys.readouterr().out


def test_a_model_that_is_gone_is_an_error_that_says_how_to_bring_it(world):
    (world.home / "model").rename(world.home / "elsewhere")
    assert "is no directory" in refusal(world) and "MODEL=" in refusal(world)
    plan, _ = plan_of(world, model=str(world.home / "elsewhere"))
    assert plan.model == world.home / "elsewhere"
    assert plan.identity != world.record["identity"], "its recipe names another place"


def test_rows_that_are_gone_are_an_error_and_may_lie_elsewhere_under_another_name(world):
    (world.home / "rows.jsonl").rename(world.home / "moved.jsonl")
    assert "there is no such file" in refusal(world) and "DATA=file" in refusal(world)
    plan, _ = plan_of(world, data=str(world.home / "moved.jsonl"))
    assert list(plan.sources) == [str(world.home / "moved.jsonl")]
    (world.home / "other.jsonl").write_text((world.home / "moved.jsonl").read_text() + "\n")
    said = refusal(world, data=str(world.home / "other.jsonl"))
    assert f"data: {world.home / 'rows.jsonl'}: was sha256 " in said and "is gone" in said
    assert f"data: {world.home / 'other.jsonl'}: was not among the rows" in said


def test_what_was_fetched_is_looked_for_by_its_revision_where_its_directory_is_not_here(world):
    record = world.record | {"model_path": "/not/here", "artifacts": {"model": {"name": "o/n", "revision": "r" * 40}}}
    recipe = with_defaults(world.values)
    found = with_recorded_model(recipe, record)
    assert (found.model_name_or_path, found.model_revision) == ("o/n", "r" * 40)
    moved = SimpleNamespace(**{**vars(recipe), "model_name_or_path": "mine"})
    assert with_recorded_model(moved, record) is moved
    values = {"model_name_or_path": "o/n", "dataset_name": "o/rows", "validation_size": 0.1}
    record["recipe"] = vars(with_defaults(values | {"dataset_name": "/store/of/a/cluster"}))
    for revision, pinned in (("a" * 40, "a" * 40), ("sha256-abc", None)):
        record["artifacts"] = {"dataset": {"name": "o/rows", "revision": revision}}
        found = inputs.recorded_values(record, world.run, given())
        assert (found["dataset_name"], found.get("dataset_revision")) == ("o/rows", pinned)


def test_more_processes_than_cores_are_an_error_and_more_threads_a_warning(world, monkeypatch):
    monkeypatch.setattr(inputs, "read_cpus", lambda: SimpleNamespace(cores=2))
    world.record["layout"] = {"processes": 3, "threads": 1}
    problems: list[str] = []
    inputs.recorded_layout(world.record, world.run, problems)
    assert len(problems) == 1 and "was 3 processes, and this machine has 2 cores" in problems[0]
    world.record["layout"] = {"processes": 1, "threads": 8}
    world.layout = inputs.recorded_layout(world.record, world.run, problems)
    assert len(problems) == 1
    assert (world.layout.processes, world.layout.threads) == (1, 2)
    _, differing = plan_of(world)
    assert "threads: was 8, is 2" in [one.in_words() for one in differing]


def test_an_older_record_without_the_models_files_still_notices_another_tokenizer(world):
    del world.record["model_files"]
    path = world.home / "model" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    _, differing = plan_of(world)
    assert any("tokenizer" in one.key for one in differing)


# ---- names ----


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("", "", "RUN: (empty): is no run in"),
        ("nowhere", "", "RUN: nowhere: is no run in"),
        ("bare", "", "RUN: bare: has no record"),
        ("a", "a", "TO: a: is the run itself"),
        ("a", "../b", "TO: ../b: is no name of a run"),
        ("a", "file", "is a file"),
    ],
)
def test_a_name_that_is_none_is_refused(world, name, to, said):
    (world.runs / "bare").mkdir()
    (world.runs / "file").touch()
    with pytest.raises(InputError) as caught:
        find_places(argparse.Namespace(run=name, to=to, runs_dir=world.runs))
    assert said in str(caught.value) and "fix: " in str(caught.value)


def test_another_run_in_the_new_ones_place_is_left_alone(world):
    plan, _ = plan_of(world)
    again = world.runs / "again"
    again.mkdir()
    claim_again(again, plan, world.values, world.run, world.record)
    claim_again(again, plan, world.values, world.run, world.record)  # the same goes on
    record = json.loads((again / "run.json").read_text())
    assert record["reproduces"] == {"name": "a", "identity": world.record["identity"]}
    del record["reproduces"]
    (again / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="no reproduction of a"):
        claim_again(again, plan, world.values, world.run, world.record)


def test_the_program_tells_all_that_a_record_lacks_at_once(world):
    record = {key: value for key, value in world.record.items() if key not in ("layout", "identity")}
    (world.run / "run.json").write_text(json.dumps(record))
    command = [sys.executable, "-m", "scripts.reproduce", "--run", "a", "--runs-dir", str(world.runs)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "2 problems" in done.stderr
    assert "layout: is not recorded" in done.stderr and "identity: is not recorded" in done.stderr
    assert not (world.runs / "a-reproduced").exists()


def test_a_run_that_was_not_trained_to_its_end_is_refused(world):
    record = world.record | {"training": None, "base_model": None}
    (problem,) = inputs.check_record(record, world.run)
    assert "a was not trained to its end" in problem and "finish it first" in problem


# ---- the result ----


def test_names_that_peft_keeps_as_sets_are_saved_in_their_order(tmp_path):
    names = [f"proj_{letter}" for letter in "hgfedcba"]
    config = LoraConfig(target_modules=names)
    assert isinstance(config.target_modules, set)
    put_in_order(SimpleNamespace(peft_config={"default": config}))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == sorted(names)


# ---- the verdict ----


def trained(directory: Path, weights: float, losses: list[float], **record) -> Path:
    """A run with an adapter and losses, as far as a verdict looks at it."""
    aside = directory / ".adapter.tmp"
    aside.mkdir(parents=True)
    save_file({"a": torch.full((4,), weights), "b": torch.ones(2)}, aside / "adapter_model.safetensors")
    (aside / "adapter_config.json").write_text("{}")
    seal(aside, directory / "adapter")
    (directory / "run.json").write_text(json.dumps({"recipe": {"method": "lora"}} | record))
    lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(losses, 1)]
    (directory / "metrics.jsonl").write_text("".join(lines))
    return directory


def test_equal_hashes_are_bit_for_bit_the_same(tmp_path, capsys):
    was, now = trained(tmp_path / "a", 1.0, [3.0]), trained(tmp_path / "b", 1.0, [3.0])
    digest = hash_file(was / "adapter" / "adapter_model.safetensors")
    assert verdict(was, now) == 0
    assert f"bit for bit the same adapter: adapter_model.safetensors sha256 {digest}" in capsys.readouterr().out


def test_another_result_is_said_to_be_one_by_how_much_and_likely_why(tmp_path, capsys):
    versions = {"versions": {"peft": "0.21.2", "torch": "2.13.0"}}
    was = trained(tmp_path / "a", 1.0, [3.0, 2.0, 1.0], **versions)
    now = trained(tmp_path / "b", 1.5, [3.0, 2.5, 1.1], versions={"peft": "0.22.0", "torch": "2.13.0"})
    assert verdict(was, now) == 1
    said = capsys.readouterr().out
    assert "not the same adapter" in said
    assert "losses: at most 2.50e-01 apart relatively, at step 2; step 2 is the first to differ" in said
    assert "weights: 1 of 2 tensors differ, at most 5.00e-01 relatively, a" in said
    assert "likely causes:\n  peft: was 0.21.2, is 0.22.0 (another release" in said


def test_a_difference_without_a_recorded_cause_names_what_is_not_recorded(tmp_path, capsys):
    assert verdict(trained(tmp_path / "a", 1.0, [3.0]), trained(tmp_path / "b", 1.5, [3.0])) == 1
    said = capsys.readouterr().out
    assert "losses: the same in all 1 steps" in said and "in no commit" in said and "likely causes" not in said


def test_a_recorded_hash_is_enough_where_the_adapter_is_gone(tmp_path, capsys):
    was, now = trained(tmp_path / "a", 1.0, [3.0]), trained(tmp_path / "b", 1.0, [3.0])
    files = {name: hash_file(was / "adapter" / name) for name in ("adapter_model.safetensors", "adapter_config.json")}
    shutil.rmtree(was / "adapter")
    with pytest.raises(InputError, match="holds no hashes of its result"):
        verdict(was, now)
    record = json.loads((was / "run.json").read_text()) | {"result": {"directory": "adapter", "files": files}}
    (was / "run.json").write_text(json.dumps(record))
    assert verdict(was, now) == 0
