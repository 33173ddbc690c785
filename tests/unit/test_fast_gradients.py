"""Packs with fused adapters give the loss and the gradients of the plain path, in float32 but for rounding."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers

from tests.unit.fast_cases import (
    FAMILIES,
    SHAPE,
    largest_difference,
    make_family,
    make_rows,
    plain_step,
    take_gradients,
)
from tests.unit.fast_cases import with_adapter as adapted
from train.fast import attention, gated
from train.fast.choose import FastPath, choose_path
from train.fast.packs import Row, cut, make_pack, sort_rows
from train.model import build_trainable
from train.recipe import with_defaults

# The largest over all cases was 4e-6; a wrong mask, position or scale makes more than 1e-2.
ROUNDING = 2e-5


def fast(model: torch.nn.Module, method: str = "lora", **values) -> FastPath:
    """Switch the fast paths on as a recipe does."""
    recipe = with_defaults({"model_name_or_path": "m", "train_file": "t", "method": method, **values})
    return choose_path(
        recipe,
        model,
        next(weight.dtype for weight in model.parameters() if not weight.requires_grad or method == "full"),
    )


def packed_step(model: torch.nn.Module, rows, share: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss and gradients through packs of 150 tokens."""
    total = 0.0
    for part in cut(sort_rows(rows), 150, share):
        loss = model(pack=make_pack(part, share))
        loss.backward()
        total += loss.item()
    return total, take_gradients(model)


def assert_same(model: torch.nn.Module, share: bool, method: str = "lora", **values) -> FastPath:
    """Both ways give the same; returns what was switched on."""
    rows = make_rows()
    loss, gradients = plain_step(model, rows)
    path = fast(model, method, **values)
    assert path.packing and path.shared_prefixes, path.notes
    packed_loss, packed_gradients = packed_step(model, rows, share)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert largest_difference(packed_gradients, gradients) < ROUNDING
    return path


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, share):
    path = assert_same(adapted(make_family(family)), share)
    in_vision = 3 if "images" in family else 0
    assert path.fused_adapters == (12 if "moe" in family else 21 + in_vision) and not path.autocast
    layers, norms = 3, {"qwen3": 4, "qwen3 moe": 4, "gemma2": 4, "gemma3": 6, "gemma3 with images": 6}.get(family, 2)
    assert path.lean_norms == norms * layers + (2 if "images" in family else 1)
    assert path.lean_feed_forwards == (0 if "moe" in family else layers)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_tied_embeddings(family):
    assert_same(adapted(make_family(family, tied=True)), share=True)


@pytest.mark.parametrize(
    "changes",
    [{"use_rslora": True}, {"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["up_proj", "down_proj"]},
     {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 3}}],
    ids=["rslora", "attention", "mlp", "ranks"],
)  # fmt: skip
def test_adapters_of_several_kinds(changes):
    path = assert_same(adapted(make_family("llama"), **changes), share=True)
    assert path.notes == []


def test_dora_is_computed_by_peft_and_says_so():
    path = assert_same(adapted(make_family("llama"), use_dora=True), share=True)
    assert path.fused_adapters == 0 and path.autocast
    assert {note.partition(": ")[2].partition(": ")[2] for note in path.notes} == {"DoRA"}


def test_an_output_layer_with_an_adapter_and_one_that_is_trained():
    assert_same(adapted(make_family("llama"), target_modules=["q_proj", "lm_head"]), share=True)
    model = adapted(make_family("llama"), modules_to_save=["lm_head"])
    assert_same(model, share=True, modules_to_save=["lm_head"])


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3 moe"])
def test_training_every_weight(family):
    assert_same(make_family(family).train(), share=True, method="full")


def test_activations_computed_twice():
    model = adapted(make_family("llama"))
    rows = make_rows()
    loss, gradients = plain_step(model, rows)
    fast(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    packed_loss, packed_gradients = packed_step(model, rows, share=True)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert largest_difference(packed_gradients, gradients) < ROUNDING


def test_bfloat16_differs_from_float32_no_more_than_the_plain_path_does():
    rows = make_rows()
    _, exact = plain_step(adapted(make_family("llama")), rows)
    _, plain = plain_step(with_float32_adapter(make_family("llama")), rows)
    model = with_float32_adapter(make_family("llama"))
    fast(model)
    _, packed = packed_step(model, rows, share=True)
    norm = torch.stack([gradient.norm() for gradient in exact.values()]).norm()
    far = [torch.stack([(way[name] - exact[name]).norm() for name in exact]).norm() / norm for way in (plain, packed)]
    assert far[1] < 1.5 * far[0] and far[0] > 1e-4


def with_float32_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """The base in bfloat16, the adapter in float32, as train.model builds it."""
    return adapted(model.to(torch.bfloat16))


def test_a_gate_that_is_linear():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, hidden_act="linear")
    assert assert_same(adapted(transformers.LlamaForCausalLM(config)), share=True).lean_feed_forwards == 3


def test_nothing_below_the_lowest_adapter_gets_a_gradient(monkeypatch):
    model = adapted(make_family("llama"), target_modules=["down_proj"])
    wanted = []
    own = gated.gradients
    monkeypatch.setattr(gated, "gradients", lambda *given: wanted.append(given[-1]) or own(*given))
    assert_same(model, share=True)
    assert wanted.count(False) * 2 == wanted.count(True) > 0, "of three layers the lowest wants none"


def test_dropout_drops_the_share_it_should_and_scales_the_rest():
    model = adapted(make_family("llama"), target_modules=["q_proj"], lora_dropout=0.4)
    fast(model, lora_dropout=0.4)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.ones(1, 20000, 64)
    low = [layer(x) - layer.base_layer(x) for _ in range(2)]
    assert not torch.equal(*low)
    without = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    assert torch.allclose(low[0].mean(1), without.mean(1), atol=0.02 * without.abs().max().item())


def test_dropout_has_the_gradient_of_its_own_mask():
    from train.fast.lora import Fused

    generator = torch.Generator().manual_seed(0)
    x, w, a, b = (torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
                  for size in ((5, 6), (7, 6), (2, 6), (7, 2)))  # fmt: skip

    def operation(x, a, b):
        torch.manual_seed(3)
        return Fused.apply(x, w.detach(), None, a, b, 0.5, 0.3)

    assert torch.autograd.gradcheck(operation, (x, a, b))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_rows_in_random_packs(seed):
    draw = np.random.default_rng(seed)
    rows = make_rows(seed)
    model = adapted(make_family("qwen2"))
    loss, gradients = plain_step(model, rows)
    assert fast(model).packing
    total = 0.0
    order = sort_rows(rows)
    bounds = [0, *sorted(draw.choice(np.arange(1, len(rows)), size=3, replace=False).tolist()), len(rows)]
    for first, last in pairwise(bounds):
        packed = model(pack=make_pack(order[first:last], share=bool(draw.integers(2))))
        packed.backward()
        total += packed.item()
    assert total == pytest.approx(loss, rel=1e-5)
    assert largest_difference(take_gradients(model), gradients) < ROUNDING


def test_rows_so_long_that_pytorchs_kernel_computes_their_gradients(monkeypatch):
    draw, called = np.random.default_rng(0), []
    own = attention.flash_backward
    monkeypatch.setattr(attention, "flash_backward", lambda *given, **more: called.append(1) or own(*given, **more))
    head = draw.integers(2, 96, 160)
    ends = [draw.integers(2, 96, count) for count in (90, 70, 5)]
    rows = [Row(np.concatenate([head, end]).astype(np.int32), (np.arange(160 + len(end)) >= 160).astype(np.uint8))
            for end in ends]  # fmt: skip
    model = adapted(make_family("llama"))
    loss, gradients = plain_step(model, rows)
    called.clear()
    assert fast(model).packing and not called, "the trial's rows are short"
    packed = model(pack=make_pack(sort_rows(rows), share=True))
    packed.backward()
    assert len(called) == 2 * 3, "of the common beginning and of what follows it, in three layers"
    assert packed.item() == pytest.approx(loss, rel=1e-5)
    assert largest_difference(take_gradients(model), gradients) < ROUNDING


def test_fused_adapters_of_4_bit_weights_have_pefts_gradients(tmp_path):
    make_family("llama").save_pretrained(tmp_path)
    values = {"model_name_or_path": "m", "train_file": "t", "method": "qlora", "lora_r": 4}
    model = build_trainable(with_defaults(values), tmp_path, torch.float32)
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05, generator=draw)
    path = assert_same(model, share=True, method="qlora")
    assert path.fused_adapters == 21 and path.notes == []
