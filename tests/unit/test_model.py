"""The model as each method trains it: what is trained, in which number format, and that gradients really arrive."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import make_model
from train.model import build_trainable, flop_per_token, trainable_parameters
from train.recipe import with_defaults


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_model(directory)
    return directory


def recipe(**values) -> SimpleNamespace:
    return with_defaults({"model_name_or_path": "m", "train_file": "t", "lora_r": 4, **values})


def step(model) -> None:
    """One backward pass in training mode."""
    model.train()
    ids = torch.arange(3, 35).view(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapter_gets_gradients_also_after_a_validation(model_dir, method):
    model = build_trainable(recipe(method=method), model_dir, torch.bfloat16)
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 35).view(2, 16))
    step(model)
    gradients = {name: weight.grad for name, weight in model.named_parameters() if "lora_B" in name}
    assert len(gradients) == 14 and all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_only_the_adapter_is_trained_and_in_float32(model_dir):
    model = build_trainable(recipe(), model_dir, torch.bfloat16)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())
    assert model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16


def test_full_training_holds_every_weight_in_float32(model_dir):
    model = build_trainable(recipe(method="full"), model_dir, torch.bfloat16)
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())


def test_four_bit_weights_count_with_their_original_number(model_dir):
    plain = build_trainable(recipe(), model_dir, torch.bfloat16)
    quantised = build_trainable(recipe(method="qlora"), model_dir, torch.bfloat16)
    assert trainable_parameters(plain) == trainable_parameters(quantised)


def test_work_a_token_follows_the_method(model_dir):
    model = build_trainable(recipe(), model_dir, torch.bfloat16)
    output = model.get_input_embeddings().weight.numel()
    layers = 1_000_000 - output  # tied embeddings multiply once, as the output
    assert flop_per_token(recipe(), model, 1_000_000) == (4 * layers, 4 * output)
    assert flop_per_token(recipe(method="full"), model, 1_000_000) == (6 * layers, 6 * output)
    assert flop_per_token(recipe(gradient_checkpointing=True), model, 1_000_000) == (6 * layers, 4 * output)
