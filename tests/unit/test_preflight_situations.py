"""Wrong situations, each with the very words that the preflight says of it; the cluster's answers are constructed.

.venv/bin/python -m pytest tests/unit/test_preflight_situations.py
"""

from pathlib import Path

import pytest
from preflight_cases import good_facts, plan, recipe, rendered
from preflight_situations import SITUATIONS

from scripts.cluster.checks.answers import FAILED, PASSED, Answer
from scripts.cluster.checks.everything import judge


def answers(situation: dict) -> list[Answer]:
    """What the preflight says in a situation."""
    told = dict(situation)
    facts, values, ready = told.pop("facts", {}), told.pop("recipe", {}), told.pop("objects", None)
    runtime = told.pop("runtime", "job")
    objects = ready or rendered(runtime, **told)
    one = plan(runtime)
    one.recipe = recipe(**values)
    return judge(one, objects, good_facts(objects, **facts))


def expected() -> dict[str, str]:
    """The words for each situation."""
    sections = (Path(__file__).with_name("preflight_says.txt")).read_text().split("\n# ")[1:]
    return {name: said.strip("\n") for name, _, said in (section.partition("\n") for section in sections)}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_situation_is_told_in_these_words(name: str):
    said = [str(answer) for answer in answers(SITUATIONS[name]) if answer.status != PASSED]
    assert expected()[name] in said, "\n".join(said)


def test_every_situation_has_its_words_and_a_fix():
    assert list(expected()) == list(SITUATIONS)
    assert len(SITUATIONS) >= 25
    assert [name for name, said in expected().items() if "\n         fix: " not in said] == []


@pytest.mark.parametrize("runtime", ["job", "pytorchjob", "mpijob", "trainjob"])
def test_nothing_fails_where_all_is_well(runtime: str):
    objects = rendered(runtime, queue="finetune")
    said = judge(plan(runtime), objects, good_facts(objects))
    assert len(said) > 12
    assert [str(answer) for answer in said if answer.status == FAILED] == []
