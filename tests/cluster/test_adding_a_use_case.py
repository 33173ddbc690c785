"""docs/adding-a-use-case.md to its end on a cluster: every command as it stands, and what it learned is here.

.venv/bin/python -m pytest tests/cluster/test_adding_a_use_case.py
"""

import json
from types import SimpleNamespace

import pytest

from tests.cluster.teams import end_team, make_team
from tests.page import ROOT, blocks, copy_of_checkout, follow, type_in

pytestmark = pytest.mark.cluster
PAGE = ROOT / "docs" / "adding-a-use-case.md"
NAMESPACE = "ft-legal"


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """The page, lived through in a namespace of its own."""
    checkout = copy_of_checkout(tmp_path_factory.mktemp("checkout"))
    make_team(NAMESPACE)
    try:
        follow(PAGE, checkout)
        (commands,) = [text for mark, text in blocks(PAGE, "sh") if mark == "cluster"]
        for line in commands.splitlines():
            type_in(checkout, line, NAMESPACE=NAMESPACE)
        (adapter,) = checkout.glob("runs/legal-*/adapter")  # make check-data leaves a run without one
        yield SimpleNamespace(run=adapter.parent, record=json.loads((adapter.parent / "run.json").read_text()))
    finally:
        end_team(NAMESPACE)


def test_a_copied_template_trains_on_a_cluster_and_its_adapter_comes_home(lived):
    assert (lived.run / "adapter" / "adapter_model.safetensors").stat().st_size > 1000
    assert lived.record["status"] == "complete"


def test_the_run_kept_the_values_of_the_three_files(lived):
    assert lived.record["placement"]["nodes"] == 1
    assert "max_steps: 10" in (lived.run / "train.yaml").read_text()
