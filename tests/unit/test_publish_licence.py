"""What a licence allows: the table, and what becomes of each kind of entry."""

import re

import pytest

from scripts.publish.licence import judge, legal_files, licence_in, read_table
from scripts.publish.objections import WORDS
from tests.unit.publish_cases import make_base

TABLE = read_table()
FLAGS = {"title", "conditions", "noncommercial", "noderivatives", "name_begins", "notice"}


def test_every_entry_of_the_table_is_of_its_form():
    assert len(TABLE["licences"]) > 50
    used = set()
    for identifier, found in TABLE["licences"].items():
        assert re.fullmatch(r"[a-z0-9.+-]+", identifier)
        assert found["title"] and set(found) <= FLAGS, identifier
        used |= set(found.get("conditions", []))
    assert used == set(TABLE["conditions"])


def test_creative_commons_says_in_its_name_what_the_table_says():
    names = [name for name in TABLE["licences"] if name.startswith("cc-by")]
    assert len(names) > 10
    for name in names:
        found = TABLE["licences"][name]
        assert ("-nc" in name) == bool(found.get("noncommercial")), name
        assert ("-nd" in name) == bool(found.get("noderivatives")), name
        assert ("-sa" in name) == ("same-licence" in found["conditions"]), name


@pytest.mark.parametrize("identifier", sorted(TABLE["licences"]))
@pytest.mark.parametrize("what", ["merged", "adapter", "model"])
def test_nothing_but_no_derivatives_and_a_wrong_name_refuses_a_known_licence(identifier, what):
    found = TABLE["licences"][identifier]
    judged = judge(identifier, what, "Llama-3-mine", ["LICENSE"])
    assert bool(judged.objections) == (bool(found.get("noderivatives")) and what != "adapter")
    refused = judge(identifier, what, "mine", ["LICENSE"]).objections
    assert bool(refused) == bool(judged.objections or found.get("name_begins"))
    assert all(one.word == "licence" for one in refused)


@pytest.mark.parametrize("name", ["Llama-3-x", "llama 3 x", "LLAMA_3.1-x"])
def test_how_a_name_is_spelled_does_not_matter(name):
    assert judge("llama3", "merged", name, []).objections == []


def test_a_licence_that_goes_along_is_missed_where_it_is_not_there():
    assert "wants a copy to go along" in judge("llama2", "merged", "x", ["USE_POLICY.md"]).warnings[0]
    assert judge("llama2", "merged", "x", ["LICENSE.txt"]).warnings == []
    assert judge("apache-2.0", "merged", "x", []).warnings == []


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: [mit, gpl-3.0]\n---\n", None),
        ("---\nlicense: other\nlicense_name: own\n---\n", "own"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlanguage: en\n---\n", None),
        ("---\n: [\n---\n", None),
        ("license: mit", None),
        ("", None),
    ],
)
def test_the_licence_is_read_from_a_models_card(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card, newline="")
    assert licence_in(tmp_path / "README.md") == licence
    assert licence_in(tmp_path / "nothing.md") is None


def test_the_licences_own_files_are_found_and_nothing_else(tmp_path):
    names = ["LICENSE", "LICENCE.txt", "Notice.md", "USE_POLICY.md", "COPYING"]
    base = make_base(tmp_path / "base", **dict.fromkeys([*names, "LICENSE.safetensors", "modeling.py"], "x"))
    assert sorted(legal_files(base, None, tmp_path / "nowhere")) == sorted(names)


def test_an_earlier_directory_goes_first(tmp_path):
    first, second = (make_base(tmp_path / name, LICENSE=name) for name in ("first", "second"))
    assert legal_files(first, second)["LICENSE"] == first / "LICENSE"


def test_every_word_of_ALLOW_stands_in_the_makefile_and_in_the_docs():
    from tests.makefile import MAKEFILE, ROOT

    words = r"^## what make publish overrides[^:]*: ([a-z, ]+); make eval: .*\nALLOW \?="
    line = re.search(words, MAKEFILE, re.MULTILINE)
    assert line[1].split(", ") == list(WORDS)
    page = (ROOT / "docs" / "publishing.md").read_text()
    assert all(f"| `{word}` |" in page for word in WORDS)
