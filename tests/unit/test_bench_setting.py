"""What the benchmark measures on, and what it refuses.

.venv/bin/python -m pytest tests/unit/test_bench_setting.py
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import own_venv
from scripts.bench import equipment, install, setting, watch
from scripts.bench.bench import parse_arguments
from scripts.bench.race import figures, make_job, read_facts
from scripts.bench.variants import Variant, variants
from tests.makefile import MAKEFILE
from train.data_tokens import load_codec
from train.errors import InputError
from train.prepared import load_prepared
from train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
TINY = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 1}  # fmt: skip


def rows_of(count: int) -> list[dict[str, str]]:
    """Rows of many lengths, some with an empty input, one far too long for 512 tokens."""
    rows = [
        {"instruction": f"Repeat what {i} says", "input": "words " * (i % 9), "output": f"It says {i}. " * (1 + i % 7)}
        for i in range(count)
    ]
    rows[3]["output"] = "Zebras quietly jog. " * 600
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A setting of two steps with its rows and first round."""
    home = tmp_path_factory.mktemp("bench")
    rows = equipment.write_rows(home / "given.jsonl", rows_of(200))
    made = setting.Setting(rows, 1, 2, 1, 1, TINY, home, {})
    setting.make_rows(made)
    return made, setting.make_round(made, 0)


# ---- the same tokens for all ----


def test_the_others_get_text_whose_tokens_are_those_that_ours_trains_on(world):
    made, shared = world
    codec = load_codec(made.model)
    given = [json.loads(line) for line in (shared.place / "rows.jsonl").read_text().splitlines()]
    assert len(given) == 2 * equipment.GLOBAL_BATCH
    for row in given:  # as TRL tokenises: prompt and completion in one text, the end token as text
        assert codec.tokenizer(row["prompt"] + row["completion"] + "</s>")["input_ids"] == row["input_ids"]
        prompt = codec.tokenizer(row["prompt"])["input_ids"]
        assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]


def test_the_steps_tokens_are_those_of_the_prepared_rows(world):
    _, shared = world
    prepared = load_prepared(shared.place / "data")
    assert sum(shared.tokens) == int(prepared.train.lengths.sum())
    assert len(shared.tokens) == 2


def test_no_row_is_too_long_and_training_and_validation_share_none(world):
    made, shared = world
    prepared = load_prepared(shared.place / "data")
    assert prepared.train.lengths.max() <= equipment.MAX_LENGTH
    train, held = (setting.read_rows_back(made.home / f"{name}.jsonl") for name in ("train", "validation"))
    assert len(held) == equipment.VALIDATION_ROWS
    assert not {json.dumps(row) for row in train} & {json.dumps(row) for row in held}


def test_flop_counts_every_weight_but_the_input_embedding(world):
    made, _ = world
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 32 + 2 * 32
    assert equipment.flop_per_token(made.model) == 4 * (layer + 32 + 32 * 32000)


@pytest.fixture
def given(tmp_path) -> SimpleNamespace:
    """A command's values, with rows that can be measured on."""
    rows = equipment.write_rows(tmp_path / "given.jsonl", rows_of(80))
    return SimpleNamespace(steps=4, steps_curve=100, data=str(rows), shared="", geometry="{}", layers=1, rounds=1,
                           threads=1, place=tmp_path / "place", fresh=False)  # fmt: skip


def test_other_releases_of_the_others_are_another_key(given):
    one, same, newer = (setting.make_setting(given, {"trl": release}) for release in ("1.16.0", "1.16.0", "1.17.0"))
    assert one.home == same.home != newer.home
    assert newer.record["others"] == {"trl": "1.17.0"}


def test_the_key_holds_every_module_of_the_benchmark_that_measures(tmp_path, monkeypatch):
    bench = tmp_path / "scripts" / "bench"
    shutil.copytree(Path(setting.__file__).parent, bench)
    monkeypatch.setattr(setting, "__file__", str(bench / "setting.py"))
    before = setting.hash_product()
    for name in ("watch", "race", "setting", "competitor", "equipment", "programs", "variants", "matmul", "curve"):
        kept = (bench / f"{name}.py").read_text()
        (bench / f"{name}.py").write_text(kept + "# changed\n")
        assert setting.hash_product() != before, name
        (bench / f"{name}.py").write_text(kept)
    (bench / "page.py").write_text("# shown in other words\n")
    assert setting.hash_product() == before


def test_only_fresh_installs_the_others_anew(tmp_path, monkeypatch):
    commands = []
    others = replace(install.OTHERS, place=tmp_path / "venv", room=0)
    others.place.mkdir()

    def record(command, **_):
        commands.append(command)
        others.place.mkdir(exist_ok=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(install, "OTHERS", others)
    monkeypatch.setattr(own_venv, "installed", lambda venv: {"trl": "1.17.0"})
    monkeypatch.setattr(own_venv.subprocess, "run", record)
    assert install.present() == {}
    others.versions.write_text('{"trl": "1.16.0"}')
    assert install.install(fresh=False) == install.present() == {"trl": "1.16.0"}
    assert not commands
    assert install.install(fresh=True) == install.present() == {"trl": "1.17.0"}
    assert "trl" in commands[-1]


def test_another_model_and_number_of_steps_have_a_directory_of_their_own_and_only_fresh_empties_it(tmp_path):
    base = setting.Setting(tmp_path / "rows", 6, 4, 3, 2, {}, tmp_path / "home", {"dtype": "float32", "steps": 4})
    small = setting.change_setting(base, {"num_hidden_layers": 2}, {}, 50, 1, fresh=False)
    assert (small.home.parent, small.layers, small.steps, small.dtype) == (tmp_path, 2, 50, "float32")
    kept = small.home / "kept.json"
    kept.write_text("{}")
    assert setting.change_setting(base, {"num_hidden_layers": 2}, {}, 50, 1, fresh=False).home == small.home
    rate = {"learning_rate": 2.0e-3}
    assert setting.change_setting(base, {"num_hidden_layers": 2}, rate, 50, 1, fresh=False).home != small.home
    assert setting.change_setting(base, {"num_hidden_layers": 2}, {}, 51, 1, fresh=True).home != small.home
    assert kept.exists()
    setting.change_setting(base, {"num_hidden_layers": 2}, {}, 50, 1, fresh=True)
    assert not kept.exists()


# ---- what is refused ----


def bench(*words: object) -> subprocess.CompletedProcess:
    """The command with its output as text."""
    command = [sys.executable, "-m", "scripts.bench.bench", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_rows_it_says_which_to_give(tmp_path):
    found = bench("--shared", tmp_path)
    assert found.returncode == 2
    assert "not on this machine\n  fix: give rows of instruction, input and output: make bench DATA=" in found.stderr


def test_an_unknown_section_is_refused_with_those_there_are():
    found = bench("--what", "train", "speed")
    assert found.returncode == 2
    assert (
        "WHAT: speed: is nothing to measure\n  fix: take some of: train curve ranks data length merge" in found.stderr
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "holds no rows"),
        ("no JSON", "holds no rows"),
        ('[{"instruction": "a", "output": "b"}]', "holds 1 rows"),
    ],
)
def test_rows_that_are_none_or_too_few_are_refused(tmp_path, text, words):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        equipment.read_rows(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"DATA: .*absent.json: there is no such file"):
        equipment.find_rows(str(tmp_path / "absent.json"), "")


def test_the_default_counts_more_than_one_step_and_the_command_and_make_agree_on_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench"])
    given = parse_arguments()
    assert given.steps - setting.WARMUP >= 3
    assert f"\nSTEPS ?= {given.steps}\n" in MAKEFILE
    assert f"\nSTEPS_CURVE ?= {given.steps_curve}\n" in MAKEFILE


def test_steps_that_leave_none_to_count_are_refused(tmp_path):
    with pytest.raises(InputError, match="STEPS: 1 steps leave none to count"):
        setting.check_given(SimpleNamespace(steps=1, steps_curve=100))
    with pytest.raises(InputError, match="STEPS_CURVE: 1 steps leave none to count"):
        setting.check_given(SimpleNamespace(steps=4, steps_curve=1))


# ---- what is seen of a run ----


def test_a_program_that_fails_is_told_with_the_end_of_its_output(tmp_path):
    with pytest.raises(watch.MeasuredFailed, match="what went wrong"):
        watch.watch([sys.executable, "-c", "raise SystemExit('what went wrong')"], {}, tmp_path / "log")


def test_memory_and_steps_are_seen_from_outside(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    program = (
        "import json, sys, time\n"
        "block = bytearray(300_000_000)\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    for step in (1, 2):\n"
        "        time.sleep(0.8)\n"
        "        print(json.dumps({'step': step, 'loss': 1.0, 'tokens': 5}), file=file, flush=True)\n"
        '    file.write(\'{"step": 3, "lo\')\n'
    )
    seen = watch.watch([sys.executable, "-c", program, metrics], {}, tmp_path / "log", metrics)
    assert seen.peaks[0] > 0.3
    assert sorted(seen.moments) == [1, 2]
    assert 0 <= seen.disturbed <= os.cpu_count()
    assert 0.6 < seen.moments[2] - seen.moments[1] < 20
    assert [line["step"] for line in seen.lines] == [1, 2]


def test_a_run_that_trained_on_other_tokens_is_no_result():
    lines = [{"step": step, "loss": 2.0, "tokens": 100} for step in (1, 2, 3)]
    seen = SimpleNamespace(lines=lines, moments={1: 5.0, 2: 6.0, 3: 7.0}, peaks=[1.5, 0.2], seconds=9.0, disturbed=0.0)
    found = figures(seen, [100, 100, 100], exact=True)
    assert (found["tokens"], found["seconds"], found["tokens_per_second"]) == (200, 2.0, 100.0)
    with pytest.raises(watch.MeasuredFailed):
        figures(seen, [100, 90, 110], exact=True)
    assert figures(seen, [100, 90, 110], exact=False)["tokens"] == 200
    with pytest.raises(watch.MeasuredFailed):
        figures(seen, [100, 100, 101], exact=False)


@pytest.mark.parametrize(
    ("dtype", "autocast", "expected"),
    [("bfloat16", False, False), ("bfloat16", True, True), ("float32", True, False)],
)
def test_ours_number_format_is_read_from_its_own_record(tmp_path, dtype, autocast, expected):
    (tmp_path / "training.json").write_text(json.dumps({"dtype": dtype, "path": {"autocast": autocast}}))
    found = read_facts(tmp_path, Variant("ours", "", "ours"))
    assert found["weights"] == [f"{dtype} frozen"]
    assert found["autocast_bf16"] is expected
    found = read_facts(tmp_path, Variant("ours-qlora", "", "ours", {"method": "qlora"}))
    assert found["weights"] == [f"4-bit for {dtype} frozen"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_all_variants_have_names_of_their_own_and_ours_is_first(dtype):
    names = [variant.name for variant in variants(dtype)]
    assert names[0] == "ours"
    assert len(set(names)) == len(names)
    assert {"trl", "trl-packing", "plain"} <= set(names)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_qlora_runs_once_beside_ours(dtype):
    (qlora,) = [variant for variant in variants(dtype) if variant.options.get("method") == "qlora"]
    assert (qlora.trainer, qlora.extra, qlora.options) == ("ours", True, {"method": "qlora"})


def test_a_changed_learning_rate_reaches_ours_and_the_others(world):
    made, _ = world
    shared = setting.make_round(replace(made, recipe={"learning_rate": 3.0e-3}), 1)
    assert load_recipe(shared.recipe).learning_rate == 3.0e-3
    assert make_job(made, Variant("trl", "", "trl"), shared, shared.place)["learning_rate"] == 3.0e-3


def test_packs_one_at_a_time_make_the_same_steps_as_four_at_a_time(world):
    made, shared = world
    jobs = {variant.name: make_job(made, variant, shared, shared.place) for variant in variants("bfloat16")}
    four, one = jobs["trl-packing"], jobs["trl-packing-one"]
    assert (four["micro_batch"], one["micro_batch"]) == (equipment.MICRO_BATCH, 1)
    assert one["accumulation"] == equipment.MICRO_BATCH * four["accumulation"]
    assert one["options"] == four["options"]
    assert jobs["trl"]["micro_batch"] * jobs["trl"]["accumulation"] == equipment.GLOBAL_BATCH


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "ours-fp32"), ("float32", "ours-unpacked")])
def test_the_reference_is_one_row_of_ours_in_float32_and_padded_that_runs_once(dtype, name):
    found = variants(dtype)
    (reference,) = [variant for variant in found if variant.reference]
    assert (reference.name, reference.extra, reference.options["packing"]) == (name, True, False)
    assert reference.options.get("dtype", dtype) == "float32"
    unpacked = [variant.options for variant in found if variant.options.get("packing") is False]
    assert len({str(options) for options in unpacked}) == len(unpacked)


def test_without_bfloat16_in_hardware_no_variant_computes_in_it_and_each_row_says_so():
    others = [variant for variant in variants("float32") if variant.trainer != "ours"]
    for variant in others:
        half = variant.options.get("bf16", variant.trainer == "trl")  # TRL's default
        assert not half and "bfloat16" not in str(variant.options), variant
        assert "bf16=False" in variant.words or "float32 weights" in variant.words
    assert all("bf16" not in variant.options for variant in variants("bfloat16"))
