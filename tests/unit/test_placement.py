"""The reader of placements: every mistake in words, values laid over, and what is written reads back the same.

.venv/bin/python -m pytest tests/unit/test_placement.py
"""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.cluster.placement import (
    apply_places,
    check_placement,
    dump_placement,
    read_placement,
    schema,
    spec_schema,
)
from scripts.cluster.placement_words import leaves
from scripts.cluster.serve_plan import rules
from scripts.placement_table import TARGET, page
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
INVALID = sorted((FIXTURES / "invalid" / "placements").glob("*.yaml"))
VALID = sorted((FIXTURES / "valid" / "placements").glob("*.yaml"))


def listed_in(path: Path) -> tuple[list[str], str]:
    """The components and the runtime that a fixture is checked with: its line `# listed: …`."""
    line = re.search(r"^# listed: (.+)$", path.read_text(), re.MULTILINE)
    names = line[1].split() if line else ["store-pvc"]
    runtime = next((name.removeprefix("runtime-") for name in names if name.startswith("runtime-")), "job")
    return [name for name in names if not name.startswith("runtime-")], runtime


def complaints_about(path: Path) -> list[str]:
    try:
        spec, lines = read_placement(path)
    except InputError as error:
        return error.problems
    return check_placement(spec, *listed_in(path), path, lines)


def test_there_are_many_wrong_placements_and_some_right_ones():
    assert len(INVALID) >= 60
    assert len(VALID) >= 5


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_wrong_placement_is_refused_in_the_words_on_its_first_line(path):
    first = path.read_text().split("\n")[0]
    assert first.startswith("# expects: ")
    message = "\n".join(complaints_about(path))
    for words in first.removeprefix("# expects: ").split(" | "):
        assert words.strip() in message


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_refusal_names_the_file_once_and_a_fix(path):
    problems = complaints_about(path)
    assert len(set(problems)) == len(problems)
    for problem in problems:
        place, fix = problem.split("\n")
        assert place.startswith(str(path))
        assert re.match(r"  fix: \S", fix)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_right_placement_is_accepted(path):
    assert complaints_about(path) == []


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_placement_that_is_written_reads_back_the_same(path, tmp_path):
    spec, _ = read_placement(path)
    copy = tmp_path / "cluster.yaml"
    copy.write_text(dump_placement(spec))
    assert read_placement(copy)[0] == spec
    assert yaml.safe_load(copy.read_text()) == yaml.safe_load(path.read_text())


def test_the_right_placements_together_use_every_key():
    used = set()
    for path in VALID:
        used |= set(read_placement(path)[0])
    assert used == set(spec_schema()["properties"])


def test_a_mistake_is_told_with_its_line_also_deep_inside():
    (problem,) = complaints_about(FIXTURES / "invalid" / "placements" / "no-quantity.yaml")
    assert "no-quantity.yaml:14: resources.limits.memory" in problem


def test_a_missing_key_is_told_with_the_line_of_the_one_above():
    (problem,) = complaints_about(FIXTURES / "invalid" / "placements" / "no-memory-limit.yaml")
    assert "no-memory-limit.yaml:14: resources.limits.memory: is missing" in problem


def test_a_password_in_a_proxys_address_is_not_repeated():
    assert "hush" not in str(complaints_about(FIXTURES / "invalid" / "placements" / "proxy-with-a-password.yaml"))


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    assert "there is no such file" in complaints_about_read(tmp_path / "no-such.yaml")
    assert "cannot be read" in complaints_about_read(tmp_path)


def complaints_about_read(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_placement(path)
    return str(error.value)


def test_the_schema_is_a_valid_one_and_describes_every_key_in_a_sentence():
    jsonschema.Draft202012Validator.check_schema(schema())
    described = list(leaves(spec_schema()))
    assert len(described) > 20
    for key, spec, _ in described:
        assert re.fullmatch(r"[A-Z].+\.", spec["description"]), key
    for key, spec in spec_schema()["properties"].items():
        assert spec["x-group"], key
        assert (spec["x-group"] == "Components") == ("x-components" in spec), key
        assert ("x-components" in spec) == (key not in spec_schema()["required"]), key


def test_components_named_by_the_schema_exist():
    names = {name for spec in spec_schema()["properties"].values() for name in spec.get("x-components", [])}
    assert names
    assert [name for name in names if not (ROOT / "kustomize" / "components" / name).is_dir()] == []


def test_a_value_that_kustomize_copies_is_one_that_the_schema_knows():
    known = {key for key, _, _ in leaves(spec_schema())} | set(rules()["properties"])  # and of what is served
    copied = set()
    for path in sorted((ROOT / "kustomize").rglob("replacements.yaml")):
        sources = [one["source"] for one in yaml.safe_load(path.read_text())]
        copied |= {one["fieldPath"].removeprefix("spec.") for one in sources if one["kind"] == "RunParameters"}
    assert len(copied) > 15
    unknown = [key for key in copied if not any(key == name or name.startswith(f"{key}.") for name in known)]
    assert unknown == []


def test_the_table_of_placement_keys_is_up_to_date():
    assert TARGET.read_text() == page(spec_schema()), "make parameters"


# ---- PLACE on the make line ----


def test_places_reach_into_sections_and_make_them():
    spec = {"nodes": 2, "resources": {"limits": {"cpu": "4"}}}
    laid = apply_places(spec, ["nodes=1", "resources.limits.cpu=2", "resources.requests.memory=1Gi"])
    assert laid == {"nodes": 1, "resources": {"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}}}
    assert spec == {"nodes": 2, "resources": {"limits": {"cpu": "4"}}}


def test_names_with_dots_of_their_own_stay_whole():
    laid = apply_places({}, ["resources.limits.nvidia.com/gpu=8", "nodeSelector.example.com/zone=north"])
    assert laid == {"resources": {"limits": {"nvidia.com/gpu": "8"}}, "nodeSelector": {"example.com/zone": "north"}}


def test_text_stays_text_and_lists_become_lists():
    laid = apply_places({}, ["nodeSelector.disk=true", "deviceGroups=[44, 109]", "proxy.except=.svc", "restarts=0"])
    assert laid == {
        "nodeSelector": {"disk": "true"},
        "deviceGroups": [44, 109],
        "proxy": {"except": ".svc"},
        "restarts": 0,
    }


def test_an_empty_place_takes_the_key_away():
    assert apply_places({"queue": "finetune", "nodes": 1}, ["queue="]) == {"nodes": 1}


def test_an_unknown_place_is_told_by_the_check():
    spec, _ = read_placement(VALID[0])
    problems = check_placement(apply_places(spec, ["resources.limit.cpu=2", "node=1"]), ["store-pvc"], "job", "PLACE")
    assert any("resources.limit: is no key" in problem for problem in problems)
    assert any("write nodes" in problem for problem in problems)


@pytest.mark.parametrize("place", ["nodes", "=1", "nodes=[1"])
def test_a_place_that_cannot_be_read_is_refused(place):
    with pytest.raises(InputError, match="PLACE"):
        apply_places({}, [place])
