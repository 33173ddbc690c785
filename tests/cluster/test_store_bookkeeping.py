"""A model and rows by their names on a cluster's store: listed, trained on, kept for a run, verified, removed.

.venv/bin/python -m pytest tests/cluster/test_store_bookkeeping.py -m cluster
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.cluster.names import DATA_ACCESS
from tests.cluster.runs import LASTING, ROOT, deploy, kubectl, make, read, rows_as, team, wait_for_end, wait_for_step
from tests.stores import put

pytestmark = [pytest.mark.cluster, pytest.mark.operations]
SPACE = "ft-store"
MODEL, ROWS = "tests/tiny", "tests/rows"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """This machine's store: the demo's model and rows under names of a hub."""
    store = tmp_path_factory.mktemp("local") / "store"
    files = {path.name: path.read_bytes() for path in (ROOT / "demo/model").iterdir() if path.is_file()}
    put(store, "model", MODEL, "a" * 40, files)
    rows = rows_as({"instruction": "instruction", "input": "input", "output": "output"})
    put(store, "dataset", ROWS, "b" * 40, {"train.jsonl": rows})
    return store


@pytest.fixture(scope="module")
def space(cluster, local) -> Iterator[str]:
    """A namespace on whose store both have been delivered."""
    with team(SPACE):
        for word in (f"MODEL={MODEL}", f"DATA={ROWS}"):
            make(SPACE, "deliver", word, "TO=cluster", f"STORE={local}")
        yield SPACE


@pytest.fixture(scope="module")
def run(space) -> str:
    """A run on them, by name alone, that has begun to train."""
    recipe = LASTING | {"validation_size": 24, "exact_match": ""}
    name = deploy(space, "demo", recipe, {}, f"MODEL={MODEL}", f"DATA={ROWS}")
    wait_for_step(space, name, 1)
    return name


def listed(space: str) -> dict[str, dict]:
    """What `make models` says, by name."""
    found = json.loads(make(space, "models", "ON=cluster", "JSON=1"))
    return {entry["name"]: entry for entry in found["artifacts"]}


def inside(space: str, script: str) -> str:
    """What a shell in the data-access pod prints."""
    return kubectl(space, "exec", f"deploy/{DATA_ACCESS}", "--", "sh", "-c", script)


def test_a_run_keeps_its_model_and_rows_from_its_first_moment_and_records_what_they_were(space, run):
    assert [one["name"] for one in listed(space)[MODEL]["runs"]] == [run]
    for word in ("remove-model", f"MODEL={MODEL}"), ("remove-data", f"DATA={ROWS}"):
        said = make(space, *word, "ON=cluster", "YES=1", "FORCE=1", code=2)
        # A node tells that its pod runs a moment after the pod has begun.
        assert re.search(rf"is used by runs that are not over: {run} \((running|pending)\)", said), said
    wait_for_end(space, run)
    record = json.loads(read(space, run, "run.json"))
    assert record["model_path"] == f"/store/models/{MODEL}/{'a' * 40}"
    assert record["artifacts"]["model"]["revision"] == "a" * 40
    assert record["artifacts"]["dataset"]["revision"] == "b" * 40
    assert record["artifacts"]["model"]["licence"] == "apache-2.0"
    assert listed(space)[ROWS]["runs"] == [{"name": run, "state": "complete"}]
    said = make(space, "remove-model", f"MODEL={MODEL}", "ON=cluster", "YES=1", code=2)
    assert f"was used by finished runs: {run}" in said


def test_damage_is_found_and_set_aside_no_run_starts_on_it_and_it_can_be_mended(space, run, local):
    wait_for_end(space, run)
    said = make(space, "verify-model", "ON=cluster")
    assert f"{MODEL} {'a' * 12}: " in said and "as fetched" in said
    weights = f"/store/models/{MODEL}/{'a' * 40}/model.safetensors"
    inside(space, f"printf '?' | dd of={weights} bs=1 seek=5000 conv=notrunc 2>/dev/null")
    said = make(space, "verify-model", "ON=cluster", f"MODEL={MODEL}", code=2)  # make's own code for a failed recipe
    assert "model.safetensors is not what was fetched (sha256 differs)" in said and "mend it: " in said
    assert "DAMAGED" in make(space, "models", "ON=cluster")
    said = make(space, "preflight", "OVERLAY=demo", f"MODEL={MODEL}", f"DATA={ROWS}", code=2)
    assert "has not the sizes that were fetched: model.safetensors" in said
    make(space, "deliver", f"MODEL={MODEL}", "TO=cluster", f"STORE={local}")
    assert "as fetched" in make(space, "verify-model", "ON=cluster", f"MODEL={MODEL}")


def test_removed_is_gone_with_its_name(space, run):
    wait_for_end(space, run)
    said = make(space, "remove-model", f"MODEL={MODEL}", "ON=cluster", "YES=1", "FORCE=1")
    assert f"removed model {MODEL} {'a' * 12} (" in said and " free again" in said
    assert set(listed(space)) == {ROWS}
    assert inside(space, "ls -A /store/models").split() in ([], [".incoming"])
