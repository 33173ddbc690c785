"""The rules of the house that a machine can check: generated files, README, decisions, Python, addresses.

.venv/bin/python -m pytest tests/unit/test_house.py
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.parameters import TARGET, page
from tests.makefile import targets, user_variables
from train.recipe import schema

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TREE = (ROOT / "docs" / "tree.md").read_text()
VARIABLES = (ROOT / "docs" / "variables.md").read_text()
PYTHON_FILES = sorted(path for folder in ("train", "scripts", "demo") for path in (ROOT / folder).rglob("*.py"))
RUNBOOKS = sorted(set((ROOT / "docs" / "runbooks").glob("*.md")) - {ROOT / "docs" / "runbooks" / "README.md"})
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def committed_files() -> list[Path]:
    """What is or would be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are committed is not known")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# ---- what is generated ----


def test_the_table_of_parameters_is_up_to_date():
    assert TARGET.read_text() == page(schema()), "make parameters"


def test_every_parameter_is_in_the_table():
    for key in schema()["properties"]:
        assert f"\n| `{key}` |" in TARGET.read_text()


def test_the_demos_rows_are_what_their_script_writes(tmp_path):
    subprocess.run([sys.executable, "-m", "demo.make_data", "--output", tmp_path], cwd=ROOT, check=True)
    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (ROOT / "demo" / "data" / name).read_bytes(), "make demo-data"


def test_the_schema_of_recipes_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


# ---- README, decisions, continuous integration ----


def test_readme_names_only_targets_that_exist():
    named = set(re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", README + TREE + VARIABLES, re.MULTILINE))
    assert {"run", "test"} <= named <= set(targets())


def test_every_variable_of_make_is_explained():
    explained = re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", VARIABLES, re.MULTILINE)
    assert explained == user_variables()


def test_readme_has_a_line_for_every_use_case():
    overlays = sorted(path.parent.name for path in (ROOT / "kustomize" / "overlays").glob("*/train.yaml"))
    assert overlays
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)) == overlays


def paths_of_tree() -> list[str]:
    """The paths in docs/tree.md; an indented one lies in the last directory that is indented less."""
    paths: list[str] = []
    above: dict[int, str] = {}  # indentation: path of the directory
    for indent, name in re.findall(r"^    ( {0,4})(\S+)  ", TREE, re.MULTILINE):
        above = {depth: path for depth, path in above.items() if depth < len(indent)}
        paths.append(above[max(above)] + name if above else name)
        if name.endswith("/"):
            above[len(indent)] = paths[-1]
    assert len(paths) > 20
    return paths


def test_every_path_in_the_tree_exists():
    assert [path for path in paths_of_tree() if not (ROOT / path).exists()] == []


def test_every_program_has_a_line_in_the_tree():
    programs = [path for path in PYTHON_FILES if '__name__ == "__main__"' in path.read_text()]
    assert programs
    assert [path for path in programs if str(path.relative_to(ROOT)) not in paths_of_tree()] == []


def test_links_in_the_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document}: {link}"


def test_a_runbook_is_short_and_says_meaning_impact_diagnosis_and_mitigation():
    assert RUNBOOKS
    for path in RUNBOOKS:
        text = path.read_text()
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"], path
        assert text.count("\n") < 40, path
        assert f"]({path.name})" in (path.parent / "README.md").read_text()


def test_every_runbook_is_named_by_a_message_and_every_name_is_a_runbook():
    places = [*PYTHON_FILES, *(ROOT / "ansible").rglob("*.py"), *(ROOT / "k8s").rglob("*.yaml")]
    texts = [path.read_text() for path in places]
    named = {name for text in texts for name in re.findall(r"docs/runbooks/([a-z0-9-]+)\.md", text)}
    named |= {name for text in texts for name in re.findall(r"""\bsee\(["']([a-z0-9-]+)["']\)""", text)}
    assert named == {path.stem for path in RUNBOOKS}


def test_decisions_are_numbered_and_say_context_decision_and_consequences():
    assert DECISIONS
    for number, path in enumerate(DECISIONS, 1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", path.name)
        headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"]


def test_continuous_integration_calls_the_three_tests_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    expected = ["make test", "make test-image", "make test-cluster"]
    assert re.findall(r"^timed (make .+)$", script.read_text(), re.MULTILINE) == expected


def test_the_changelog_has_a_place_for_what_is_not_released():
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_hooks_call_tools_that_the_lock_installs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert all(repository["repo"] == "local" for repository in hooks)
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


# ---- Python ----


def test_there_is_python_to_check():
    assert len(PYTHON_FILES) > 20


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_says_what_it_is_and_a_program_how_to_start_it(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    if '__name__ == "__main__"' in text:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert f"python -m {module}" in docstring or f"make {path.stem}" in docstring or "train.launch" in docstring


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_error_is_caught_without_a_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
            passed_on = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            assert passed_on or getattr(node.type, "id", "") not in ("Exception", "BaseException")


# ---- addresses ----

# In pieces, so that this file does not hold them itself.
ADDRESSES = ["/" + "work/", "/var/" + "tmp", "/" + "root/", "/opt/" + "wheels", "/opt/" + "pypi", "py" + "pi.org",
             "python" + "hosted", "download." + "pytorch", "registry." + "npmjs", "deb.debian" + ".org"]  # fmt: skip


def test_no_file_holds_a_path_of_one_machine_or_the_address_of_a_package_index():
    files = committed_files()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}: {address}"
        for path in files
        for address in ADDRESSES
        if address.encode() in path.read_bytes()
    ]
    assert found == []
