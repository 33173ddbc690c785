"""A model that keeps its bfloat16 weights and computes in float32 gives what its float32 copy gives, bit by bit."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    Qwen3Config,
)

from train import proof_logits
from train.errors import InputError
from train.in_float32 import in_float32
from train.proof_logits import forward, rounding_noise, weights_dtype

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
         "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "llama, tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": MistralConfig(**GROUPED),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen3": Qwen3Config(**GROUPED),
    "gemma3": Gemma3TextConfig(**GROUPED),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64, bos_token_id=0, eos_token_id=0),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "phi": PhiConfig(**SIZES),
}
IDS = torch.arange(1, 25).view(2, 12)


def made(kind: str) -> torch.nn.Module:
    """A tiny model of a family with random bfloat16 weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind]).to(torch.bfloat16).eval()


def storages(model: torch.nn.Module) -> dict[str, int]:
    """Where each parameter lies."""
    return {name: one.data_ptr() for name, one in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_those_of_the_float32_copy_and_the_weights_stay_as_they_were(kind):
    model = made(kind)
    before = storages(model)
    with torch.inference_mode():
        with in_float32(model):
            logits = model(input_ids=IDS).logits
        assert storages(model) == before
        expected = copy.deepcopy(model).float()(input_ids=IDS).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_change_reaches_the_copies_alone_in_every_place_of_a_tied_weight():
    model = made("llama, tied")
    head = model.lm_head.weight

    def double(parameter, values):
        if parameter is head:
            values.mul_(2)

    with torch.inference_mode():
        with in_float32(model, double):
            logits = model(input_ids=IDS).logits
        doubled = copy.deepcopy(model).float()
        doubled.lm_head.weight.mul_(2)
        assert torch.equal(logits, doubled(input_ids=IDS).logits)
    assert model.lm_head.weight is head


def test_the_weights_are_back_after_an_error():
    model = made("llama")
    before = storages(model)
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), in_float32(model):
        model(input_ids=IDS)
    assert storages(model) == before


class Borrower(torch.nn.Module):
    """An output projection that multiplies by its child's weight instead of running the child."""

    def __init__(self, child: torch.nn.Linear) -> None:
        super().__init__()
        self.child = child

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rows, self.child.weight)


def test_a_model_whose_modules_use_each_others_weights_becomes_one_of_float32():
    model = made("llama")
    model.lm_head = Borrower(model.lm_head)
    batches = [row.unsqueeze(0) for row in IDS]
    with torch.inference_mode():
        expected = forward(made("llama"), batches)
        assert torch.equal(forward(model, batches), expected)
    assert model.dtype == torch.float32


def test_where_the_memory_for_a_float32_model_lacks_that_is_said(monkeypatch):
    model = made("llama")
    model.lm_head = Borrower(model.lm_head)
    model.name_or_path = "models/odd"
    monkeypatch.setattr(proof_logits, "memory_available", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"models/odd: comparing logits needs .* GiB of memory"):
        forward(model, [row.unsqueeze(0) for row in IDS])
    assert model.dtype == torch.bfloat16


def test_rounding_noise_is_within_half_a_step_and_the_same_each_time():
    model = made("llama")
    weight = model.model.layers[0].mlp.down_proj.weight
    target = SimpleNamespace(parameter="model.layers.0.mlp.down_proj.weight", tensor=SimpleNamespace(dtype="BF16"))
    with torch.inference_mode():
        first, second, other = (weight.float() for _ in range(3))
        for values in (first, second):
            rounding_noise(model, SimpleNamespace(targets=[target]))(weight, values)
        rounding_noise(model, SimpleNamespace(targets=[target]))(model.lm_head.weight, other)
    exact = weight.detach().float()
    steps = (first - exact) / torch.exp2(exact.abs().log2().floor()) / torch.finfo(weight.dtype).eps
    assert 0.49 < float(steps.abs().max()) <= 0.5
    assert float(steps.std()) == pytest.approx(12**-0.5, rel=0.1)
    assert torch.equal(first, second)
    assert torch.equal(other, weight.float())


@pytest.mark.parametrize(
    ("held", "dtype"),
    [(["BF16"], torch.bfloat16), (["F16", "I64"], torch.float16), (["BF16", "F32"], torch.float32),
     (["F32"], torch.float32)],
)  # fmt: skip
def test_a_base_is_loaded_in_the_format_that_holds_all_its_weights(held, dtype):
    tensors = {str(number): SimpleNamespace(dtype=one) for number, one in enumerate(held)}
    assert weights_dtype(SimpleNamespace(tensors=tensors)) == dtype
