"""The demo from clone to report and publication, as make does it: about two minutes on two cores."""

import functools
import json
import sys
import time

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.chain import read, run_chain
from tests.e2e.publication import publish, run_snippet, snippet
from tests.tiny import ROOT
from train import export_table, gguf_export, quantise, stored
from train.evaluate import read_prompts
from train.export_measure import measure
from train.files import PROMPTS
from train.generate import generate_answers
from train.gguf_check import config_for_reader
from train.report import write_report


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The finished demo run and what it printed."""
    return run_chain(tmp_path_factory.mktemp("runs"), "demo")


def test_exact_match_rises_from_nothing_to_nearly_all(demo):
    run, _ = demo
    before, after = read(run, "before.json")["exact_match"], read(run, "after.json")["exact_match"]
    assert before["rows"] == after["rows"] >= 100
    assert before["share"] < 0.05 and after["share"] > 0.90


def test_two_processes_trained_where_there_are_two_cores(demo):
    run, printed = demo
    layout = read(run, "run.json")["layout"]
    assert (layout["processes"], layout["threads"]) == (2, 1)
    assert "2 x 1 threads" in printed and "backend gloo" in printed


def test_validation_loss_falls_and_the_best_model_is_kept(demo):
    run, _ = demo
    training = read(run, "run.json")["training"]
    assert training["best_eval_loss"] < training["eval_loss_first"] / 2
    assert read(run, "after.json")["eval_loss"] == pytest.approx(training["best_eval_loss"], rel=0.05)


def test_each_process_tells_how_busy_it_was_and_the_report_shows_it(demo):
    run, _ = demo
    ranks = read(run, "run.json")["training"]["ranks"]
    assert [one["rank"] for one in ranks] == [0, 1]
    for one in ranks:
        assert 0 < one["cpu_share"] < 1.5 and 0.05 < one["peak_memory_gb"] < 4
        assert one["step_compute_seconds"] > 0 <= one["step_wait_seconds"]
    assert "waits for the slowest" in (run / "report.html").read_text()


def test_every_check_of_the_proof_passed(demo):
    run, _ = demo
    checks = read(run, "merged/merge.json")["checks"]
    assert len(checks) >= 6 and all(check["result"] == "passed" for check in checks)


def test_merged_model_loads_plainly_and_gives_the_same_answers(demo):
    run, _ = demo
    model = AutoModelForCausalLM.from_pretrained(run / "merged")
    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    for sample in read(run, "after.json")["samples"]:
        ids = torch.tensor([tokenizer(sample["prompt"])["input_ids"]])
        with torch.no_grad():
            answer = model.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True).strip() == sample["generated"].strip()


def test_run_record_names_all_that_decides_the_result(demo):
    run, _ = demo
    record = read(run, "run.json")
    assert record["status"] == "complete"
    assert record["base_model"]["files"]["model.safetensors"]["sha256"]
    assert record["data"]["digest"] and record["data"]["sources"]
    assert record["recipe"]["lora_r"] and record["versions"]["torch"] and record["hardware"]["cpu"]


def test_same_command_finds_its_run_finished_and_starts_nothing(demo):
    run, _ = demo
    adapter = run / "adapter" / "adapter_model.safetensors"
    before, started = adapter.stat().st_mtime_ns, time.monotonic()
    again, _ = run_chain(run.parent, "demo")
    assert again == run and adapter.stat().st_mtime_ns == before
    assert time.monotonic() - started < 60


def test_report_is_one_page_that_says_how_it_went(demo):
    run, _ = demo
    page = (run / "report.html").read_text()
    assert "Exact match" in page and "proven" in page


def test_nothing_half_written_is_left(demo):
    run, _ = demo
    assert not list(run.rglob("*.tmp")) and not list(run.rglob(".*.old"))


# ---- given away ----


@pytest.fixture(scope="module")
def published(demo, tmp_path_factory):
    """The directory that `make publish` made, and what it printed."""
    to = tmp_path_factory.mktemp("published") / "tickets"
    done = publish(demo[0], to)
    assert done.returncode == 0, done.stderr
    return to, done.stdout


def test_the_demo_is_published_without_anything_being_allowed(published):
    to, printed = published
    assert f"published {to} (sha256-" in printed
    assert stored.damage(to) == []
    assert "Apache License" in (to / "LICENSE").read_text()


def test_the_card_says_what_the_run_recorded(demo, published):
    run, card = demo[0], (published[0] / "README.md").read_text()
    record, after, checks = read(run, "run.json"), read(run, "after.json"), read(run, "merged/merge.json")["checks"]
    header = {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "text-generation",
              "tags": ["tunefleet", "lora", "peft"]}  # fmt: skip
    assert yaml.safe_load(card.split("---\n")[1]) == header
    assert "trained by LoRA on `demo/model` (part of tunefleet's repository)" in card
    for said in (record["data"]["digest"], record["versions"]["torch"], record["hardware"]["cpu"], "lora_r: 16",
                 "| rows kept | 2,000 | 200 |", record["dtype_reason"], "| exact match | 0 of 200 (0 %) |",
                 f"{after['exact_match']['matched']} of 200", f"{record['training']['best_eval_loss']:.4g}",
                 *(source["sha256"] for source in record["data"]["sources"].values()),
                 *(f"| passed | {one['check']} | {one['figure']} |" for one in checks)):  # fmt: skip
        assert said in card, said


def test_the_cards_python_loads_the_merged_model_and_asks_it(published):
    assert "AutoModelForCausalLM.from_pretrained(place" in snippet(published[0])
    run_snippet(published[0])


def test_the_cards_python_loads_the_adapter_over_its_base(demo, tmp_path):
    done = publish(demo[0], tmp_path / "adapter", WHAT="adapter")
    assert done.returncode == 0, done.stderr
    # the base's directory, which the card asks for
    (tmp_path / "adapter" / "demo").symlink_to(ROOT / "demo", target_is_directory=True)
    run_snippet(tmp_path / "adapter")
    assert "PeftModel.from_pretrained(model, place)" in snippet(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "demo/model"


def test_the_same_again_changes_nothing(demo, published):
    to = published[0]
    before = {path.name: path.stat().st_mtime_ns for path in to.iterdir()}
    done = publish(demo[0], to)
    assert done.returncode == 0 and "this very publication is there already" in done.stdout
    assert before == {path.name: path.stat().st_mtime_ns for path in to.iterdir()}


def test_a_refusal_ends_with_2_and_leaves_nothing(demo, tmp_path):
    run = demo[0]
    aside = (run / "report.html").rename(run / "aside.html")
    done = publish(run, tmp_path / "other")
    aside.rename(run / "report.html")
    assert "Error 2" in done.stderr and "is not complete" in done.stderr and "ALLOW=incomplete" in done.stderr
    assert not list(tmp_path.iterdir()) and not list(run.glob(".publish*"))


# ---- made small, and exported ----

ASKED = 16
# Of each export: the program, its most bytes as a share of the model's, how much greater its perplexity may be (as
# docs/exporting.md says), and how many of ASKED answers must be the model's to the letter.
EXPORTS = {
    "quantised-8bit": (quantise, "8", 0.65, 0.01, 15),
    "quantised-4bit": (quantise, "4", 0.42, 0.05, 12),
    "gguf-16bit": (gguf_export, "16", 1.05, 0.001, ASKED),
}


@pytest.fixture(scope="module")
def exports(demo):
    """The run's directory with its exports, made in this process: its libraries are loaded already."""
    for package in ("auto_round", "gguf"):
        pytest.importorskip(package)
    run = demo[0]
    for program, bits, *_ in EXPORTS.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["", "--run", run.name, "--runs-dir", str(run.parent), "--bits", bits])
            patch.setattr(quantise, "measure", measure_here)
            assert program.main() == 0
    return run


measured = functools.cache(measure)  # the merged model's figures serve both widths


def measure_here(model, source, _aside):
    """What quantise measures in a fresh process, in this one, which loads each export once more anyway."""
    return measured(model, source.data) | {"size": (model / "model.safetensors").stat().st_size}


def answers_of(directory):
    """What transformers makes of a directory alone, asked the run's held-out prompts: text, and whether it ended."""
    file, model = {}, {"dtype": "auto"}
    if (directory / "model.gguf").is_file():  # whose reader knows no head_dim of Qwen 3, and computes in float32
        file, model = {"gguf_file": "model.gguf"}, {"config": config_for_reader(directory.parent / "merged")}
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", **file, **model)
    tokenizer = AutoTokenizer.from_pretrained(directory, **file)
    prompts = [prompt["prompt"] for prompt in read_prompts(directory.parent / "data" / PROMPTS)[:ASKED]]
    return generate_answers(model, tokenizer, prompts, 64, ASKED, ())


@pytest.fixture(scope="module")
def models_own(demo):
    """The merged model's answers."""
    return answers_of(demo[0] / "merged")


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_loads_in_transformers_and_its_answers_stop_where_the_models_do(exports, models_own, name):
    found = answers_of(exports / name)
    assert [ended for _, ended in found] == [ended for _, ended in models_own] == [True] * ASKED
    same = sum(one == other for one, other in zip(found, models_own, strict=True))
    assert same >= EXPORTS[name][4], f"{same} of {ASKED} answers are the model's"


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_as_small_and_as_good_as_is_said(exports, name):
    _, _, share, worse, _ = EXPORTS[name]
    figures = export_table.read_exports(exports)[name]["figures"]
    old, new = (figures[key] for key in ("model", "gguf" if "gguf" in name else "quantised"))
    weights = sum(path.stat().st_size for path in (exports / "merged").glob("*.safetensors"))
    assert old["size"] == weights and 0.1 * weights < new["size"] < share * weights
    assert old["tokens"] == new["tokens"] > 1000 and new["perplexity"] < (1 + worse) * old["perplexity"]
    assert new["tokens_per_second"] > 0 and new["stop_ids"] == old["stop_ids"]


def test_the_report_has_one_table_of_all_exports(exports):
    page = write_report(exports).read_text()
    assert "<h3>Exports</h3>" in page
    for name in ("the model", "8 bits", "4 bits", "GGUF, 16 bits"):
        assert f"<td>{name}</td>" in page
