"""Every adapter that does not fit its base, and every setting a merge would not honour, is refused by name."""

import json
import os
import shutil

import pytest
import torch
from merge_cases import A0, B0, Q0, WEIGHTS, edit_json, edit_tensors, name_base, pair, refusal
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from train.merge import merge

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


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
