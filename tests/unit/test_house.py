"""The rules of the house that a machine can check: Makefile, README, locks, generated files, decisions, addresses.

.venv/bin/python -m pytest tests/unit/test_house.py
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.lock import without_torch
from scripts.parameters import TARGET, page
from train.recipe import schema

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
PYTHON_FILES = sorted(path for folder in ("train", "scripts", "demo") for path in (ROOT / folder).glob("*.py"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def committed_files() -> list[Path]:
    """What is or would be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are committed is not known")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run make as a person would, without what a make around these tests has put into the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    for name in user_variables():
        environment.pop(name, None)
    words = [*arguments, *(f"{name}={value}" for name, value in variables.items())]
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def targets() -> dict[str, str]:
    """Every target that a person types, and its rule's text."""
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)(.*\n(?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert rules
    return dict(rules)


def user_variables() -> list[str]:
    return re.findall(r"^([A-Z][A-Z0-9_]*) \?=", MAKEFILE, re.MULTILINE)


# ---- Makefile ----


def test_the_makefile_has_the_strict_header():
    for line in (
        "SHELL := bash",
        ".SHELLFLAGS := -euo pipefail -c",
        "MAKEFLAGS += --warn-undefined-variables --no-builtin-rules",
        ".DELETE_ON_ERROR:",
    ):
        assert f"{line}\n" in MAKEFILE


def test_every_target_is_phony_and_has_a_sentence():
    for name, rule in targets().items():
        assert re.search(rf"^\.PHONY: {name}$", MAKEFILE, re.MULTILINE), name
        assert re.search(r"## .+\.$", rule.split("\n")[0]), name


def test_no_recipe_is_longer_than_three_lines():
    for rule in re.findall(r"^\S[^\n]*:[^\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE):
        assert rule.count("\n") <= 3, rule


def test_make_alone_prints_every_target_in_its_group_and_every_variable():
    printed = make().stdout
    groups = re.findall(r"^##@ (.+)$", MAKEFILE, re.MULTILINE)
    assert groups
    for text in [*groups, *(f"\n  {name} " for name in targets()), *(f"\n  {name} " for name in user_variables())]:
        assert text in printed


def test_every_variable_is_explained_above_its_line_and_exported():
    assert user_variables()
    exported = re.search(r"^export (.+)$", MAKEFILE, re.MULTILINE)[1].split()
    for name in user_variables():
        assert re.search(rf"^## .+\n{name} \?=", MAKEFILE, re.MULTILINE), name
        assert name in exported


def test_make_uses_no_undefined_variable():
    for name in targets():
        assert "undefined variable" not in make("--dry-run", name).stderr


@pytest.fixture
def recorder(tmp_path) -> Path:
    """A stand-in for Python that prints the arguments it is given."""
    program = tmp_path / "recorder"
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    return program


def arguments_of(recorder: Path, target: str, **variables: str) -> list[str]:
    result = make(target, BASE="", PYTHON=str(recorder), **variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_make_run_passes_the_demo_and_nothing_else(recorder):
    assert arguments_of(recorder, "run") == ["-m", "scripts.run", "--overlay", "demo", "--runs-dir", "runs"]


def test_values_with_spaces_and_quotes_arrive_whole_and_settings_are_split(recorder):
    values = {"MODEL": "my model's", "DATA": 'a "b" $HOME.json', "VALIDATION_DATA": "c d.json", "RUN": "; false"}
    written = {name: value.replace("$", "$$") for name, value in values.items()}
    given = arguments_of(recorder, "run", SET="lora_r=16 lora_target_modules=[q_proj,v_proj]", NPROC="2", **written)
    flags = dict(zip(given[2:-3:2], given[3:-3:2], strict=True))
    assert flags["--model"] == values["MODEL"]
    assert flags["--data"] == values["DATA"]
    assert flags["--validation-data"] == values["VALIDATION_DATA"]
    assert flags["--run"] == values["RUN"]
    assert flags["--nproc"] == "2"
    assert given[-3:] == ["--set", "lora_r=16", "lora_target_modules=[q_proj,v_proj]"]


def test_a_setting_is_not_taken_for_a_pattern_of_file_names(recorder):
    assert "rank_pattern={*:4}" in arguments_of(recorder, "run", SET="rank_pattern={*:4} requirements*=1")
    assert "requirements*=1" in arguments_of(recorder, "run", SET="requirements*=1")


def test_make_check_data_is_the_chain_up_to_its_first_stage(recorder):
    assert arguments_of(recorder, "check-data", OVERLAY="medical")[-2:] == ["--until", "check-data"]


@pytest.mark.parametrize(("yes", "flags"), [("", []), ("1", ["--yes"]), ("0", [])])
def test_only_yes_1_deletes_without_a_question(recorder, yes, flags):
    given = arguments_of(recorder, "delete-run", RUN="old run", YES=yes)
    assert given == ["-m", "scripts.runs", "delete", "old run", *flags, "--runs-dir", "runs"]


def test_make_report_asks_for_the_run(recorder):
    result = make("report", BASE="", PYTHON=str(recorder))
    assert result.returncode == 2
    assert "RUN=name" in result.stderr


# ---- the virtual environment ----


def install(tmp_path: Path, what: str = "base", **environment: str) -> subprocess.CompletedProcess:
    """Run scripts/venv.sh in a directory of its own, up to what is wrong there."""
    for name in ("requirements-torch.txt", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    given = {"PATH": os.environ["PATH"], "PYTHON3": "python3", "TORCH_INDEX": "", "WHEELS": ""} | environment
    command = ["bash", str(ROOT / "scripts" / "venv.sh"), what]
    return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)


def fake_python(tmp_path: Path, body: str) -> str:
    program = tmp_path / "fake-python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_a_missing_python_is_named_with_the_way_to_get_it(tmp_path):
    result = install(tmp_path, PYTHON3="python3-of-nowhere")
    assert result.returncode == 2
    assert "there is no python3-of-nowhere" in result.stderr
    assert "apt-get install python3 python3-venv" in result.stderr


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = fake_python(tmp_path, 'case "$1" in --version) echo Python 3.8.1;; *) exit 1;; esac')
    result = install(tmp_path, PYTHON3=old)
    assert result.returncode == 2
    assert "Python 3.8.1 is too old: 3.11 or later" in result.stderr


def test_a_python_without_the_venv_module_is_named(tmp_path):
    bare = fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    result = install(tmp_path, PYTHON3=bare)
    assert result.returncode == 2
    assert "apt-get install python3-venv" in result.stderr


def test_a_wheel_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    Path(fake_python(tmp_path, "exit 0")).rename(tmp_path / ".venv" / "bin" / "python")
    (tmp_path / ".venv" / ".made").touch()
    result = install(tmp_path, WHEELS="no/wheels")
    assert result.returncode == 2
    assert "WHEELS: no/wheels is no directory" in result.stderr


def test_fetching_wheels_asks_for_the_folder(tmp_path):
    result = install(tmp_path, "download")
    assert result.returncode == 2
    assert "make wheels WHEELS=folder" in result.stderr


# ---- locks ----


def locked(name: str) -> dict[str, str]:
    entries = re.findall(r"^([a-z0-9][\w.-]*)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", lock(name), re.M)
    assert len(entries) == len(re.findall(r"^[a-z0-9].*==", lock(name), re.MULTILINE)), "an entry has no hash"
    return {package: version for package, version, _ in entries}


def lock(name: str) -> str:
    return (ROOT / name).read_text()


def wanted(name: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*)", lock(name), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_package_asked_for_is_locked(name):
    assert wanted(f"{name}.in")
    assert wanted(f"{name}.in") <= set(locked(f"{name}.txt"))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_holds_no_torch_and_no_address(name):
    assert not [package for package in locked(name) if re.match(r"torch$|triton$|nvidia-|cuda-", package)]
    assert not re.search(r"://|--(index|extra|find|trusted)", lock(name))


def test_both_locks_agree_on_what_they_share():
    base, dev = locked("requirements.txt"), locked("requirements-dev.txt")
    assert {name: dev[name] for name in base.keys() & dev.keys()} == {n: base[n] for n in base.keys() & dev.keys()}


def test_dateutil_is_one_that_botocore_takes():
    assert int(locked("requirements.txt")["python-dateutil"].split(".")[0]) < 3


def test_locking_drops_torch_and_its_companions_with_their_hashes():
    kept = "sympy==1 \\\n    --hash=a\n    # via torch\n"
    text = f"{kept}torch==2 \\\n    --hash=b\n    # via peft\nnvidia-nccl-cu13==3\ntqdm==4\n"
    assert without_torch(text) == f"{kept}tqdm==4\n"


# ---- what is generated ----


def test_the_table_of_parameters_is_up_to_date():
    assert TARGET.read_text() == page(schema()), "make parameters"


def test_every_parameter_is_in_the_table():
    for key in schema()["properties"]:
        assert f"\n| `{key}` |" in TARGET.read_text()


def test_the_schema_of_recipes_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


# ---- README, decisions, continuous integration ----


def test_readme_names_only_targets_that_exist():
    named = set(re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", README, re.MULTILINE))
    assert {"run", "test"} <= named <= set(targets())


def test_readme_explains_every_variable_of_make():
    explained = re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", README, re.MULTILINE)
    assert explained == user_variables()


def test_readme_has_a_line_for_every_use_case():
    overlays = sorted(path.parent.name for path in (ROOT / "kustomize" / "overlays").glob("*/train.yaml"))
    assert overlays
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)) == overlays


def tree_of_readme() -> list[str]:
    """The paths in README's tree; an indented one lies in the directory above it."""
    block = README.split("## The tree")[1].split("\n[")[0]
    paths, directory = [], ""
    for indent, name in re.findall(r"^    ( *)(\S+)  ", block, re.MULTILINE):
        directory = directory if indent else name if name.endswith("/") else ""
        paths.append(directory + name if indent else name)
    assert len(paths) > 20
    return paths


def test_every_path_in_readmes_tree_exists():
    assert [path for path in tree_of_readme() if not (ROOT / path).exists()] == []


def test_every_program_has_a_line_in_readmes_tree():
    programs = [path for path in PYTHON_FILES if '__name__ == "__main__"' in path.read_text()]
    assert programs
    assert [path for path in programs if str(path.relative_to(ROOT)) not in tree_of_readme()] == []


def test_links_in_the_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document}: {link}"


def test_decisions_are_numbered_and_say_context_decision_and_consequences():
    assert DECISIONS
    for number, path in enumerate(DECISIONS, 1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", path.name)
        headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"]


def test_continuous_integration_calls_the_two_tests_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^timed (.+)$", script.read_text(), re.MULTILINE) == ["make test", "make test-faults"]


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
        module = f"{path.parent.name}.{path.stem}"
        assert f"python -m {module}" in docstring or f"make {path.stem}" in docstring or "train.launch" in docstring


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_error_is_caught_without_a_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
            cleans_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert cleans_up or getattr(node.type, "id", "") not in ("Exception", "BaseException")


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
