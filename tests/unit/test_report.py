"""The report of a run, made from made-up run directories."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from train import export_place as place
from train import report_facts as facts
from train.errors import InputError
from train.recipe import with_defaults
from train.report import print_summary, read_run, write_report
from train.report_plots import Series, bar_chart, line_chart, smoothed, value_axis

EVIL = "<script>alert('x')</script>&\"'"
LOADING = ("src", "href", "xlink:href", "srcset", "data", "action")
VOID = {"meta", "br", "link", "img", "circle", "line", "polyline", "rect"}


class Page(HTMLParser):
    """What a browser would find: tags that are left open, places that load something, visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [
            value for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def evaluation(loss: float, matched: int, text: str) -> dict:
    """What before.json or after.json holds."""
    sample = {"row": 7, "prompt": f"Say it {EVIL}", "answer": f"said {EVIL}", "generated": text, "stopped": matched > 0}
    return {"model": "m", "dtype": "bfloat16", "eval_loss": loss, "perplexity": 2.0, "tokens": 1234,
            "exact_match": {"matched": matched, "rows": 200, "share": matched / 200}, "samples": [sample],
            "seconds": 3.0}  # fmt: skip


def listed(*rows: int) -> dict:
    return {"count": len(rows), "rows": list(rows)}


def data_check() -> dict:
    """What data_check.json holds."""
    rows = {"source": "rows.jsonl", "kept": 1800, "truncated": listed(), "dropped": {"no answer": listed(4, 9)},
            "read": 2000, "filtered": 0}  # fmt: skip
    lengths = {"min": 9, "mean": 30.5, "p50": 30, "p90": 41, "p95": 44, "p99": 50, "max": 61}
    pieces = [{"text": f"<|im_start|>{EVIL}", "loss": False}, {"text": f"yes {EVIL}", "loss": True}]
    return {
        "rows": {"train": rows, "validation": {**rows, "kept": 200, "held_out": 0}},
        "tokens": {part: {"total": 60000, "trained": 20000, "share": 1 / 3} for part in ("train", "validation")},
        "lengths": {"train": lengths, "validation": lengths},
        "histogram": {"edges": [0, 20, 40, 60], "counts": [200, 1500, 300], "over": 5},
        "max_length": 60, "padding_waste": 0.2, "per_device_train_batch_size": 4, "global_batch_size": 32,
        "steps_per_epoch": 57, "steps": 171, "duplicates": {"count": 1, "rows": [[3, 5]]}, "overlap": listed(11),
        "empty_answers": listed(4, 9), "split_boundaries": listed(), "data_format": "instruction",
        "prompt": "chat template", "loss_on": "answers", "bos": {"token": None, "first": False, "by": None},
        "stop": {"in_loss": True, "tokens": ["<|im_end|>"], "obeyed": True, "known": [], "rows_without": listed()},
        "vocabulary": {"tokenizer": 1500, "model": 1536}, "notes": [f"A note {EVIL}"],
        "samples": [{"part": "train", "row": 1, "tokens": 20, "trained": 6, "pieces": pieces}],
        "special_tokens_in_text": listed(), "digest": "d" * 64,
        "sources": {f"rows{EVIL}.jsonl": {"size": 12345, "sha256": "e" * 64}},
    }  # fmt: skip


def make_run(directory: Path, **changes) -> Path:
    """A finished run; a change of None leaves a file out, another replaces it."""
    steps = [{"step": n, "epoch": n / 57, "loss": 3.0 / n, "grad_norm": 1.0, "learning_rate": 2e-4, "tokens": 900,
              "seconds": 0.5, "tokens_per_second": 1800.0 + n, "matmul_share": 0.3, "memory_gb": 1.2}
             for n in range(1, 172)]  # fmt: skip
    validations = [{"step": n, "epoch": n / 57, "eval_loss": 3.1 / (n + 1), "perplexity": 2.0} for n in (0, 57, 171)]
    recipe = with_defaults({"model_name_or_path": EVIL, "train_file": "rows.jsonl", "validation_size": 200,
                            "exact_match": True, "lora_r": 16})  # fmt: skip
    record = {
        "name": "demo-1234", "started": "2026-11-21T15:00:00+00:00", "command": f"-m scripts.run --set x={EVIL}",
        "recipe": vars(recipe), "seed": 42, "git": "abc", "dtype": "bfloat16", "dtype_reason": "the processor can",
        "layout": {"processes": 2, "threads": 1, "reason": "two cores"}, "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "a processor", "cores": 2, "flags": ["amx_bf16"]}, "matmul_gflops": 400.0,
        "base_model": {"name": "tiny", "files": {"model.safetensors": {"size": 9, "sha256": "f" * 64}}},
        "stages": {"train": {"seconds": 99.0}}, "data": {},
        "training": {"steps": 171, "seconds": 85.5, "tokens": 153900, "tokens_per_second": 1800.0, "best_step": 171,
                     "best_eval_loss": 0.02, "train_loss_first": 3.0, "train_loss_last": 0.02, "peak_memory_gb": 1.2},
    }  # fmt: skip
    checks = [{"check": "every target changed", "result": "passed", "figure": f"14 of 14 {EVIL}"},
              {"name": "logits agree", "passed": True, "figure": 0.001}]  # fmt: skip
    files = {
        "run.json": record, "data/data_check.json": data_check(), "before.json": evaluation(3.1, 0, "no idea"),
        "after.json": evaluation(0.02, 194, f"said {EVIL}"), "merged/merge.json": {"checks": checks, "files": {}},
        "metrics.jsonl": sorted(steps + validations, key=lambda line: line["step"]),
    } | changes  # fmt: skip
    for name, content in files.items():
        path = directory / name
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = content if name.endswith("l") else [content]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def page_of(run: Path) -> Page:
    """The written report, parsed; every tag must be closed."""
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_a_finished_run_is_reported_with_verdict_figures_proof_and_versions(tmp_path):
    page = page_of(make_run(tmp_path / "demo-1234"))
    for said in ("Exact match rose from 0 % to 97 % on 200 held-out rows. Validation loss fell from 3.1 to 0.02. "
                 "Merge proven by 2 checks.", "194 of 200", "1 min 26 s", "every target changed", "14 of 14", "0.001",
                 "two cores", "the processor can", "2.13.0", "f" * 64, "d" * 64, "lora_r", "amx_bf16",
                 "AutoModelForCausalLM.from_pretrained", "✓ matches", "✗ differs", "6 carry loss",
                 "(rows 4, 9)", "(rows 3 = 5)", "add_special_tokens=False"):  # fmt: skip
        assert said in page.text
    assert page.tags.count("svg") == 8


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    run = make_run(tmp_path / "run")
    page = page_of(run)
    html = (run / "report.html").read_text()
    assert all(link.startswith("#") for link in page.loaded)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_every_text_from_data_is_escaped(tmp_path):
    run = make_run(tmp_path / "run")
    page = page_of(run)
    html = (run / "report.html").read_text()
    assert "<script" not in html.lower()
    for where in ("Say it ", "said ", "yes ", "A note ", "14 of 14 ", "-m scripts.run --set x="):
        assert f"{where}{EVIL}" in page.text


def test_an_empty_run_says_of_every_part_that_it_is_missing(tmp_path):
    names = ("data/data_check.json", "before.json", "after.json", "merged/merge.json", "metrics.jsonl")
    page = page_of(make_run(tmp_path / "run", **{"run.json": {"name": "begun"}}, **dict.fromkeys(names)))
    for said in ("The training is not finished: 0 steps so far", "There are no figures yet", "No training step",
                 "The model before training was not evaluated", "The trained model was not evaluated",
                 "The rows were not checked", "Not merged yet", "holds no recipe", "Not recorded yet",
                 "base model's files are not recorded", "There is nothing to load yet"):  # fmt: skip
        assert said in page.text


@pytest.mark.parametrize("name", ["data/data_check.json", "before.json", "after.json", "merged/merge.json",
                                  "metrics.jsonl", "run.json"])  # fmt: skip
def test_a_run_without_one_of_its_files_is_still_reported(tmp_path, name, capsys):
    run = make_run(tmp_path / "run", **{name: None})
    page_of(run)
    print_summary(run)
    assert "report" in capsys.readouterr().out


def test_a_run_without_validation_rows_says_that_nothing_tells_how_good_it_is(tmp_path):
    none = {"model": "m", "dtype": "float32", "eval_loss": None, "perplexity": None, "tokens": 0, "exact_match": None,
            "samples": [], "seconds": 0.1, "message": "the data has no validation rows"}  # fmt: skip
    steps = [{"step": 1, "epoch": 1, "loss": 2.0, "seconds": 1.0, "tokens": 5}]
    run = make_run(tmp_path / "run", **{"before.json": none, "after.json": none, "metrics.jsonl": steps})
    page = page_of(run)
    assert facts.verdict(read_run(run))[0] == "unsure"
    assert "the data has no validation rows" in page.text
    assert "No validation loss was computed" in page.text
    assert "There are no sample answers" in page.text


@pytest.mark.parametrize(
    ("changes", "tone", "said"),
    [
        ({}, "good", "Merge proven by 2 checks"),
        ({"after.json": evaluation(4.0, 194, "x")}, "bad", "Validation loss rose from 3.1 to 4"),
        ({"after.json": evaluation(3.1, 0, "x")}, "unsure", "Exact match stayed at 0 %"),
        ({"merged/merge.json": None}, "unsure", "not merged yet"),
        ({"after.json": None}, "unsure", "was not evaluated"),
        ({"before.json": None}, "unsure", "before training was not measured"),
        ({"merged/merge.json": {"checks": [{"check": "a", "result": "skipped"}]}}, "unsure", "only 0 of 1 checks"),
        ({"merged/merge.json": {"checks": [{"name": "a", "passed": False}]}}, "bad", "failed 1 of 1"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_figures(tmp_path, changes, tone, said):
    found, sentences = facts.verdict(read_run(make_run(tmp_path / "run", **changes)))
    assert found == tone
    assert any(said in sentence for sentence in sentences)


def test_a_run_that_learned_nothing_is_led_to_its_runbook(tmp_path, capsys):
    for loss, named in ((4.0, True), (0.1, False)):
        print_summary(make_run(tmp_path / str(loss), **{"after.json": evaluation(loss, 194, "x")}))
        assert ("docs/runbooks/loss-does-not-fall.md" in capsys.readouterr().out) == named


@pytest.mark.parametrize(
    ("method", "merge", "said"), [("full", None, "nothing to merge"), ("lora", False, "as the recipe")]
)
def test_a_run_that_is_not_to_be_merged_is_no_worse_for_it(tmp_path, method, merge, said):
    run = make_run(tmp_path / "run", **{"merged/merge.json": None})
    record = json.loads((run / "run.json").read_text())
    record["recipe"] |= {"method": method, "merge": merge}
    (run / "run.json").write_text(json.dumps(record))
    tone, sentences = facts.verdict(read_run(run))
    assert tone == "good"
    assert said in sentences[-1]
    page_of(run)


def test_an_open_ended_answer_is_not_called_wrong_because_it_differs(tmp_path):
    run = make_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["exact_match"] = False
    (run / "run.json").write_text(json.dumps(record))
    page = page_of(run)
    assert "✗ differs" not in page.text
    assert "✓ matches" in page.text


def test_a_directory_that_is_no_run_is_refused_naming_the_runs_beside_it(tmp_path):
    make_run(tmp_path / "other")
    with pytest.raises(InputError, match="beside it there are: other"):
        write_report(tmp_path / "absent")


def test_a_damaged_file_is_named_and_a_torn_last_metrics_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    lines = len(read_run(run)["metrics"])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17')
    assert len(read_run(run)["metrics"]) == lines
    (run / "after.json").write_text("{")
    with pytest.raises(InputError, match=r"after\.json: is not JSON"):
        write_report(run)


def test_the_summary_fits_a_terminal(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    write_report(run)
    print_summary(run)
    told = capsys.readouterr().out
    for said in ("Exact match rose from 0 % to 97 %", "194 of 200", "2 of 2 checks passed", "no idea", "report.html"):
        assert said in told
    assert max(map(len, told.splitlines()[2:])) < 130


def test_a_chart_takes_any_values():
    assert line_chart("none", [Series("a", [], "main")]) == ""
    assert line_chart("none", [Series("a", [(1, float("nan"))], "main")]) == ""
    for values in ([0.0], [5.0, 5.0], [1e-9, 1e9], [-3.0, 4.0], [0.0, 0.0], [1e-8] * 3, [1234567.0, 2345678.0]):
        chart = line_chart("some", [Series("a", list(enumerate(values)), "main", dots=True)], zero=min(values) >= 0)
        assert "nan" not in chart
        assert chart.count("<circle") == len(values)
    assert len(line_chart("many", [Series("a", [(n, n) for n in range(100_000)], "main")])) < 20_000
    assert bar_chart("none", [], []) == ""
    assert bar_chart("zeros", [0, 1], [0]) == ""
    assert bar_chart("over", [0, 10, 20], [3, 0], over=2).count("<rect") == 3


def test_a_wide_span_of_losses_gets_a_logarithmic_axis_and_a_narrow_one_does_not():
    assert value_axis([0.001, 3.0], False, 300, 30).log
    assert not value_axis([2.0, 3.0], False, 300, 30).log
    assert not value_axis([0.0, 3.0], False, 300, 30).log
    assert value_axis([0.001, 3.0], False, 300, 30).ticks(5) == pytest.approx([0.001, 0.01, 0.1, 1.0])


def test_the_smoothed_line_begins_at_the_first_value_and_follows_the_last():
    flat = smoothed([(n, 2.0) for n in range(50)])
    assert all(value == pytest.approx(2.0) for _, value in flat)
    assert smoothed([(1, 1.0)]) == []
    falling = smoothed([(n, 100.0 - n) for n in range(100)])
    assert falling[0][1] == pytest.approx(100.0)
    assert 1.0 < falling[-1][1] < 10.0


@pytest.mark.parametrize(("share", "said"), [(0, "0 %"), (1, "100 %"), (0.9999, "> 99.9 %"), (0.0001, "< 0.1 %"),
                                             (0.034, "3.4 %"), (0.97, "97 %"), (0.996, "99.6 %")])  # fmt: skip
def test_a_share_never_reads_as_none_or_all_unless_it_is(share, said):
    assert facts.percent(share) == said


def test_exports_stand_in_a_table_of_page_and_terminal(tmp_path, capsys):
    mark = {"made_by": place.MADE_BY, "source": {}}
    model = {"size": 2e6, "perplexity": 1.01, "stopped": 3, "asked": 4, "dtype": "bfloat16", "first_token": 0.02,
             "tokens_per_second": 50.0}  # fmt: skip
    figures = {"model": model, "quantised": model | {"size": 1e6, "perplexity": 1.02, "tokens_per_second": 60.0}}
    made = {"bits": 4, "figures": figures, "kept_in_spite_of": ["perplexity"]}
    other = {"model": model | {"dtype": "float32"}, "gguf": model | {"dtype": "float32", "perplexity": None}}
    files = {"quantised-4bit/export.json": mark, "quantised-4bit/quantise.json": made,
             "gguf-8bit/export.json": mark | {"format": "gguf", "bits": 8, "figures": other},
             "gguf-16bit/export.json": mark | {"format": "gguf", "bits": 16}}  # fmt: skip
    run = make_run(tmp_path / "r", **files)
    said = (
        "4 bits, FORCE=1 1.00 1.0200 3 of 4 bfloat16 20.0 60.0 50.0 GGUF, 8 bits 2.00 - 3 of 4 float32 20.0 50.0 50.0"
    )
    assert f"the model 2.00 1.0100 3 of 4 bfloat16 20.0 50.0 {said}" in page_of(run).text, "one was never measured"
    print_summary(run)
    assert said in " ".join(capsys.readouterr().out.split())
