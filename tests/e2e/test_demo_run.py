"""The demo from clone to report, as `make run` does it: about two minutes on two cores."""

import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.chain import read, run_chain


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
