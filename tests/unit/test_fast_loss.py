"""The loss in chunks is the loss, and never holds the whole vocabulary for all tokens."""

import pytest
import torch

from train.fast import loss as losses
from train.fast.loss import Shaping, prediction_loss
from train.memory_trace import LiveBytes

SHAPINGS = {"plain": Shaping(), "capped": Shaping(cap=5.0), "divided": Shaping(divisor=3.0),
            "both": Shaping(divisor=0.25, cap=2.0)}  # fmt: skip


def case(bias: bool = False):
    """An output layer, hidden states, targets and weights, some of them 0."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=bias)
    hidden = torch.randn(23, 16, requires_grad=True)
    return head, hidden, torch.randint(0, 50, (23,)), torch.randint(0, 3, (23,)).float()


def plainly(head, shaping, hidden, targets, weights) -> torch.Tensor:
    logits = shaping(head(hidden))
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
@pytest.mark.parametrize("shaping", SHAPINGS.values(), ids=SHAPINGS)
def test_loss_and_gradients(monkeypatch, shaping, chunk, trained):
    head, hidden, targets, weights = case(bias=True)
    head.requires_grad_(trained)
    wanted = plainly(head, shaping, hidden, targets, weights)
    (wanted * 0.3).backward()
    gradients = [hidden.grad, *(parameter.grad for parameter in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * 50 * chunk)
    found = prediction_loss(head, shaping, hidden, targets, weights)
    (found * 0.3).backward()
    assert torch.allclose(found, wanted, rtol=1e-5)
    for gradient, one in zip(gradients, [hidden, *head.parameters()], strict=True):
        assert (gradient is None and one.grad is None) or torch.allclose(one.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_only_a_chunk_of_the_logits_is_held(monkeypatch, trained):
    rows, vocabulary, size, chunk = 4096, 20_000, 8, 64
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * vocabulary * chunk)
    head = torch.nn.Linear(size, vocabulary, bias=False).requires_grad_(trained)
    hidden = torch.randn(rows, size, requires_grad=True)
    with LiveBytes() as count:
        prediction_loss(head, Shaping(), hidden, torch.zeros(rows, dtype=torch.long), torch.ones(rows)).backward()
    assert count.peak < 8 * 4 * vocabulary * chunk < 4 * rows * vocabulary / 4


def test_without_gradients_none_are_computed():
    head, hidden, targets, weights = case()
    head.requires_grad_(False)
    with torch.no_grad():
        found = prediction_loss(head, Shaping(), hidden, targets, weights)
    assert not found.requires_grad
    assert torch.allclose(found, plainly(head, Shaping(), hidden, targets, weights), rtol=1e-5)


def test_a_family_shapes_its_logits_as_its_configuration_says():
    config = type("Config", (), {"final_logit_softcapping": 30.0})
    assert Shaping.of(config) == Shaping(1.0, 30.0)
    assert Shaping.of(type("Config", (), {"logits_scaling": 8.0})) == Shaping(8.0, None)
    assert Shaping.of(type("Config", (), {"logit_scale": 0.25})) == Shaping(4.0, None)


def test_the_scale_of_a_step_is_not_rounded_to_the_number_format():
    head, hidden, targets, weights = case()
    head, narrow, scale = head.requires_grad_(False).bfloat16(), hidden.detach().bfloat16(), torch.tensor(1 / 3287)
    assert abs(scale.bfloat16().float() / scale - 1) > 2e-3
    gradients = []
    for factor in (torch.tensor(1.0), scale):
        leaf = narrow.clone().requires_grad_()
        (prediction_loss(head, Shaping(), leaf, targets, weights) * factor).backward()
        gradients.append(leaf.grad.double())
    exact = gradients[0] * scale
    assert abs((gradients[1] * exact).sum() / (exact * exact).sum() - 1) < 5e-4
