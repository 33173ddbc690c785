"""docs/adding-a-use-case.md does what it says, as far as no cluster is needed.

.venv/bin/python -m pytest tests/manifests/test_adding_a_use_case.py
"""

import shutil

import pytest
import yaml

from tests.manifests.matrix import kustomize
from tests.manifests.rules import problems_of
from tests.page import ROOT, blocks, copy_of_checkout, follow

PAGE = ROOT / "docs" / "adding-a-use-case.md"
pytestmark = [
    pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: which files to copy is not known"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_of_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def printed(checkout):
    return follow(PAGE, checkout)


def test_the_page_copies_the_template_edits_its_three_files_and_nothing_else():
    commands = [line for mark, text in blocks(PAGE, "sh") for line in text.splitlines()]
    assert commands[0] == "cp -r kustomize/overlays/template kustomize/overlays/legal"
    edited = {name for name, _ in blocks(PAGE, "yaml")}
    template = {path.name for path in (ROOT / "kustomize" / "overlays" / "template").iterdir()}
    assert edited == {f"kustomize/overlays/legal/{name}" for name in template}
    assert all(line.startswith("make ") for line in commands[1:])


def test_its_rows_pass_the_check(printed):
    assert "kustomize" not in printed["make check-data OVERLAY=legal"]
    assert "rows" in printed["make check-data OVERLAY=legal"]


def test_what_it_renders_breaks_no_rule(printed):
    objects = list(yaml.safe_load_all(printed["make render OVERLAY=legal"]))
    for one in objects:
        assert one["metadata"]["labels"]["tunefleet.io/overlay"] == "legal"
    assert problems_of(objects) == []


def test_kubectl_alone_applies_the_same_use_case(checkout, printed):
    assert problems_of(kustomize(checkout / "kustomize" / "overlays" / "legal")) == []
