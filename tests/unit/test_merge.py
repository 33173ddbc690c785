"""Merging an adapter into its base gives the numbers that PEFT gives, in files like the base's, with a record."""

import json
import sys
from pathlib import Path

import pytest
import torch
from merge_cases import GPT2, WEIGHTS, base_model, merged_by_peft, name_base, pair
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from train import merge as program
from train.errors import InputError
from train.merge import merge

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kind", "dtype", "lora"),
    [
        ("llama", BF16, {"target_modules": ALL}),
        ("llama", FP16, {"use_rslora": True, "r": 8}),
        ("llama", FP32, {"target_modules": "all-linear", "exclude_modules": ["k_proj"]}),
        ("llama", BF16, {"use_dora": True, "target_modules": ALL}),
        ("llama", FP32, {"use_dora": True, "use_rslora": True}),
        ("llama", FP32, {"target_modules": r".*layers\.[12]\..*(q|v)_proj"}),
        ("llama", BF16, {"layers_to_transform": [0, 2], "layers_pattern": "layers"}),
        ("llama", BF16, {"modules_to_save": ["lm_head", "norm"]}),
        ("llama", FP32, {"modules_to_save": ["embed_tokens"]}),
        ("llama", FP32, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
        (
            "llama",
            FP16,
            {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {r"layers\.[12]\..*v_proj": 32}},
        ),
        ("qwen3 tied", BF16, {"target_modules": ALL, "init_lora_weights": "gaussian"}),
        ("gpt2", FP32, {"target_modules": GPT2}),
        ("gpt2", BF16, {"target_modules": GPT2, "use_dora": True, "fan_in_fan_out": True}),
    ],
)
def test_a_merge_is_what_peft_merges_within_rounding(tmp_path, kind, dtype, lora):
    base, adapter = pair(tmp_path, lora, kind, dtype=dtype)
    record = merge(base, adapter, tmp_path / "merged", check_logits=False)
    expected = merged_by_peft(base, adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert merged.keys() == expected.keys()
    changed = 0
    for name, value in merged.items():
        assert value.dtype == dtype
        changed += not torch.equal(value, before[name])
        # PEFT computes in float32, so for a float32 base its own error is a few steps of the largest numbers.
        size = torch.maximum(expected[name].double().abs(), before[name].double().abs())
        limit = size.clamp_min(float(size.max()) * (4 if dtype == FP32 else 1 / 16)) * torch.finfo(dtype).eps
        assert bool(((value.double() - expected[name].double()).abs() <= limit).all()), name
    assert changed == sum(record["targets"].values())
    assert len(record["checks"]) == 6


@pytest.mark.parametrize(
    ("kind", "dtype", "lora"),
    [
        ("llama", BF16, {"use_dora": True}),
        ("llama", FP32, {"modules_to_save": ["lm_head"]}),
        ("qwen3 tied", FP16, {"use_rslora": True}),
        ("gpt2", BF16, {"target_modules": GPT2}),
    ],
)
def test_the_logits_of_merged_and_base_plus_adapter_agree_within_rounding(tmp_path, kind, dtype, lora):
    base, adapter = pair(tmp_path, lora, kind, dtype=dtype)
    logits = merge(base, adapter, tmp_path / "merged")["checks"][-1]
    assert logits["result"] == "passed"
    assert logits["error"] <= logits["tolerance"] < logits["adapter_effect"] / 4
    assert logits["top1_agreement"] > 0.9


def save_tokenizer(path: Path, words: int) -> None:
    """A tokenizer of that many words, w0, w1, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)


def test_the_logits_are_compared_on_the_given_prompts(tmp_path):
    base, adapter = pair(tmp_path)
    save_tokenizer(adapter, 96)
    record = merge(base, adapter, tmp_path / "merged", prompts=["w1 w2 w3", "", "w4 w5"])
    assert "on 2 prompts" in record["checks"][-1]["figure"]
    assert "of 5 positions" in record["checks"][-1]["figure"]


def test_a_broken_tokenizer_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    (adapter / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="the tokenizer cannot be loaded"):
        merge(base, adapter, tmp_path / "merged")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    save_tokenizer(adapter, 200)
    with pytest.raises(InputError, match="gives token 150, but the model has 96 tokens"):
        merge(base, adapter, tmp_path / "merged", prompts=["w1 w150"])


def test_the_shards_index_and_headers_are_the_bases_and_other_tensors_keep_their_bits(tmp_path):
    base, adapter = pair(tmp_path, shard_size="40KB")
    record = merge(base, adapter, tmp_path / "merged", check_logits=False)
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors")) == shards
    index = "model.safetensors.index.json"
    assert (tmp_path / "merged" / index).read_bytes() == (base / index).read_bytes()
    for name in shards:
        old, new = load_file(base / name), load_file(tmp_path / "merged" / name)
        assert list(old) == list(new)
        assert (tmp_path / "merged" / name).stat().st_size == (base / name).stat().st_size
        for key in old:
            target = key.endswith(("q_proj.weight", "v_proj.weight"))
            assert torch.equal(old[key], new[key]) != target, key
    assert record["targets"] == {"lora": 6}


def test_the_record_holds_size_and_hash_of_every_file_and_says_whether_the_base_is_identified(tmp_path):
    base, adapter = pair(tmp_path)
    foreign = merge(base, adapter, tmp_path / "foreign", check_logits=False)
    assert foreign["base"]["identity"] == "base not identified"
    name_base(base, adapter)
    record = merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert "hashes are those" in record["base"]["identity"]
    assert record["base"]["files"] == json.loads((adapter / "base_model.json").read_text())["files"]
    assert json.loads((tmp_path / "merged" / "merge.json").read_text()) == record
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert files == record["files"].keys() | {"merge.json"}
    assert record["checks"][-1]["result"] == "skipped"


def test_small_files_are_carried_along_and_weights_in_other_formats_are_not(tmp_path):
    base, adapter = pair(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE", "merge.json",
                 "pytorch_model.bin", "consolidated.safetensors", ".hidden"):  # fmt: skip
        (base / name).write_text(f"base's {name}")
    (base / "original").mkdir()
    record = merge(base, adapter, tmp_path / "one", check_logits=False)
    assert (tmp_path / "one" / "chat_template.jinja").read_text() == "base's chat_template.jinja"
    assert (tmp_path / "one" / "LICENSE").exists()
    left_out = {"pytorch_model.bin", "consolidated.safetensors", ".hidden", "original", "merge.json"}
    assert set(record["carried"]["left_out"]) == left_out
    (adapter / "chat_template.jinja").write_text("adapter's")
    merge(base, adapter, tmp_path / "two", check_logits=False)
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "adapter's"
    assert (tmp_path / "two" / "tokenizer_config.json").exists()
    (adapter / "tokenizer_config.json").write_text("adapter's")
    merge(base, adapter, tmp_path / "three", check_logits=False)
    assert (tmp_path / "three" / "tokenizer_config.json").read_text() == "adapter's"
    assert not (tmp_path / "three" / "special_tokens_map.json").exists()


def test_a_checkpoint_without_the_models_prefix_is_merged_by_transformers_own_names(tmp_path):
    base, adapter = pair(tmp_path, {"target_modules": GPT2}, "gpt2", dtype=FP32)
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(base / WEIGHTS).items()}
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    merge(base, adapter, tmp_path / "merged")
    assert load_file(tmp_path / "merged" / WEIGHTS).keys() == tensors.keys()


def test_the_program_prints_every_check_and_leaves_with_2_on_bad_input(tmp_path, monkeypatch, capsys):
    from train.errors import run_program

    base, adapter = pair(tmp_path)
    arguments = ["merge", "--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "merged")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--skip-logits"])
    program.main()
    printed = capsys.readouterr().out
    assert printed.count("passed") == 5
    assert "skipped as asked" in printed
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], str(base)])
    with pytest.raises(SystemExit) as left:
        run_program(program.main)
    assert left.value.code == 2


def test_the_shared_bases_were_not_touched():
    assert all(not (base_model(kind) / "merge.json").exists() for kind in ("llama", "gpt2", "qwen3 tied"))
