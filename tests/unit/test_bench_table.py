"""The benchmark's table and page from made-up results: medians, ratios of the same round, spreads.

.venv/bin/python -m pytest tests/unit/test_bench_table.py
"""

import pytest

from scripts.bench.page import draw_curves, markdown, picture, tables, terminal
from scripts.bench.race import time_left
from scripts.bench.table import (
    HEAD,
    LOSS_HEAD,
    as_markdown,
    as_text,
    cells,
    loss_cells,
    number_format,
    spread,
    summarise,
    verdict,
)


def run(variant: str, number: int, rate: float, peak: float = 2.0, **more) -> dict:
    """One run's result."""
    return {"variant": variant, "words": f"the {variant}", "round": number, "tokens_per_second": rate, "peak_gb": peak,
            "first_step_seconds": 12.0, "train_loss": 9.0, "losses": [9.0], "reference": False,
            "same_rows": True, "eval_loss": 9.5, "all_tokens": 4000, "disturbed": 0.05,
            "facts": {"weights": ["bfloat16 frozen", "float32 trained"], "autocast_bf16": False}, **more}  # fmt: skip


def cell(row: dict, head: str) -> str:
    """A row's cell below these words of a head."""
    return cells(row)[HEAD.index(head)] if head in HEAD else loss_cells(row)[LOSS_HEAD.index(head)]


RUNS = [
    run("ours", 0, 400.0, 1.0), run("trl", 0, 100.0, 2.0),
    run("ours", 1, 300.0, 1.2), run("trl", 1, 100.0, 2.0),
    run("ours", 2, 500.0, 1.0), run("trl", 2, 100.0, 4.0),
]  # fmt: skip


def result(**sections) -> dict:
    """A whole result of the command."""
    setting = {"hardware": {"cores": 2, "cpu": "a processor", "flags": ["amx_bf16"], "kernel": "6.1"},
               "versions": {"torch": "2.13.0"}, "geometry": {"num_hidden_layers": 6}, "rows": "rows.json",
               "threads": 2, "dtype": "bfloat16", "steps": 8}  # fmt: skip
    return {"date": "2026-01-02", "command": "make bench STEPS=8", "setting": setting, "others": {"trl": "1.16.0"},
            "sections": sections}  # fmt: skip


def training(runs: list[dict]) -> dict:
    """The section of training."""
    rows = summarise(runs, [1000.0], 1e9)
    return {"runs": runs, "rows": rows, "matmul_gflops": [900.0, 1100.0], "flop_per_token": 1e9, "tokens": 4000}


def test_a_ratio_compares_runs_of_the_same_round_and_shows_their_spread():
    ours, trl = summarise(RUNS, [1000.0], 1e9)
    assert (trl["ratio"].least, trl["ratio"].median, trl["ratio"].greatest) == (3.0, 4.0, 5.0)
    assert (trl["memory"].least, trl["memory"].median, trl["memory"].greatest) == (0.25, 0.5, 0.6)
    assert ours["ratio"].median == 1.0


def test_a_ratio_finds_its_round_also_where_a_variant_ran_in_one_alone():
    rows = summarise([*RUNS, run("extra", 1, 150.0)], [1000.0], 1e9)
    assert rows[-1]["ratio"] == spread([2.0])
    assert rows[-1]["rounds"] == 1


def test_the_share_is_of_the_median_matrix_multiply_rate():
    assert summarise(RUNS, [800.0, 1000.0, 5000.0], 1e9)[0]["share"] == pytest.approx(0.4)


def test_a_spread_is_shown_only_where_there_is_one():
    assert spread([3.0, 3.52, 4.0]).words(".2f") == "3.52 (3.00-4.00)"
    assert spread([3.52]).words(".2f") == "3.52"


def test_ours_is_compared_with_nothing_and_a_table_without_ours_has_no_ratios():
    ours, trl = summarise(RUNS, [1000.0], 1e9)
    assert cell(ours, "ours is … times as fast") == ""
    assert cell(trl, "ours is … times as fast") == "4.00 (3.00-5.00)"
    assert cell(trl, "ours takes") == "0.50 (0.25-0.60) of it"
    alone = summarise([run("trl", 0, 100.0)], [1000.0], 1e9)[0]
    assert cell(alone, "ours is … times as fast") == ""


@pytest.mark.parametrize(("one", "faster"), [(150.0, "the trl-packing-one"), (120.0, "the trl-packing")])
def test_in_words_ours_is_compared_with_the_better_of_the_two_that_pack(one, faster):
    packing = [run("trl-packing", 0, 125.0, 1.5), run("trl-packing-one", 0, one, 1.6)]
    said = verdict(summarise([*RUNS[:2], *packing], [1000.0], 1e9))
    assert said.startswith("Ours is 4.00 times as fast as the trl, in 0.50 of its memory; ")
    assert f" times as fast as {faster}, in " in said
    assert said.count("times as fast") == 2


def test_where_ours_or_the_others_did_not_run_nothing_is_said():
    assert verdict(summarise(RUNS[:1], [1000.0], 1e9)) == ""
    assert verdict(summarise(RUNS[1:2], [1000.0], 1e9)) == ""


def test_the_largest_difference_of_a_steps_loss_to_the_reference_of_its_round_is_shown():
    runs = [
        run("ours", 0, 400.0, losses=[10.0, 8.08, 6.03]),
        run("fp32", 0, 50.0, losses=[10.0, 8.0, 6.0], reference=True),
        run("trl-packing", 0, 100.0, losses=[10.0, 9.0], same_rows=False),
        run("ours", 1, 400.0, losses=[12.0, 9.0, 7.0]),
    ]
    ours, reference, packed = summarise(runs, [1000.0], 1e9)
    assert cell(ours, "largest difference to float32") == "1.0e-02"
    assert cell(reference, "largest difference to float32") == "reference"
    assert cell(packed, "largest difference to float32") == ""
    (alone,) = summarise(runs[:1], [1000.0], 1e9)
    assert alone["off_reference"] is None


def test_the_seconds_from_start_to_first_step_are_shown():
    rows = summarise([run("ours", 0, 100.0), run("ours", 1, 100.0, first_step_seconds=15.0)], [1000.0], 1e9)
    assert cell(rows[0], "s to first step") == "14 (12-15)"


def test_each_row_says_what_its_weights_are_kept_in_and_what_autocast_makes_of_them():
    facts = {"weights": ["bfloat16 trained", "float32 frozen"], "autocast_bf16": True}
    assert number_format(facts) == "float32 / bfloat16"
    (row,) = summarise([run("ours", 0, 100.0)], [1000.0], 1e9)
    assert cell(row, "weights / autocast") == "bfloat16 / none"


def test_columns_stand_below_each_other():
    assert as_text([("", "a"), ("name", "1,000")]) == "          a\nname  1,000"
    assert as_markdown([("", "a"), ("name", "1")]) == "|  | a |\n| --- | ---: |\n| name | 1 |"


def test_two_processes_are_shown_as_a_share_of_linear():
    found = result(ranks={"one": [100.0, 110.0], "two": [180.0, 187.0], "share_of_linear": [0.9, 0.85]})
    assert "88% (85%-90%)" in terminal(found)


def test_cost_against_rows_is_a_line_and_what_lies_off_it_is_said():
    by_rows = [{"rows": rows, "tokens": rows * 100, "seconds": seconds} for rows, seconds in
               ((10, 20.0), (20, 33.0), (40, 50.0))]  # fmt: skip
    by_length = [{"longest": 64, "tokens_per_second": 200.0}]
    (_, rows, remark), _ = tables(result(length={"by_rows": by_rows, "by_length": by_length}))
    assert rows[1:] == [("10", "1,000", "20.0"), ("20", "2,000", "33.0"), ("40", "4,000", "50.0")]
    assert "10.0 s of start and end, then 100 tokens/s; the middle one is +10.0% off it" in remark


def test_merging_is_shown_beside_the_copy_of_the_same_round():
    turns = [{"way": way, "round": number, "seconds": seconds, "peak_gb": 1.0}
             for number, pair in enumerate([(2.0, 3.0), (4.0, 5.0)])
             for way, seconds in zip(("cp", "ours"), pair, strict=True)]  # fmt: skip
    ((_, rows, _),) = tables(result(merge={"2": {"bytes": 2.2e9, "turns": turns}}))
    assert rows[2] == ("2.2 GB: ours", "4.0 (3.0-5.0)", "1.38 (1.25-1.50)", "1.00")


def test_data_preparation_is_compared_with_training_where_both_were_measured():
    sizes = [{"rows": 10_000, "tokens": 1_500_000, "seconds": 6.0, "tokens_per_second": 800_000.0}]
    assert "2,000 times as fast as the training above (400 tokens/s)" in terminal(
        result(train=training(RUNS), data={"sizes": sizes})
    )
    assert "times as fast" not in terminal(result(data={"sizes": sizes}))


def curves(ours: float) -> dict:
    """The section of loss curves with two seeds, ours' median validation loss given."""
    runs = [run(name, seed, 100.0, losses=[10.0, 9.0, 8.5], eval_loss=loss + seed / 100)
            for seed in (0, 1) for name, loss in (("ours", ours - 0.005), ("trl", 8.4))]  # fmt: skip
    return {"runs": runs, "rows": summarise(runs, [1000.0], 1e9), "steps": 3, "geometry": {"hidden_size": 256},
            "recipe": {"learning_rate": 0.002}}  # fmt: skip


def test_the_curves_table_says_whether_ours_median_lies_in_the_range_of_the_others():
    ((_, rows, remark),) = tables(result(curve=curves(8.409)))
    assert rows[1][4:] == ("8.4090 (8.4040-8.4140)", "")
    assert rows[2][4:] == ("8.4050 (8.4000-8.4100)", "+0.0040, in its range")
    assert "over the seeds (2)" in remark
    ((_, rows, _),) = tables(result(curve=curves(8.43)))
    assert rows[2][5] == "+0.0250, outside its range"


def test_with_one_seed_the_curves_have_no_range_to_lie_in():
    runs = [run(name, 0, 100.0, eval_loss=loss) for name, loss in (("ours", 8.41), ("trl", 8.4))]
    found = {**curves(8.4), "runs": runs, "rows": summarise(runs, [1000.0], 1e9)}
    ((_, rows, _),) = tables(result(curve=found))
    assert rows[2][5] == "+0.0100"


def test_the_curves_are_drawn_beside_their_table_where_they_were_measured_and_not_otherwise(tmp_path):
    draw_curves(result(curve=curves(8.4)), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "![Loss curves](curve.png)" in markdown(result(curve=curves(8.4)))
    draw_curves(result(), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_page_names_machine_versions_and_command(tmp_path):
    page = markdown(result(train=training(RUNS)))
    for words in ("make bench STEPS=8", "2 cores of a processor", "trl 1.16.0", "torch 2.13.0", "num_hidden_layers 6"):
        assert words in page
    assert "| the trl | bfloat16 / none | 100 | 4.00 (3.00-5.00) |" in page


def test_the_picture_is_drawn_where_training_was_measured_and_not_otherwise(tmp_path):
    picture(result(train=training(RUNS)), tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    picture(result(), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_time_left_is_what_each_took_before_or_the_mean():
    results = [{"variant": "ours", "took": 10.0}, {"variant": "trl", "took": 30.0}]
    assert time_left(results, ["ours", "trl", "plain"]) == 10.0 + 30.0 + 20.0
    assert time_left(results, []) == 0
