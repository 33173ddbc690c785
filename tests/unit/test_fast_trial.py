"""What is trained is what was tried: the trial runs fused parts and packs, forward and backward, each pack once."""

import pytest
import torch

from tests.unit.fast_cases import make_family, make_rows, plain_step
from tests.unit.fast_cases import with_adapter as adapted
from train.fast import attention, lora
from train.fast.choose import FastPath, choose_path
from train.recipe import with_defaults


def choose(model: torch.nn.Module, **values) -> FastPath:
    """What is chosen for a LoRA recipe with these values."""
    return choose_path(with_defaults({"model_name_or_path": "m", "train_file": "t"} | values), model, torch.float32)


def spoil(monkeypatch, module, name: str, number: int) -> None:
    """A function whose result number so and so is a quarter too large."""
    own = getattr(module, name)

    def wrong(*given):
        found = list(own(*given))
        found[number] = found[number] * 1.25
        return tuple(found)

    monkeypatch.setattr(module, name, wrong)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("function", "number", "what"), [("multiply", 0, "states"), ("gradients", 2, "gradients")])
def test_fused_adapters_that_compute_something_else_are_put_back(monkeypatch, function, number, what, packing):
    model = adapted(make_family("mistral"))
    loss, gradients = plain_step(model, make_rows()[:2])
    spoil(monkeypatch, lora, function, number)
    path = choose(model, packing=packing)
    assert path.fused_adapters == path.lean_norms == path.lean_feed_forwards == 0 and path.autocast
    assert path.packing == packing, "packs are tried again with PEFT's own"
    assert f"{what} with them differ" in path.notes[0] and len(path.notes) == (1 if packing else 2)
    again, found = plain_step(model, make_rows()[:2])
    assert again == loss and all(torch.equal(found[name], gradients[name]) for name in gradients)


def test_packs_with_wrong_gradients_are_refused_and_adapters_stay_fused(monkeypatch):
    spoil(monkeypatch, attention, "block_backward", 0)
    path = choose(adapted(make_family("llama")))
    assert not path.packing and path.fused_adapters == 21
    assert len(path.notes) == 1 and "its gradients in a pack differ from those alone" in path.notes[0]


def test_every_pack_and_every_row_is_computed_once():
    model = adapted(make_family("llama"))
    calls = []
    model.get_base_model().model.register_forward_hook(lambda *_: calls.append(1))
    path = choose(model)
    assert path.packing and len(calls) == 2 + 2
    assert model.training and all(weight.grad is None for weight in model.parameters())


def test_validation_goes_through_the_fused_adapters_too(monkeypatch):
    model = adapted(make_family("llama"), lora_dropout=0.5)
    ids = torch.arange(2, 30)[None]
    model.eval()
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    path = choose(model.train())
    layer = model.get_base_model().model.layers[0].self_attn.q_proj

    def not_this(*given):
        raise AssertionError("PEFT's own way was taken")

    monkeypatch.setattr(layer.forward, "original", not_this)
    model.eval()
    with torch.no_grad():
        assert path.fused_adapters and torch.allclose(model(input_ids=ids).logits, wanted, atol=1e-5)
