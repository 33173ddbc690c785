"""make models, verify-model, remove-model: what lies in the store, who uses it, what is damaged, what may go.

.venv/bin/python -m pytest tests/unit/test_stored_artifacts.py
"""

import argparse
import fcntl
import json
import os
import sys
from pathlib import Path

import pytest

from scripts import artifacts
from scripts.cluster import cluster_artifacts, store_client
from scripts.cluster.cluster_artifacts import There, mark, names
from scripts.cluster.jobs import Job
from scripts.cluster.kubectl import Cluster
from scripts.fetch import hub
from scripts.fetch.choose import Choice, File
from tests.stores import FIRST, SECOND, put
from train import stored
from train.errors import InputError
from train.files import hash_file
from train.in_store import describe, wrong_sizes

WEIGHTS = bytes(range(256)) * 20_000  # 5 MB
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "more/notes.txt": b"text"}


@pytest.fixture
def world(tmp_path) -> Path:
    """A store with a model in two revisions, a data set, one model by hand; and a directory for runs."""
    store = tmp_path / "store"
    put(store, "model", "org/name", FIRST, FILES)
    put(store, "model", "org/name", SECOND, FILES, reference="v2")
    put(store, "dataset", "rows", "sha256-0123456789abcdef", {"rows.jsonl": b'{"a": 1}\n'})
    (store / "models" / "base").mkdir()
    (store / "models" / "base" / "config.json").write_text("{}")
    (tmp_path / "runs").mkdir()
    return tmp_path


def make_run(world: Path, name: str, model: Path, finished: bool = True, **record) -> Path:
    """A run that used a model."""
    run = world / "runs" / name
    run.mkdir()
    known = {"model": describe(model)} if (model / stored.MANIFEST).exists() else {}
    (run / "run.json").write_text(json.dumps({"model_path": str(model), "artifacts": known, **record}))
    for file in ("after.json", "report.html") if finished else ():
        (run / file).write_text("{}")
    return run


def near(world: Path, monkeypatch) -> There:
    """The same store as a cluster's, its program run here as the pod would; nobody runs anything on the cluster."""
    monkeypatch.setattr(cluster_artifacts, "find_runs", lambda cluster: [])
    there = There(Cluster())
    place = ["--store", str(world / "store"), "--runs", str(world / "runs")]
    monkeypatch.setattr(there.store, "command", lambda *words: [sys.executable, "-I", "-", *words, *place])
    return there


@pytest.fixture(params=["here", "there"])
def place(request, world, monkeypatch):
    """The store of this machine, and a cluster's."""
    here = artifacts.Here(world / "store", world / "runs")
    return here if request.param == "here" else near(world, monkeypatch)


def ask(place, monkeypatch, *words: str) -> int:
    """Run the program's own answer with the words of a command line."""
    parser = argparse.ArgumentParser()
    artifacts.add_options(parser)
    return artifacts.answer(place, parser.parse_args(words))


def refused(place, monkeypatch, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        ask(place, monkeypatch, *words)
    assert "\n  fix: " in str(caught.value)
    return str(caught.value)


def remove(*words: str) -> tuple[str, ...]:
    return ("remove", "--kind", "model", "--yes", *words)


# ---- list ----


def test_everything_is_listed_with_its_runs_and_what_is_half_fetched(place, world, monkeypatch, capsys):
    model = world / "store" / "models" / "org" / "name" / FIRST
    make_run(world, "medical-1", model)
    make_run(world, "medical-2", model, finished=False)
    make_run(world, "by-path", world / "store" / "models" / "base")
    incoming = stored.Artifact("model", "org/half", FIRST).incoming(world / "store")
    incoming.mkdir(parents=True)
    (incoming / "model.safetensors").write_bytes(WEIGHTS[:1_000_000])
    assert ask(place, monkeypatch, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    of = {tuple(line.split()[1:3]): line for line in lines[1:]}
    first = of[("org/name", FIRST[:12])]
    assert "5.1 MB  apache-2.0" in first and first.endswith("medical-1, medical-2 (unfinished)")
    assert of[("org/name", SECOND[:12])].endswith("no run")
    assert "by hand" in of[("base", "-")] and of[("base", "-")].endswith("by-path")
    assert "1.0 MB  half fetched by nobody now" in of[("org/half", FIRST[:12])]
    assert of[("rows", "sha256-01234")].startswith("dataset") and "free" in lines[-1]


def test_the_list_as_json_names_the_references(place, monkeypatch, capsys):
    assert ask(place, monkeypatch, "list", "--json") == 0
    found = {one["path"]: one for one in json.loads(capsys.readouterr().out)["artifacts"]}
    assert found[f"models/org/name/{FIRST}"]["references"] == ["main"]
    assert found[f"models/org/name/{SECOND}"]["references"] == ["v2"]


def test_who_fetches_is_named(place, world, monkeypatch, capsys):
    artifact = stored.Artifact("dataset", "org/rows", FIRST)
    with stored.lock(artifact, world / "store"):
        artifact.incoming(world / "store").mkdir()
        ask(place, monkeypatch, "list")
        assert f"being fetched by process {os.getpid()} on " in capsys.readouterr().out
        said = refused(place, monkeypatch, "remove", "--kind", "dataset", "--name", "org/rows", "--yes")
        assert f"DATA: org/rows: is being fetched by process {os.getpid()}" in said
        assert artifact.incoming(world / "store").exists()


def test_an_empty_store_says_how_to_fill_it(tmp_path, monkeypatch, capsys):
    assert ask(artifacts.Here(tmp_path / "none", tmp_path), monkeypatch, "list") == 0
    assert "nothing yet; make fetch-model MODEL=" in capsys.readouterr().out


# ---- verify ----


def test_what_is_whole_passes(place, monkeypatch, capsys):
    assert ask(place, monkeypatch, "verify", "--kind", "model") == 0
    said = capsys.readouterr().out
    assert said.count("3 files, 5.1 MB, as fetched") == 2
    assert "base: brought by hand, without a manifest" in said
    assert ask(place, monkeypatch, "verify", "--kind", "dataset", "--name", "rows") == 0


@pytest.mark.parametrize("damage", ["a byte", "cut", "gone"])
def test_damage_is_told_by_file_set_aside_and_mended_by_the_next_fetch(place, world, monkeypatch, capsys, damage):
    directory = world / "store" / "models" / "org" / "name" / SECOND
    weights = directory / "model.safetensors"
    spoilt = WEIGHTS[:99] + b"?" + WEIGHTS[100:]
    weights.unlink() if damage == "gone" else weights.write_bytes(spoilt if damage == "a byte" else WEIGHTS[:-1])
    words = ("verify", "--kind", "model", "--name", "org/name", "--revision", "bbbbbb")
    assert ask(place, monkeypatch, *words) == 1
    said = capsys.readouterr().out
    expected = {"a byte": "is not what was fetched", "cut": "has 5119999 bytes", "gone": "is missing"}[damage]
    assert f"org/name {SECOND[:12]}: model.safetensors {expected}" in said and said.count("org/name bbbb") == 1
    assert "config.json" not in said and "bring it again as it was brought: make deliver MODEL=" in said
    assert not weights.exists()
    assert "model.safetensors is missing" in wrong_sizes("model", directory)[0], "no run takes it now"
    assert hub.intact(directory) is None, "make fetch-model does not take it for whole"
    # What make fetch-model then does: it takes over the undamaged files, brings the rest and publishes anew.
    artifact = stored.Artifact("model", "org/name", SECOND)
    incoming = artifact.incoming(world / "store")
    incoming.mkdir(parents=True)
    choice = Choice([File(name, len(content), "", None) for name, content in FILES.items()], {})
    hub.salvage(directory, incoming, choice)
    assert sorted(path.name for path in incoming.rglob("*") if path.is_file()) == ["config.json", "notes.txt"]
    (incoming / "model.safetensors").write_bytes(WEIGHTS)
    stored.publish(artifact, world / "store", stored.read_manifest(directory)["files"], {})
    assert ask(place, monkeypatch, *words) == 0
    assert [path for path in directory.iterdir() if path.suffix == ".damaged"] == []


@pytest.mark.parametrize(("source", "line"), [
    ({"hub": "huggingface.co"}, f"make fetch-model MODEL=org/name REVISION={FIRST}"),
    ({"url": "https://host/x.jsonl"}, "make fetch-model MODEL=https://host/x.jsonl SHA256=abc"),
    ({"path": "dir"}, "make deliver MODEL=…"), (None, "make deliver MODEL=…"),
])  # fmt: skip
def test_how_to_mend_follows_from_where_it_came(source, line):
    entry = {"kind": "model", "name": "org/name", "revision": FIRST, "source": source, "sha256": "abc"}
    assert line in artifacts.mend(entry, "")


# ---- remove ----


def test_what_no_run_uses_goes_with_its_references_and_empty_directories(place, world, monkeypatch, capsys):
    store = world / "store"
    assert ask(place, monkeypatch, *remove("--name", "org/name", "--revision", "v2")) == 0
    assert f"removed model org/name {SECOND[:12]} (5.1 MB): 5.1 MB free again" in capsys.readouterr().out
    assert not (store / "models/org/name" / SECOND).exists()
    assert stored.read_json(store / "models/org/name" / stored.REFS) == {"main": FIRST}
    assert ask(place, monkeypatch, *remove("--name", "org/name")) == 0
    assert not (store / "models" / "org").exists() and (store / "models" / "base").exists()
    assert ask(place, monkeypatch, *remove("--name", "base")) == 0
    assert stored.find(store, "dataset", "rows", None)


def test_a_half_fetched_model_that_nobody_fetches_may_go(place, world, monkeypatch, capsys):
    incoming = stored.Artifact("model", "org/half", FIRST).incoming(world / "store")
    incoming.mkdir(parents=True)
    (incoming / "part").write_bytes(WEIGHTS)
    assert ask(place, monkeypatch, *remove("--name", "org/half")) == 0
    assert not incoming.exists()


def test_what_a_kill_left_of_a_replaced_model_is_listed_and_goes_with_the_next_publication(
    place, world, monkeypatch, capsys
):
    artifact = stored.Artifact("model", "org/half", FIRST)
    incoming = artifact.incoming(world / "store")
    aside = Path(f"{incoming}.replaced")
    for one in (incoming, aside):
        one.mkdir(parents=True)
        (one / "part").write_bytes(WEIGHTS)
    ask(place, monkeypatch, "list")
    assert capsys.readouterr().out.count("half fetched by nobody now") == 2
    files = {"part": {"size": len(WEIGHTS), "sha256": hash_file(incoming / "part")}}
    stored.publish(artifact, world / "store", files, {})
    assert not aside.exists()


def test_an_unfinished_run_keeps_its_model_whatever_is_said(place, world, monkeypatch):
    make_run(world, "medical-2", world / "store/models/org/name" / FIRST, finished=False)
    for force in ((), ("--force",)):
        said = refused(place, monkeypatch, *remove("--name", "org/name", "--revision", FIRST, *force))
        assert "is used by runs that are not over: medical-2 (unfinished)" in said
    assert stored.find(world / "store", "model", "org/name", FIRST)


def test_a_run_that_is_being_worked_on_keeps_its_model(place, world, monkeypatch):
    run = make_run(world, "medical-2", world / "store/models/org/name" / FIRST)
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = refused(place, monkeypatch, *remove("--name", "org/name", "--revision", FIRST, "--force"))
    assert "medical-2 (running)" in said


def test_a_finished_run_keeps_its_model_unless_told_otherwise(place, world, monkeypatch):
    make_run(world, "medical-1", world / "store/models/org/name" / FIRST)
    words = remove("--name", "org/name", "--revision", FIRST)
    assert "was used by finished runs: medical-1\n  fix: their adapters need it" in refused(place, monkeypatch, *words)
    assert ask(place, monkeypatch, *words, "--force") == 0
    assert stored.find(world / "store", "model", "org/name", FIRST) is None


def test_a_run_on_a_file_of_a_data_set_keeps_it(place, world, monkeypatch):
    rows = world / "store/datasets/rows/sha256-0123456789abcdef"
    source = {"sources": {str(rows / "rows.jsonl"): {"size": 9}}}
    make_run(world, "mine", world / "elsewhere", data=source)
    said = refused(place, monkeypatch, "remove", "--kind", "dataset", "--name", "rows", "--yes")
    assert "DATA: rows: was used by finished runs: mine" in said


BAD = {
    "no name": (remove(), "MODEL: is not given"),
    "an unknown name": (remove("--name", "org/nam"), "MODEL: org/nam: is not in the store\n  fix: there are: base"),
    "a data set asked for as a model": (remove("--name", "rows"), "MODEL: rows: is not in the store"),
    "one of several revisions": (remove("--name", "org/name"), "org/name is there in 2 revisions"),
    "an unknown revision": (remove("--name", "org/name", "--revision", "v3"), "REVISION: v3: org/name is not there"),
    "too few digits": (remove("--name", "org/name", "--revision", "aaa"), "REVISION: aaa: org/name is not there in it"),
    "no yes": (("remove", "--kind", "dataset", "--name", "rows"), "make remove-data{} DATA=rows YES=1"),
    "verify an unknown name": (("verify", "--kind", "dataset", "--name", "row"), "DATA: row: is not in the store"),
    "verify an unknown revision": (("verify", "--name", "org/name", "--revision", "c" * 40), "is not there in it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_words_are_refused_with_a_fix(place, world, monkeypatch, case):
    words, expected = BAD[case]
    before = sorted(stored.published(world / "store"))
    monkeypatch.setattr(sys, "stdin", (world / "store/models/base/config.json").open())
    assert expected.format(place.word) in refused(place, monkeypatch, *words)
    assert sorted(stored.published(world / "store")) == before


@pytest.mark.parametrize(("typed", "gone"), [("rows", True), ("row", False), ("", False)])
def test_only_its_name_typed_removes_it(place, world, monkeypatch, typed, gone):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: typed)
    assert ask(place, monkeypatch, "remove", "--kind", "dataset", "--name", "rows") == 0
    assert (stored.find(world / "store", "dataset", "rows", None) is None) == gone


@pytest.mark.parametrize("store", ["s3://bucket/prefix", "README.md"])
def test_a_store_that_is_no_directory_is_refused(monkeypatch, store):
    monkeypatch.chdir(store_client.ROOT)
    monkeypatch.setattr(sys, "argv", ["artifacts", "list", "--store", store])
    with pytest.raises(InputError, match=r"STORE: .* is no directory"):
        artifacts.main()


# ---- on a cluster ----


def job(name: str, state: str = "queued") -> Job:
    return Job("job", name, "medical", {}, state)


def test_a_queued_run_that_has_written_nothing_keeps_its_model(world, monkeypatch):
    there = near(world, monkeypatch)
    monkeypatch.setattr(cluster_artifacts, "find_runs", lambda cluster: [job("medical-3"), job("old", "complete")])
    recipe = f"model_name_or_path: org/name\nmodel_revision: {FIRST}\n"
    monkeypatch.setattr(Cluster, "list", lambda self, kind, selector: [{"data": {"train.yaml": recipe}}])
    said = refused(there, monkeypatch, *remove("--name", "org/name", "--revision", FIRST, "--force"))
    assert "is used by runs that are not over: medical-3 (queued)" in said
    assert ask(there, monkeypatch, *remove("--name", "org/name", "--revision", SECOND)) == 0


def test_a_recipe_names_by_reference_by_default_and_by_place(world):
    entry = {
        "kind": "model",
        "name": "org/name",
        "revision": FIRST,
        "references": ["main"],
        "path": "models/org/name/a",
    }
    assert names({"model_name_or_path": "org/name"}, entry)
    assert names({"model_name_or_path": "org/name", "model_revision": FIRST}, entry)
    assert not names({"model_name_or_path": "org/name", "model_revision": "v2"}, entry)
    assert names({"model_name_or_path": "/store/models/org/name/a"}, entry)
    rows = {
        "kind": "dataset",
        "name": "rows",
        "revision": "sha256-1",
        "references": [],
        "path": "datasets/rows/sha256-1",
    }
    assert names({"train_file": "datasets/rows/sha256-1/rows.jsonl"}, rows)
    assert not names({"train_file": "datasets/rows/sha256-12/rows.jsonl"}, rows)


def test_a_run_that_the_store_knows_gets_its_jobs_state():
    entry = {"kind": "model", "name": "org/name", "revision": FIRST, "references": [], "path": "x",
             "runs": [{"name": "medical-1", "state": "complete"}]}  # fmt: skip
    mark([entry], job("medical-1", "running"), {})
    assert entry["runs"] == [{"name": "medical-1", "state": "running"}]


def test_what_is_sent_to_the_pod_needs_the_standard_library_only():
    sent = store_client.texts("scripts.store_artifacts")
    for text in sent.values():
        lines = [line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))]
        foreign = [name for name in lines if name.split(".")[0] not in sys.stdlib_module_names]
        assert lines and set(foreign) <= set(sent)
