"""Merging an adapter into its base: the right numbers, every defect refused by name, nothing half-written."""

import errno
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from merge_cases import A0, B0, Q0, WEIGHTS, base_model, edit_json, edit_tensors, merged_by_peft, name_base, pair
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from train import merge as program
from train import merge_output
from train.base_model import read_base
from train.errors import InputError
from train.merge import merge

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def refusal(base: Path, adapter: Path, output: Path, **options: object) -> str:
    """The message of a merge that must be refused and must leave nothing behind."""
    with pytest.raises(InputError) as caught:
        merge(base, adapter, output, check_logits=False, **options)
    assert not output.exists()
    assert not output.with_name(output.name + ".tmp").exists()
    return str(caught.value)


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


# Refused: the adapter belongs to another base, or one of the two is damaged.


def test_an_adapter_of_another_base_is_refused_by_the_bases_hashes(tmp_path):
    base, adapter = pair(tmp_path)
    name_base(base, adapter)
    edit_tensors(base / WEIGHTS, lambda tensors: tensors[Q0].neg_())
    message = refusal(base, adapter, tmp_path / "merged")
    assert "model.safetensors: the adapter belongs to another base: sha256" in message
    assert "tiny, revision r1" in message


def test_an_adapter_of_another_base_is_refused_before_the_merge_where_its_config_or_files_differ(tmp_path):
    base, adapter = pair(tmp_path, shard_size="100KB")
    name_base(base, adapter)
    edit_json(base / "config.json", rms_norm_eps=1e-5)
    edit_json(adapter / "base_model.json", files={**json.loads((adapter / "base_model.json").read_text())["files"],
                                                  "other.safetensors": {"size": 1, "sha256": ""}})  # fmt: skip
    message = refusal(base, adapter, tmp_path / "merged")
    assert "config.json: the adapter belongs to another base: sha256" in message
    assert "other.safetensors: the adapter belongs to another base: this base lacks it" in message


def test_a_foreign_adapter_of_another_base_is_refused_by_its_shapes(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(
        adapter / "adapter_model.safetensors", lambda tensors: tensors.update({A0: tensors[A0][:, :40].clone()})
    )
    assert f"{A0}: has shape [4, 40], but this base and adapter_config.json need [4, 48]" in refusal(
        base, adapter, tmp_path / "merged"
    )


def test_a_target_missing_in_the_adapter_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: [tensors.pop(A0), tensors.pop(B0)])
    message = refusal(base, adapter, tmp_path / "merged")
    assert f"{A0}, {B0}: 2 tensors that adapter_config.json and the base imply are missing" in message


def test_an_a_without_its_b_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.pop(B0))
    assert f"{B0}: 1 tensors that" in refusal(base, adapter, tmp_path / "merged")


def test_a_tensor_without_a_place_in_the_base_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path)
    extra = A0.replace("layers.0", "layers.7")
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.update({extra: tensors[A0].clone()}))
    assert f"{extra}: 1 tensors have no place in the base" in refusal(base, adapter, tmp_path / "merged")


def test_a_truncated_shard_is_refused_with_its_sizes(tmp_path):
    base, adapter = pair(tmp_path)
    size = (base / WEIGHTS).stat().st_size
    os.truncate(base / WEIGHTS, size - 100)
    message = refusal(base, adapter, tmp_path / "merged")
    assert f"is truncated: {size - 100} bytes, but its header describes {size}" in message
    os.truncate(base / WEIGHTS, 100)
    assert "is truncated inside its header" in refusal(base, adapter, tmp_path / "merged")


def test_a_nan_in_the_adapter_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0][3].fill_(float("nan")))
    assert f"{B0}: holds NaN or infinity" in refusal(base, adapter, tmp_path / "merged")


def test_a_nan_in_the_bases_target_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(base / WEIGHTS, lambda tensors: tensors[Q0][3, 3].fill_(float("nan")))
    assert f"{Q0}: holds NaN or infinity (1 elements)" in refusal(base, adapter, tmp_path / "merged")


def test_a_result_beyond_the_range_of_float16_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path, dtype=FP16)
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].mul_(1e8))
    assert f"{Q0}: holds NaN or infinity" in refusal(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize(("factor", "dtype"), [(0.0, FP32), (1e-7, BF16)])
def test_a_target_that_does_not_change_is_refused_by_name(tmp_path, factor, dtype):
    base, adapter = pair(tmp_path, dtype=dtype)
    edit_tensors(base / WEIGHTS, lambda tensors: tensors[Q0].copy_(tensors[Q0].abs().clamp_min(0.01)))
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].mul_(factor))
    assert f"{Q0}: did not change" in refusal(base, adapter, tmp_path / "merged")


def test_an_index_that_names_a_missing_file_is_refused(tmp_path):
    base, adapter = pair(tmp_path, shard_size="40KB")
    sorted(base.glob("*.safetensors"))[1].unlink()
    assert "model-00002-of" in (message := refusal(base, adapter, tmp_path / "merged"))
    assert "this file is missing" in message


def test_an_index_that_names_a_missing_tensor_is_refused(tmp_path):
    base, adapter = pair(tmp_path, shard_size="40KB")
    index = base / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    first = sorted(set(names.values()))[0]
    edit_json(index, weight_map={**names, "model.extra.weight": first})
    assert "model.extra.weight: the index places it in" in refusal(base, adapter, tmp_path / "merged")


def test_a_tensor_held_by_two_shards_is_refused(tmp_path):
    base, adapter = pair(tmp_path, shard_size="40KB")
    one, two = sorted(base.glob("*.safetensors"))[:2]
    twice = next(iter(load_file(one)))
    edit_tensors(two, lambda tensors: tensors.update({twice: load_file(one)[twice]}))
    assert f"{twice}: is held by {one.name} as well" in refusal(base, adapter, tmp_path / "merged")


def test_a_header_that_lists_a_tensor_twice_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    entry = '"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    header = f"{{{entry}, {entry}}}".encode()
    (base / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    assert "x is listed twice" in refusal(base, adapter, tmp_path / "merged")


def test_pickled_weights_are_refused_in_base_and_adapter_at_once(tmp_path):
    base, adapter = pair(tmp_path)
    (base / WEIGHTS).rename(base / "pytorch_model.bin")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    message = refusal(base, adapter, tmp_path / "merged")
    assert "has only pickled weights (pytorch_model.bin)" in message
    assert "holds only pickled weights (adapter_model.bin)" in message
    assert message.count("convert to safetensors") == 2


def test_a_quantised_base_is_refused_by_its_method(tmp_path):
    base, adapter = pair(tmp_path)
    edit_json(base / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantization_config: the base is quantised (gptq)" in refusal(base, adapter, tmp_path / "merged")


def test_a_target_in_a_dtype_that_cannot_be_merged_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    edit_tensors(base / WEIGHTS, lambda tensors: tensors.update({Q0: tensors[Q0].to(torch.float8_e4m3fn)}))
    assert f"{Q0}: is stored as F8_E4M3" in refusal(base, adapter, tmp_path / "merged")


def test_a_base_that_holds_an_adapter_itself_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    shutil.copy(adapter / "adapter_config.json", base)
    assert "adapter_config.json: lies in the base's directory" in refusal(base, adapter, tmp_path / "merged")


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    edit_json(base / "config.json", model_type="unheard-of")
    assert "model_type: transformers cannot build" in refusal(base, adapter, tmp_path / "merged")


# Refused: configurations that a merge would not honour.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("task_type", "SEQ_CLS"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "mica"),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("lora_bias", True),
        ("megatron_config", {"a": 1}),
        ("corda_config", {"a": 1}),
        ("arrow_config", {"a": 1}),
        ("kasa_config", {"a": 1}),
        ("use_bdlora", {"a": 1}),
        ("velora_config", {"a": 1}),
        ("monteclora_config", {"a": 1}),
        ("ensure_weight_tying", True),
        ("a_field_of_a_later_release", {"a": 1}),
        ("target_modules", ["no_such_layer"]),
    ],
)
def test_a_configuration_that_is_not_honoured_is_refused_by_its_field(tmp_path, field, value):
    base, adapter = pair(tmp_path)
    edit_json(adapter / "adapter_config.json", **{field: value})
    message = refusal(base, adapter, tmp_path / "merged")
    assert "adapter_config.json" in message
    assert (field if field != "target_modules" else "no_such_layer") in message


def test_every_field_of_peft_is_either_honoured_or_refused_when_it_is_not_the_default():
    from dataclasses import fields

    from peft import LoraConfig

    from train.adapter import HANDLED

    names = {field.name for field in fields(LoraConfig)}
    assert names >= HANDLED
    assert len(names - HANDLED) == 18, "a new field is refused by itself; see that its default is what PEFT saves"


def test_trained_biases_are_refused_and_a_bias_setting_without_biases_is_not(tmp_path):
    base, adapter = pair(tmp_path)
    edit_json(adapter / "adapter_config.json", bias="all")
    merge(base, adapter, tmp_path / "fine", check_logits=False)
    bias = A0.replace("lora_A.weight", "base_layer.bias")
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.update({bias: torch.zeros(48)}))
    assert "bias: all is not supported" in refusal(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("lora", [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["embed_tokens"]},
                                  {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}])  # fmt: skip
def test_tied_embeddings_as_targets_are_refused_with_the_reason(tmp_path, lora):
    base, adapter = pair(tmp_path, lora, "qwen3 tied")
    message = refusal(base, adapter, tmp_path / "merged")
    assert "is tied to another layer" in message
    assert next(iter(lora)) in message


def test_dora_on_embeddings_is_refused_by_name(tmp_path):
    base, adapter = pair(tmp_path, {"target_modules": ["embed_tokens"], "use_dora": True})
    assert "DoRA on Embedding" in refusal(base, adapter, tmp_path / "merged")


def test_a_resized_vocabulary_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    key = "base_model.model.model.embed_tokens.weight"
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.update({key: torch.zeros(97, 48)}))
    assert f"{key}: 1 tensors have no place in the base" in refusal(base, adapter, tmp_path / "merged")


def test_experts_that_are_fused_at_loading_are_refused_by_name(tmp_path):
    from transformers import MixtralConfig

    base = tmp_path / "moe"
    config = MixtralConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                           num_key_value_heads=1, num_local_experts=2, vocab_size=64)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    fields = {"peft_type": "LORA", "r": 2, "target_modules": ["gate_up_proj", "q_proj"], "modules_to_save": ["experts"]}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    save_file({"x": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    message = refusal(base, adapter, tmp_path / "merged")
    assert "is put together from other tensors at loading" in message
    assert "experts.gate_up_proj" in message


def test_a_checkpoint_without_the_models_prefix_is_merged_by_transformers_own_names(tmp_path):
    base, adapter = pair(tmp_path, {"target_modules": GPT2}, "gpt2", dtype=FP32)
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(base / WEIGHTS).items()}
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    merge(base, adapter, tmp_path / "merged")
    assert load_file(tmp_path / "merged" / WEIGHTS).keys() == tensors.keys()


# Nothing half-written.


def test_an_output_that_is_no_earlier_merge_is_left_alone(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "other.tmp").mkdir()
    (tmp_path / "other.tmp" / "thesis.txt").write_text("more")
    with pytest.raises(InputError, match="exists and was not made by this program"):
        merge(base, adapter, tmp_path / "mine", check_logits=False)
    with pytest.raises(InputError, match="exists and was not left by a merge"):
        merge(base, adapter, tmp_path / "other", check_logits=False)
    with pytest.raises(InputError, match="lies in it and would be replaced"):
        merge(base, adapter, adapter, check_logits=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert (tmp_path / "other.tmp" / "thesis.txt").exists()


def test_an_earlier_merge_is_replaced_only_after_the_new_one_is_proven(tmp_path):
    base, adapter = pair(tmp_path)
    output = tmp_path / "merged"
    merge(base, adapter, output, check_logits=False)
    first = (output / WEIGHTS).read_bytes()
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].zero_())
    with pytest.raises(InputError, match="did not change"):
        merge(base, adapter, output, check_logits=False)
    assert (output / WEIGHTS).read_bytes() == first
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].fill_(0.1))
    merge(base, adapter, output, check_logits=False)
    assert (output / WEIGHTS).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


@pytest.mark.parametrize("place", ["nothing", "complete", "empty", "marked"])
def test_a_merge_killed_while_it_replaced_an_earlier_one_gives_the_earlier_one_back(tmp_path, place):
    base, adapter = pair(tmp_path)
    output, work = tmp_path / "merged", tmp_path / "merged.tmp"
    merge(base, adapter, output, check_logits=False)
    if place != "nothing":
        work.mkdir()
    if place == "complete":
        shutil.copytree(output, work, dirs_exist_ok=True)
    if place == "marked":
        (work / merge_output.MARK).write_text("")
        (work / WEIGHTS).write_bytes(b"half")
    output.rename(tmp_path / "merged.old")
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].zero_())
    with pytest.raises(InputError, match="did not change"):
        merge(base, adapter, output, check_logits=False)
    assert (output / "merge.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


def test_a_directory_beside_the_output_that_no_merge_left_is_not_touched(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "merged.old").mkdir()
    (tmp_path / "merged.old" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"merged\.old: exists and was not left by a merge"):
        merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert (tmp_path / "merged.old" / "thesis.txt").exists()


def test_a_merge_into_an_empty_directory_works(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "merged").mkdir()
    merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert (tmp_path / "merged" / "merge.json").exists()


def test_a_killed_merge_leaves_no_output_and_the_same_command_ends_well(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path, shard_size="40KB")
    output, work = tmp_path / "merged", tmp_path / "merged.tmp"
    write = program.write_all
    monkeypatch.setattr(program, "write_all", lambda *given: (write(*given), time.sleep(0.1)))
    options = {"check_logits": False}
    process = multiprocessing.get_context("fork").Process(target=merge, args=(base, adapter, output), kwargs=options)
    process.start()
    monkeypatch.undo()
    deadline = time.monotonic() + 60
    while len(list(work.glob("*.safetensors"))) < 2:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(InputError, match="another merge is working there"):
        merge(base, adapter, output, check_logits=False)
    process.kill()
    process.join()
    assert not output.exists()
    assert work.exists()
    merge(base, adapter, output, check_logits=False)
    assert (output / "merge.json").exists()
    assert not work.exists()


def test_a_full_disk_ends_the_merge_with_a_clear_message_and_nothing_left(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(program, "write_all", full)
    message = refusal(base, adapter, tmp_path / "merged")
    assert "No space left on device" in message
    assert "free space there" in message


def test_too_little_space_is_found_before_the_first_byte(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    monkeypatch.setattr(merge_output.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(program, "write_weights", lambda *_: pytest.fail("must not start"))
    assert "0.0 GB are free" in refusal(base, adapter, tmp_path / "merged")
    (tmp_path / "merged.tmp").mkdir()
    (tmp_path / "merged.tmp" / merge_output.MARK).write_text("")
    with (tmp_path / "merged.tmp" / WEIGHTS).open("wb") as left:
        left.truncate(1 << 30)  # what a killed merge left is cleared away, so it counts as free
    merge_output.check_space(read_base(base), tmp_path / "merged")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="an --output that can be written"):
        merge(base, adapter, tmp_path / "file" / "merged", check_logits=False)


def test_the_problems_of_base_adapter_and_output_are_told_at_once(tmp_path):
    base, adapter = pair(tmp_path)
    os.truncate(base / WEIGHTS, 1000)
    edit_json(adapter / "adapter_config.json", use_qalora=True, lora_bias=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    with pytest.raises(InputError) as caught:
        merge(base, adapter, tmp_path / "mine", check_logits=False)
    assert len(caught.value.problems) == 4


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
