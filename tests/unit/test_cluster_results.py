"""Copying a run from the store, resumed, verified and never wrong; its program is the real one, the store a directory.

.venv/bin/python -m pytest tests/unit/test_cluster_results.py
"""

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cluster import fetch_small, results
from scripts.cluster.fetch_file import Copies
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.results import chosen_names, copy, destination
from scripts.cluster.store_client import PROGRAM, Store
from tests.clock import set_time
from train.errors import InputError

SIZE = 3_000_000


class NearStore(Store):
    """The store's program, run here instead of in a pod; `cuts` are the bytes after which a sending is cut."""

    def __init__(self, root: Path):
        super().__init__(Cluster())
        self.root, self.cuts, self.sent, self.spoil = root, [], [], False
        self.cut_status = 1
        self.packed, self.cut_pack = [], None  # what was asked for in one stream; the bytes after which that is cut

    def command(self, *words: str) -> list[str]:
        near = [sys.executable, "-I", "-", "--store", str(self.root), *words]
        if words[0] == "pack":
            self.packed.append(words[2:])
            return near if self.cut_pack is None else self.cut(self.cut_pack, near)
        if words[0] != "send":
            return near
        self.sent.append((words[2], int(words[3])))
        if words[2].endswith("weights") and self.cuts:
            return self.cut(self.cuts.pop(0), near)
        return ["bash", "-c", '"$@" | tr 0 1', "spoil", *near] if self.spoil else near

    def cut(self, after: int, command: list[str]) -> list[str]:
        """The command, whose output is cut after so many bytes."""
        return ["bash", "-c", f'"$@" | head -c {after}; exit {self.cut_status}', "cut", *command]


@pytest.fixture
def store(tmp_path, monkeypatch) -> NearStore:
    set_time(monkeypatch, results, sleep=lambda seconds: None)
    run = tmp_path / "store" / "runs" / "medical-1"
    for name, content in {
        "adapter/weights": random.Random(0).randbytes(SIZE),
        "merged/model": b"0" * 1000,
        "report.html": b"report",
        "data/data_check.json": b"{}",
        "data/train_ids.npy": b"many rows",
        "run.json": b"{}",
        "checkpoints/checkpoint-1/weights": b"many bytes",
        "log.jsonl": b"",
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    return NearStore(tmp_path / "store")


def fetch_all(store: NearStore, to: Path, what: str = "") -> list[str]:
    return copy(store, "medical-1", to, chosen_names(what))


def same(store: NearStore, to: Path, name: str = "adapter/weights") -> bool:
    return (to / name).read_bytes() == (store.root / "runs" / "medical-1" / name).read_bytes()


def partials(to: Path) -> list[Path]:
    return list(to.rglob("*.partial"))


def test_adapter_merged_model_report_and_logs_come_and_checkpoints_do_not(store, tmp_path):
    assert fetch_all(store, tmp_path / "to") == []
    there = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert there == {"adapter/weights", "merged/model", "report.html", "data/data_check.json", "run.json", "log.jsonl",
                     Copies.NAME}  # fmt: skip
    assert same(store, tmp_path / "to")


def test_small_files_come_in_one_stream_and_large_ones_by_themselves(store, tmp_path, monkeypatch):
    assert fetch_all(store, tmp_path / "to") == []
    assert [set(names) for names in store.packed] == [
        {"merged/model", "report.html", "data/data_check.json", "run.json", "log.jsonl"}
    ]
    assert store.sent == [("adapter/weights", 0)]
    monkeypatch.setattr(fetch_small, "AT_ONCE", 2)
    store.packed.clear()
    assert fetch_all(store, tmp_path / "again") == [] and [len(names) for names in store.packed] == [2, 2, 1]


@pytest.mark.parametrize("after", [0, 700, 2000])
def test_small_files_whose_stream_is_cut_come_one_by_one(store, tmp_path, after):
    store.cut_pack = after
    assert fetch_all(store, tmp_path / "to") == [] and partials(tmp_path / "to") == []
    for name in ("merged/model", "report.html", "data/data_check.json", "run.json", "log.jsonl"):
        assert same(store, tmp_path / "to", name)
    assert len(store.sent) > 2


def test_a_small_file_that_is_not_what_the_store_said_comes_by_itself(store, tmp_path):
    (ask, report), wrong = (store.ask, store.root / "runs/medical-1/report.html"), {"size": 6, "sha256": "0" * 64}

    def ask_wrongly_once(*words, **more):
        return ask(*words, **more) | ({} if "--fresh" in words else {"report.html": wrong})

    store.ask = ask_wrongly_once
    assert fetch_all(store, tmp_path / "to", "report") == [] and ("report.html", 0) in store.sent
    assert (tmp_path / "to" / "report.html").read_bytes() == report.read_bytes()


def test_a_second_call_copies_nothing(store, tmp_path, capsys):
    fetch_all(store, tmp_path / "to")
    store.sent.clear(), store.packed.clear()
    assert fetch_all(store, tmp_path / "to") == [] and store.sent == store.packed == []
    assert "6 files are here already, every one verified" in capsys.readouterr().out


def test_what_was_cut_goes_on_from_the_byte_where_it_stopped(store, tmp_path):
    store.cuts = [1_000_000, 500_000]
    assert fetch_all(store, tmp_path / "to") == []
    assert [offset for name, offset in store.sent if name == "adapter/weights"] == [0, 1_000_000, 1_500_000]
    assert same(store, tmp_path / "to") and partials(tmp_path / "to") == []


def test_a_stream_that_ends_early_without_an_error_keeps_what_came(store, tmp_path, capsys):
    store.cuts, store.cut_status = [1_000_000], 0
    assert fetch_all(store, tmp_path / "to", "adapter") == [] and same(store, tmp_path / "to")
    assert store.sent[-2:] == [("adapter/weights", 0), ("adapter/weights", 1_000_000)]
    assert "ended before the file did; going on" in capsys.readouterr().err


def test_a_link_that_stays_cut_is_told_and_the_next_call_goes_on(store, tmp_path):
    store.cuts = [100_000] * results.TRIES
    (trouble,) = fetch_all(store, tmp_path / "to")
    assert trouble.startswith("adapter/weights: ") and not (tmp_path / "to" / "adapter" / "weights").exists()
    assert partials(tmp_path / "to")[0].stat().st_size == 500_000
    assert fetch_all(store, tmp_path / "to") == [] and store.sent[-1] == ("adapter/weights", 500_000)
    assert same(store, tmp_path / "to")


def test_a_file_that_changed_on_the_way_is_fetched_again(store, tmp_path):
    ask, weights = store.ask, store.root / "runs" / "medical-1" / "adapter" / "weights"

    def ask_and_change(*words, **more):
        answer = ask(*words, **more)
        if "--fresh" not in words:
            weights.write_bytes(b"quite another adapter")
        return answer

    store.ask = ask_and_change
    assert fetch_all(store, tmp_path / "to") == []
    assert (tmp_path / "to" / "adapter" / "weights").read_bytes() == b"quite another adapter"


def test_what_was_begun_of_an_older_version_is_not_gone_on_with(store, tmp_path):
    store.cuts = [100_000] * results.TRIES
    fetch_all(store, tmp_path / "to")
    (store.root / "runs" / "medical-1" / "adapter" / "weights").write_bytes(random.Random(1).randbytes(SIZE))
    assert fetch_all(store, tmp_path / "to") == [] and same(store, tmp_path / "to")
    assert store.sent[-1] == ("adapter/weights", 0) and partials(tmp_path / "to") == []


def test_wrong_bytes_are_named_and_not_kept(store, tmp_path):
    store.spoil, store.cut_pack = True, 0
    troubles = fetch_all(store, tmp_path / "to", "merged")
    assert troubles == ["merged/model: the bytes that came are not those of the store, and were not kept"]
    assert not (tmp_path / "to" / "merged" / "model").exists() and partials(tmp_path / "to") == []


def test_a_file_that_was_damaged_here_is_fetched_again(store, tmp_path):
    fetch_all(store, tmp_path / "to")
    (tmp_path / "to" / "adapter" / "weights").write_bytes(b"x" * SIZE)
    assert fetch_all(store, tmp_path / "to") == [] and same(store, tmp_path / "to")


def test_a_run_of_this_machine_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/medical-1").mkdir(parents=True)
    Path("runs/medical-1/run.json").write_text("{}")
    arguments = argparse.Namespace(to="")
    with pytest.raises(InputError, match="not copied from a cluster"):
        destination(arguments, "medical-1")
    assert destination(arguments, "medical-2") == Path("runs/medical-2")


def test_an_unknown_kind_of_result_lists_the_known():
    with pytest.raises(InputError, match="adapter, model, merged, report, logs"):
        chosen_names("adaptor")


def test_an_answer_that_is_an_error_is_told_in_one_line(store):
    with pytest.raises(Refused, match=r"^runs/nothing: is not on the store$"):
        store.ask("manifest", "runs/nothing")


def test_a_file_that_is_not_there_is_an_empty_text(store):
    assert store.text("runs/medical-1", "nothing.jsonl") == ""
    assert store.text("runs/medical-1", "run.json") == "{}"


def test_the_program_that_is_sent_is_this_checkouts():
    done = subprocess.run(
        [sys.executable, "-I", "-", "--help"], stdin=PROGRAM.open("rb"), capture_output=True, check=True
    )
    assert b"manifest" in done.stdout and os.fspath(PROGRAM).endswith("scripts/store.py")
