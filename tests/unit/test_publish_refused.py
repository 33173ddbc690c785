"""What `make publish` refuses, with which words, and what ALLOW overrides and the card then says."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from scripts.allow import read_allowed
from scripts.publish import publish, to_directory
from scripts.publish.objections import WORDS
from tests.unit.publish_cases import change, give, make_base, make_run
from train.errors import InputError


def refusal(run, to, what="", *allowed) -> str:
    with pytest.raises(InputError) as caught:
        give(run, to, what, *allowed)
    return str(caught.value)


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path / "base")


@pytest.fixture
def run(tmp_path, base):
    return make_run(tmp_path, base)


def spoil(path):
    path.write_bytes(b"other" + path.read_bytes()[5:])


def failed(run):
    checks = json.loads((run / "merged" / "merge.json").read_text())["checks"]
    change(run / "merged" / "merge.json", checks=[*checks, {"check": "logits agree", "result": "skipped"}])


CASES = {
    "a run that is not complete": (lambda run: (run / "report.html").unlink(), "incomplete",
                                   "is not complete (incomplete, has after.json)"),
    "a run without its proof": (lambda run: (run / "merged" / "merge.json").unlink(), "proof changed",
                                "is not there: the merge is not proven"),
    "a check that was skipped": (failed, "proof", "does not prove the merge: logits agree: skipped"),
    "a proof without checks": (lambda run: change(run / "merged" / "merge.json", checks=[]), "proof",
                               "it holds no checks"),
    "a proof of another base": (lambda run: change(run / "merged" / "merge.json", base={"files": {}}), "proof",
                                "it is about another base than the run was trained on"),
    "a record that names no base": (lambda run: change(run / "run.json", base_model={"name": "base"}), "proof licence",
                                    "the run's record does not say which base it was trained on"),
    "another adapter than was merged": (lambda run: spoil(run / "adapter" / "adapter_model.safetensors"), "proof",
                                        "it was made with another adapter/adapter_model.safetensors"),
    "changed weights": (lambda run: spoil(run / "merged" / "model.safetensors"), "changed",
                        "holds changed files: model.safetensors differ from what was made"),
    "a file too many": (lambda run: (run / "merged" / "notes.txt").write_text("x"), "changed",
                        "notes.txt were put there since"),
    "a file too few": (lambda run: (run / "merged" / "config.json").unlink(), "changed", "config.json are gone"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refuses_and_says_so_in_the_card_where_it_is_allowed(run, tmp_path, case, capsys):
    break_it, words, said = CASES[case]
    break_it(run)
    message = refusal(run, tmp_path / "out")
    assert said in message
    assert all(f"ALLOW={word}" in message for word in words.split())
    assert not (tmp_path / "out").exists()
    assert give(run, tmp_path / "out", "", *words.split()) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Published although the checks refused it:**" in card
    published = json.loads((tmp_path / "out" / "tunefleet.json").read_text())["published"]
    assert len(published["allowed"]) == len(words.split())
    assert published["allowed"][0] in card


def test_all_reasons_are_told_at_once(tmp_path):
    run = make_run(tmp_path, make_base(tmp_path / "base", card="no header"))
    (run / "report.html").unlink()
    failed(run)
    spoil(run / "merged" / "model.safetensors")
    message = refusal(run, run / "merged" / "out")
    for said in ("is not complete", "logits agree: skipped", "holds changed files", "licence of the base: is unknown",
                 "is the run's own directory, lies in it or holds it"):  # fmt: skip
        assert said in message


def test_one_word_of_ALLOW_allows_nothing_else(run, tmp_path):
    (run / "report.html").unlink()
    spoil(run / "merged" / "model.safetensors")
    message = refusal(run, tmp_path / "out", "", "changed")
    assert "is not complete" in message and "holds changed files" not in message


def test_an_unknown_word_of_ALLOW_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"ALLOW: everything: allows nothing here\n  fix: known words: licence: .*; replace: "
    ):
        read_allowed("licence everything", WORDS)


# ---- the base's licence ----


def test_refuses_a_base_whose_licence_nobody_said(tmp_path):
    run = make_run(tmp_path, make_base(tmp_path / "base", card="# A model"))
    message = refusal(run, tmp_path / "out")
    assert "licence of the base: is unknown" in message and "write `license: <identifier>`" in message
    assert give(run, tmp_path / "out", "", "licence") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nlicense: unknown\n" in card and "Nothing here says that you may use or pass this on." in card


def test_refuses_a_licence_that_is_not_in_the_table(tmp_path):
    card = "---\nlicense: other\nlicense_name: my-own\n---\n"
    run = make_run(tmp_path, make_base(tmp_path / "base", card=card))
    assert "is my-own, which scripts/publish/licences.yaml does not know" in refusal(run, tmp_path / "out")


def test_no_derivatives_refuses_changed_weights_and_lets_the_adapter_pass_with_a_note(tmp_path):
    run = make_run(tmp_path, make_base(tmp_path / "base", card="---\nlicense: cc-by-nc-nd-4.0\n---\n"))
    assert "forbids to give away changed weights" in refusal(run, tmp_path / "out", "merged")
    assert give(run, tmp_path / "out", "adapter") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "> **Note:** Not for commercial use" in card and "forbids to give away a changed base." in card


def test_llama_3_wants_its_name_in_front(tmp_path):
    run = make_run(tmp_path, make_base(tmp_path / "base", card="---\nlicense: llama3.1\n---\n"))
    message = refusal(run, tmp_path / "medical")
    assert "wants a name that begins with Llama, and this one is medical" in message
    assert give(run, tmp_path / "Llama-3.1-medical") == 0


# ---- what and where ----


def test_refuses_a_result_that_the_run_does_not_have(run, tmp_path):
    assert "WHAT: report: cannot be published" in refusal(run, tmp_path / "out", "report")
    assert "has no model\n  fix: publish what is there: WHAT=merged" in refusal(run, tmp_path / "out", "model")


def test_refuses_a_run_without_a_result(run, tmp_path):
    for name in ("merged", "adapter"):
        (run / name).rename(tmp_path / name)
    assert "has no result: neither merged, model nor adapter" in refusal(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("", "TO: is empty: where shall it go?"),
        ("https://example.org/x", "is no place to publish to"),
        ("hf://owner/name", "is no place to publish to"),
        ("hub:name", "it needs an owner and a name"),
        ("hub:owner/na me", "TO: hub:owner/na me:"),
        ("s3://bucket", "is a whole bucket"),
        ("s3://key:secret@bucket/x", "holds credentials"),
        ("s3://B_/x", "no bucket's name"),
    ],
)
def test_refuses_what_is_no_target(run, to, said):
    message = refusal(run, to)
    assert said in message and "secret@" not in message


def test_refuses_a_file_and_what_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(run, tmp_path / "file")
    assert "file cannot be written to" in refusal(run, tmp_path / "file" / "below")
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written to" in refusal(run, tmp_path / "locked" / "below")


def test_never_replaces_a_directory_that_is_no_publication(run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    message = refusal(run, tmp_path / "home", "", "replace")
    assert "no publication lies there (thesis.tex)" in message and "ALLOW" not in message
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_replaces_another_publication_only_when_allowed(run, tmp_path):
    assert give(run, tmp_path / "out") == 0
    message = refusal(run, tmp_path / "out", "adapter")
    assert "holds another publication, out sha256-" in message and "ALLOW=replace replaces it" in message
    assert give(run, tmp_path / "out", "adapter", "replace") == 0
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_publication_is_named_and_made_again(run, tmp_path):
    give(run, tmp_path / "out")
    spoil(tmp_path / "out" / "model.safetensors")
    assert "damaged: model.safetensors is not what was fetched" in refusal(run, tmp_path / "out")
    assert give(run, tmp_path / "out", "", "replace") == 0
    assert (tmp_path / "out" / "model.safetensors").read_text() == "merged weights"


# ---- the command ----


def command(monkeypatch, run, *words) -> str:
    monkeypatch.setattr(sys, "argv", ["publish", "--runs-dir", str(run.parent), *words])
    with pytest.raises(InputError) as caught:
        publish.main()
    return str(caught.value)


def test_an_unknown_run_is_told_with_the_known_ones_and_the_way_from_a_cluster(run, monkeypatch):
    message = command(monkeypatch, run, "--run", "medical-3", "--to", "out")
    assert "RUN: medical-3: is no run in" in message
    assert "there are: tiny-1; a run on a cluster comes here first: make results RUN=medical-3" in message


def test_the_cluster_is_no_place_to_publish_from(run, monkeypatch):
    message = command(monkeypatch, run, "--run", "tiny-1", "--on", "cluster")
    assert "ON: cluster: publishes nothing" in message and "make results RUN=tiny-1" in message
    assert "TO: is empty" in message


def test_what_a_killed_publication_left_is_cleared_away(run, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = os.uname().nodename
    left, others = (tmp_path / f".out.publishing-{host}-{pid}.tmp" for pid in (ended.pid, os.getppid()))
    for one in (left, others):
        one.mkdir()
        (one / "half.safetensors").write_text("half")
    assert give(run, tmp_path / "out") == 0
    assert not (tmp_path / "out" / "half.safetensors").exists() and not left.exists()
    assert others.exists(), "somebody publishes to the same place now"


def test_a_file_that_changes_while_it_is_published_is_noticed_and_nothing_appears(run, tmp_path, monkeypatch):
    put = to_directory.put

    def meanwhile(place, contents):
        spoil(run / "merged" / "model.safetensors")
        return put(place, contents)

    monkeypatch.setattr(to_directory, "put", meanwhile)
    assert "model.safetensors: changed while it was published" in refusal(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_no_room_is_known_before_the_first_byte(run, tmp_path, monkeypatch):
    monkeypatch.setattr(to_directory.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    assert "are needed and 100 B are free" in refusal(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
