"""GGUF: each architecture is read back equal by transformers' own reader, and what cannot be exported is named.

.venv/bin/python -m pytest tests/unit/test_gguf.py
"""

import json
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.tiny import ROOT, make_model
from train import gguf_export
from train.errors import InputError
from train.gguf_check import TEXTS, check_answers, compare, load_both
from train.gguf_export import write_gguf
from train.gguf_tensors import check_architecture, rope_factors
from train.gguf_tokenizer import read_vocabulary, scores_of
from train.ollama import derive

DEMO = ROOT / "demo" / "model"
SHAPE = {"vocab_size": 768, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "eos_token_id": 2,
         "bos_token_id": None, "pad_token_id": 3, "tie_word_embeddings": False, "sliding_window": None}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
MODELS = {
    "llama": {},
    "llama-3-rope": {"rope_parameters": LLAMA3},
    "llama-tied": {"tie_word_embeddings": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 32, "tie_word_embeddings": True},
    "gemma3_text": {"sliding_window": 32, "tie_word_embeddings": True},
}


def make(directory: Path, name: str, **changes) -> Path:
    """A random model of an architecture with the demo's tokenizer; norms and biases random too."""
    values = SHAPE | MODELS.get(name, {}) | changes
    kind = name.split("-")[0]
    if kind == "qwen2":
        values = {key: value for key, value in values.items() if key != "head_dim"}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values), dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.bfloat16).save_pretrained(directory)
    for path in [*DEMO.glob("tokenizer*"), DEMO / "chat_template.jinja"]:
        shutil.copy(path, directory)
    return directory


def export(*words: object) -> SimpleNamespace:
    """The program in this process, where nothing is imported again: status, what it printed, what it objected to."""
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["gguf_export", *map(str, words)])
        try:
            status, problems = gguf_export.main(), ""
        except InputError as error:
            status, problems = 2, str(error)
    return SimpleNamespace(returncode=status, stdout=printed.getvalue(), stderr=problems)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_read_back_equal(tmp_path, name):
    pytest.importorskip("gguf")
    model = make(tmp_path / name, name)
    config = AutoConfig.from_pretrained(model)
    assert check_architecture(config, model) == []
    path = tmp_path / "model.gguf"
    write_gguf(path, config, read_vocabulary(model, config.vocab_size), model, 16)
    checks = compare(load_both(path, model), TEXTS)
    assert [check["check"] for check in checks] == ["weights", "tokens", "logits", "stops"]
    assert [check for check in checks if not check["passed"]] == []


def test_eight_bits_are_within_a_step_and_smaller_and_the_same_again_does_nothing(tmp_path):
    pytest.importorskip("gguf")
    model = make(tmp_path / "m", "qwen3")
    assert export("--model", model, "--bits", 8).returncode == 0
    record = json.loads((tmp_path / "m-gguf-8bit" / "export.json").read_text())
    assert record["size"] < 0.8 * record["size_of_model"]
    again = export("--model", model, "--bits", 8)
    assert again.returncode == 0
    assert "exported before" in again.stdout
    assert export("--model", model, "--bits", 8, "--remove").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


FIGURES = {"perplexity": 2.0, "asked": 4, "stopped": 3}


@pytest.mark.parametrize(
    ("bits", "changes", "failed"),
    [
        (16, {"perplexity": 2.001}, []),
        (8, {"perplexity": 2.019}, []),
        (16, {"perplexity": 2.003}, ["perplexity"]),
        (8, {"perplexity": 2.021}, ["perplexity"]),
        (8, {"perplexity": float("nan"), "stopped": 2}, ["answers", "perplexity"]),
        (8, {"stopped": 4}, []),
    ],
)
def test_a_file_whose_answers_are_not_the_models_is_refused(bits, changes, failed):
    checks = check_answers(FIGURES, FIGURES | changes, bits)
    assert [check["check"] for check in checks if not check["passed"]] == failed


def test_a_model_without_rows_is_judged_by_how_answers_end_alone():
    without = FIGURES | {"perplexity": None}
    assert [check["check"] for check in check_answers(without, without, 8)] == ["answers"]


def test_the_file_carries_template_stops_and_flags(tmp_path):
    gguf = pytest.importorskip("gguf")
    assert export("--model", make(tmp_path / "m", "qwen3")).returncode == 0
    reader = gguf.GGUFReader(tmp_path / "m-gguf-16bit" / "model.gguf")
    assert reader.get_field("tokenizer.chat_template").contents() == (DEMO / "chat_template.jinja").read_text()
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == 2
    assert reader.get_field("tokenizer.ggml.add_bos_token").contents() is False
    assert 'PARAMETER stop "<|im_end|>"' in (tmp_path / "m-gguf-16bit" / "Modelfile").read_text()


def test_the_template_of_ollama_is_the_chat_template():
    derived = derive(AutoTokenizer.from_pretrained(DEMO))
    assert derived.startswith("{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}")


def test_a_template_that_says_more_gives_no_template_of_ollama():
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert derive(tokenizer) is None


def test_scores_follow_the_order_of_the_merges():
    assert scores_of(["a", "ab", "abc"], [["a", "b"], ["ab", "c"]]) == [-1e6, 0.0, -1.0]


def test_llama_3s_frequencies_are_divided_as_transformers_does():
    config = AutoConfig.for_model("llama", **SHAPE, rope_parameters=LLAMA3)
    scaled = LlamaRotaryEmbedding(config).inv_freq
    plain = LLAMA3["rope_theta"] ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(rope_factors(config), plain / scaled)


# ---- what is refused ----


def no_model(directory: Path) -> None:
    (directory / "config.json").unlink()


def not_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def change(**values):
    def edit(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | values))

    return edit


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def other_pattern(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "x+"}
    path.write_text(json.dumps(content))


def in_the_way(directory: Path) -> None:
    (directory.with_name("m-gguf-16bit")).mkdir()


REFUSED = {
    "no config": (no_model, "has no config.json"),
    "broken config": (not_json, "is not JSON"),
    "quantised already": (change(quantization_config={"quant_method": "gptq"}), "gptq: the model is quantised already"),
    "another architecture": (
        change(model_type="gpt_neox"),
        "model_type: gpt_neox cannot be exported to GGUF; what can",
    ),
    "a window": (change(sliding_window=8, use_sliding_window=True), "sliding_window: 8"),
    "another rope": (change(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "rope_type"),
    "biases": (change(attention_bias=True), "attention_bias"),
    "no weights": (no_weights, "has no .safetensors"),
    "another pattern": (other_pattern, "text is cut by a pattern that is not known here"),
    "something in the way": (in_the_way, "was not made by make quantise or make export"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_with_its_reason_and_nothing_is_left(tmp_path, name):
    pytest.importorskip("gguf")
    edit, expected = REFUSED[name]
    edit(make(tmp_path / "m", "qwen3"))
    done = export("--model", tmp_path / "m")
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "fix: " in done.stderr
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_tokenizer_of_whole_words_is_refused(tmp_path):
    pytest.importorskip("gguf")
    make_model(tmp_path / "m")
    assert "model.type: WordLevel cannot be exported to GGUF" in export("--model", tmp_path / "m").stderr


def test_wrong_words_are_told_all_at_once(tmp_path):
    done = export("--run", "none", "--format", "onnx", "--bits", 3, "--runs-dir", tmp_path)
    assert done.returncode == 2
    for expected in ("FORMAT: onnx", "BITS: 3", "RUN: none"):
        assert expected in done.stderr


def test_a_run_that_is_not_merged_says_so(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text("{}")
    assert "has neither merged/ nor model/" in export("--run", "r", "--runs-dir", tmp_path).stderr


def test_neither_run_nor_model_says_so(tmp_path):
    assert "both are empty" in export("--runs-dir", tmp_path).stderr
