"""The memory that a training needs, foretold from config.json."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, Qwen3Config

from train import memory_trace
from train.memory import check_memory, estimate
from train.model import build_trainable
from train.recipe import with_defaults

LLAMA = LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=14, num_attention_heads=12,
                    num_key_value_heads=12, vocab_size=32000).to_dict()  # fmt: skip
WIDER = LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=20, num_attention_heads=16,
                    num_key_value_heads=4, vocab_size=32000).to_dict()  # fmt: skip
QWEN = Qwen3Config(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                   num_key_value_heads=4, head_dim=128, vocab_size=150000,
                   tie_word_embeddings=True).to_dict()  # fmt: skip
TINY = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
                   num_key_value_heads=2, vocab_size=500).to_dict()  # fmt: skip
GIGA = 1_000_000_000

# Greatest resident size of a rank of train.finetune, in GB: 2 steps, rows of max_length tokens,
# on Linux with glibc 2.36.
MEASURED = [
    (LLAMA, 1, 4, 3.18, {}),
    (LLAMA, 1, 2, 1.93, {}),
    (LLAMA, 1, 2, 3.37, {"method": "full", "gradient_checkpointing": True}),
    (LLAMA, 1, 2, 4.54, {"use_dora": True}),
    (WIDER, 1, 2, 2.22, {"method": "qlora", "per_device_train_batch_size": 2}),
    (LLAMA, 1, 2, 4.18, {"method": "full", "gradient_checkpointing": True, "packing": False}),
    (LLAMA, 2, 2, 3.03, {"method": "full", "fsdp": True, "per_device_train_batch_size": 2, "max_length": 256,
                         "packing": False}),
    (QWEN, 1, 2, 6.29, {"method": "full", "per_device_train_batch_size": 2, "packing": False}),
]  # fmt: skip


def recipe(**values) -> SimpleNamespace:
    """A recipe with one micro-batch a step, so that no gradient waits for the next."""
    micro = values.setdefault("per_device_train_batch_size", 4)
    values = {"model_name_or_path": "m", "train_file": "t", "global_batch_size": micro, **values}
    return with_defaults(values)


@pytest.mark.parametrize(("config", "ranks", "dtype_bytes", "measured", "changes"), MEASURED)
def test_the_estimate_is_within_a_quarter_of_what_real_runs_took(config, ranks, dtype_bytes, measured, changes):
    found = estimate(recipe(**changes), config, ranks, dtype_bytes)["per_rank"] / GIGA
    assert 0.85 * measured < found < 1.25 * measured


@pytest.mark.parametrize("method", ["lora", "full"])
def test_parameters_are_counted_as_the_training_has_them(tmp_path, method):
    AutoModelForCausalLM.from_config(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    chosen = recipe(method=method, lora_r=5)
    model = build_trainable(chosen, tmp_path, torch.float32)
    found = estimate(chosen, TINY, 1, 4)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert found["trained_parameters"] == trained
    assert found["optimizer"] == 8 * trained
    assert found["weights"] + found["adapter"] == 4 * found["parameters"]


def test_the_number_of_layers_is_reached_by_a_straight_line():
    chosen = recipe(max_length=32)
    config = memory_trace.read_config(TINY)
    line = memory_trace.trace_training(chosen, config, torch.float32)
    whole = memory_trace.trace_micro_batch(chosen, config, torch.float32)
    assert line.forward == pytest.approx(whole.forward, rel=0.01)


def test_each_way_to_save_memory_saves_some():
    plain = estimate(recipe(), TINY, 2, 2)
    known: dict = {}
    for changes, part in (({"gradient_checkpointing": True}, "activations"), ({"method": "qlora"}, "weights"),
                          ({"per_device_train_batch_size": 1}, "activations"), ({"fsdp": True}, "weights"),
                          ({"max_length": 128}, "activations"), ({"optim": "sgd"}, "optimizer")):  # fmt: skip
        found = estimate(recipe(**changes), TINY, 2, 2, known)
        assert found[part] < plain[part]
        assert found["training"] < plain["training"]
    assert plain["all_ranks"] == 2 * plain["per_rank"]


def test_sharding_halves_what_two_ranks_hold_but_not_what_they_load():
    whole, half = (estimate(recipe(method="full", fsdp=fsdp), TINY, 2, 2) for fsdp in (False, True))
    for part in ("weights", "gradients", "optimizer"):
        assert half[part] == whole[part] // 2
    assert half["gathered"] > 0
    assert whole["gradient_buckets"] == whole["gradients"] > half["gradient_buckets"] == 0
    assert half["loading"] > whole["weights"]


def test_accumulated_gradients_are_added_to_the_activations():
    one, more = (estimate(recipe(method="full", global_batch_size=size, max_length=64), TINY, 1, 2) for size in (4, 8))
    assert more["training"] == one["training"] + one["gradients"]


def test_validation_batches_count_where_there_is_validation():
    without = estimate(recipe(), TINY, 1, 2)
    with_it = estimate(recipe(validation_size=8, per_device_eval_batch_size=512, packing=False), TINY, 1, 2)
    assert without["validation_batch"] == 0
    assert with_it["per_rank"] == with_it["validation"] > without["per_rank"]


def test_validation_in_packs_holds_what_a_pack_of_the_training_does():
    known: dict = {}
    few, many, wider = (
        estimate(recipe(validation_size=8, per_device_eval_batch_size=rows, per_device_train_batch_size=train),
                 TINY, 1, 2, known)["validation_batch"] for rows, train in ((1, 4), (512, 4), (1, 8)))  # fmt: skip
    assert few == many < wider


def test_a_model_that_cannot_be_traced_gets_a_generous_formula(monkeypatch):
    traced = estimate(recipe(packing=False), LLAMA, 1, 2)

    def fail(*arguments):
        raise RuntimeError("branches on its numbers")

    monkeypatch.setattr(memory_trace, "trace_micro_batch", fail)
    guessed = estimate(recipe(), LLAMA, 1, 2)
    assert traced["per_rank"] < guessed["per_rank"] < 2.2 * traced["per_rank"]
    checkpointed = estimate(recipe(gradient_checkpointing=True), LLAMA, 1, 2)
    assert checkpointed["per_rank"] < guessed["per_rank"]


def test_an_attention_kernel_that_the_model_lacks_is_a_problem_with_its_fix():
    config = MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=100).to_dict()
    (said,) = check_memory(recipe(), config, 1, 4, 99 * GIGA, "train.yaml")
    assert "attn_implementation: is sdpa" in said
    fitting = recipe(attn_implementation="eager", method="full", max_length=8)
    assert check_memory(fitting, config, 1, 4, 99 * GIGA, "train.yaml") == []
    (said,) = check_memory(recipe(attn_implementation="eager", max_length=8), config, 1, 4, 99 * GIGA, "train.yaml")
    assert "lora_target_modules: PEFT says" in said


def test_a_training_that_fits_has_no_problem():
    assert check_memory(recipe(), LLAMA, 1, 2, 8 * GIGA, "train.yaml") == []


def test_too_little_memory_is_said_with_numbers_and_with_changes_that_fit():
    (said,) = check_memory(recipe(), LLAMA, 2, 2, 4 * GIGA, "train.yaml")
    assert said.startswith("train.yaml: memory: lora of 150 million parameters needs about ")
    assert "2 processes x " in said
    assert "4.0 GB are available" in said
    fix = said.split("fix: ")[1].removesuffix(" (docs/runbooks/rank-killed-for-memory.md)")
    for change in fix.split("; or "):
        assert float(change.rsplit("(", 1)[1].removesuffix(" GB)")) <= 4.0
    assert "gradient_checkpointing: true (" in fix
    assert "NPROC=1 (" in fix


def test_where_no_single_change_is_enough_several_together_are_named():
    (said,) = check_memory(recipe(), LLAMA, 2, 2, 2 * GIGA, "train.yaml")
    assert (
        "NPROC=1 with per_device_train_batch_size: 1, per_device_eval_batch_size: 1, gradient_checkpointing: true"
        in said
    )
    assert "method: qlora" not in said


def test_where_nothing_fits_a_smaller_model_is_the_advice():
    least = recipe(max_length=64, per_device_train_batch_size=1, per_device_eval_batch_size=1,
                   gradient_checkpointing=True)  # fmt: skip
    (said,) = check_memory(least, TINY, 1, 2, GIGA // 2, "train.yaml")
    assert "take a smaller model" in said
