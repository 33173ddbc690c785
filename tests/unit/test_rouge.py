"""ROUGE: its values, counted by hand here, and every place that shows them.

.venv/bin/python -m pytest tests/unit/test_rouge.py
"""

import json
from pathlib import Path

import pytest
from publish_cases import change as change_file
from publish_cases import give, make_base
from publish_cases import make_run as make_published

from scripts import compare_facts
from scripts.compare import print_comparison
from scripts.runs import list_runs
from tests.tiny import make_world
from tests.unit.test_compare import runs_of
from tests.unit.test_diff_runs import diff
from train import evaluate
from train.prepare import prepare_data
from train.recipe import load_recipe
from train.report import print_summary, read_run, write_report
from train.report_facts import figures, verdict
from train.rouge import rouge

OLD = {"rouge1": 0.25, "rouge2": 0.125, "rougeL": 0.2, "rows": 200}
NEW = {"rouge1": 0.5, "rouge2": 0.375, "rougeL": 0.4375, "rows": 200}


def scores(generated: str, wanted: str) -> list[float]:
    found = rouge([generated], [wanted])
    return [found[key] for key in ("rouge1", "rouge2", "rougeL")]


# ---- the values: F1 = 2 * common / (generated + wanted) ----


@pytest.mark.parametrize(
    ("generated", "wanted", "one", "two", "longest"),
    [
        ("the cat sat on the mat", "The cat sat on the mat.", 1, 1, 1),
        # words: the cat on mat are common, 4 of 6 and 6; pairs: the-cat, 1 of 5 and 5; in order: the cat on mat
        ("the cat lay on a mat", "the cat sat on the mat", 8 / 12, 2 / 10, 8 / 12),
        # words: all 4 of 4 in 5; pairs: none of 4 and 3; in order: one word
        ("d c b a e", "a b c d", 8 / 9, 0, 2 / 9),
        # a word counts as often as both have it: once
        ("yes yes yes", "yes", 2 / 4, 0, 2 / 4),
        # in order b d e, 3 of 4 and 5; pairs: d-e, 1 of 3 and 4
        ("b x d e", "a b c d e", 6 / 9, 2 / 7, 6 / 9),
        ("one", "two", 0, 0, 0),
        ("", "two words", 0, 0, 0),
        ("…!", "two words", 0, 0, 0),
        # pairs: a-b twice in both, b-a once in both, of 3 and 4 (b-c)
        ("a b a b", "a b a b c", 8 / 9, 6 / 7, 8 / 9),
    ],
)
def test_a_score_is_what_a_hand_counts(generated, wanted, one, two, longest):
    assert scores(generated, wanted) == pytest.approx([one, two, longest], abs=1e-6)


def test_the_score_of_several_rows_is_their_mean_and_an_empty_answer_is_a_row():
    found = rouge(["a b", ""], ["a b", "c"])
    assert found == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5, "rows": 2}


def test_letters_of_every_script_make_words():
    assert scores("Καλή ΜΈΡΑ, κόσμε", "καλή μέρα κόσμε") == [1, 1, 1]
    assert scores("ein großes Café", "ein kleines Café") == pytest.approx([2 / 3, 0, 2 / 3], abs=1e-6)
    assert scores("snake_case", "snake case") == [1, 1, 1]


# ---- an evaluation ----


def test_an_evaluation_compares_all_held_out_answers_and_says_so_in_its_line(tmp_path, monkeypatch):
    world = make_world(tmp_path, rouge=True, generate_samples=3, max_new_tokens=6)
    prepare_data(load_recipe(world.recipe), world.model, world.data)
    answers = [json.loads(line)["answer"] for line in (world.data / "validation_prompts.jsonl").open()]
    told = [(answer if place % 2 else "", True) for place, answer in enumerate(answers)]
    monkeypatch.setattr(evaluate, "generate_answers", lambda *arguments: told)
    result = evaluate.evaluate(load_recipe(world.recipe), world.model, None, world.data)
    assert result["rouge"]["rows"] == 20 and result["rouge"]["rouge1"] == pytest.approx(0.5)
    assert result["exact_match"] is None and len(result["samples"]) == 3
    assert "ROUGE-1 0.500, ROUGE-2 " in evaluate.in_words(result) and "over 20 answers" in evaluate.in_words(result)
    json.dumps(result, allow_nan=False)


# ---- what shows it ----


def measured(run: Path, before: dict | None, after: dict) -> Path:
    """A run with ROUGE in its evaluations."""
    for name, found in (("before.json", before), ("after.json", after)):
        change_file(run / name, rouge=found)
    return run


def test_the_report_has_each_measure_before_and_after_and_judges_by_the_longest(tmp_path, capsys):
    run = measured(*runs_of(tmp_path, a={}), OLD, NEW)
    write_report(run)
    page = (run / "report.html").read_text()
    for text in ("ROUGE-1", "0.250 → 0.500", "ROUGE-2", "0.125 → 0.375", "ROUGE-L", "0.200 → 0.438", "200 held-out"):
        assert text in page
    tone, sentences = verdict(read_run(run))
    assert tone == "good" and "ROUGE-L rose from 0.200 to 0.438 on 200 held-out rows" in sentences
    print_summary(run)
    assert "mean F1 over 200 held-out answers" in capsys.readouterr().out
    assert verdict(read_run(measured(run, NEW, OLD)))[0] == "bad"
    assert "ROUGE-L is 0.438 on 200 held-out rows" in verdict(read_run(measured(run, None, NEW)))[1]


def test_runs_without_it_show_no_word_of_it(tmp_path, capsys):
    (run,) = runs_of(tmp_path, a={})
    list_runs(tmp_path)
    assert "ROUGE" not in capsys.readouterr().out
    assert "ROUGE" not in str(figures(read_run(run))) + str(verdict(read_run(run)))


def test_a_comparison_marks_the_best_of_each_measure(tmp_path, capsys):
    runs = runs_of(tmp_path, a={"lora_r": 8}, b={"lora_r": 16}, c={"lora_r": 32})
    measured(runs[0], None, OLD)
    measured(runs[1], None, NEW)
    found = {one["name"]: one["cells"] for one in compare_facts.metrics(compare_facts.read_runs(runs))}
    for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L"):
        assert [cell["best"] for cell in found[name]] == [False, True, False]
    assert [cell["shown"] for cell in found["ROUGE-L"]] == ["0.200", "0.438", "-"]
    print_comparison(runs)
    assert "0.438*" in capsys.readouterr().out


def test_runs_are_told_apart_and_listed_by_it(tmp_path, capsys):
    first, second = runs_of(tmp_path, a={}, b={})
    measured(first, OLD, OLD)
    measured(second, OLD, NEW)
    words = [line.split() for line in diff("--run", "a", "b", "--runs-dir", tmp_path).stdout.splitlines()]
    assert ["after:", "ROUGE-L", "0.2", "0.4375"] in words
    assert not [line for line in words if line[:2] == ["before:", "ROUGE-L"]]
    list_runs(tmp_path)
    printed = capsys.readouterr().out
    assert "ROUGE-L" in printed and "0.200 -> 0.438" in printed


def test_a_published_card_has_each_measure_before_and_after(tmp_path):
    run = measured(make_published(tmp_path, make_base(tmp_path)), OLD, NEW)
    assert give(run, tmp_path / "given") == 0
    card = (tmp_path / "given" / "README.md").read_text()
    for line in ("| ROUGE-1 | 0.250 | 0.500 |", "| ROUGE-2 | 0.125 | 0.375 |", "| ROUGE-L | 0.200 | 0.438 |"):
        assert line in card
