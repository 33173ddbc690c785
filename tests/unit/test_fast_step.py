"""A step of several packs: when the processes share its gradients."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from tests.unit.fast_cases import make_family, make_rows
from train.fast.forward import take_packs
from train.fast.packs import make_pack, sort_rows
from train.trainer import FleetTrainer


@pytest.mark.parametrize(("sharded", "together"), [(False, 2), (True, 0)], ids=["copies", "sharded"])
def test_copies_share_gradients_once_a_step_and_shards_after_every_pack(sharded, together):
    waited = []

    @contextmanager
    def no_sync(model):
        waited.append(model)
        yield

    model = make_family("llama")
    take_packs(model)
    trainer = FleetTrainer.__new__(FleetTrainer)
    trainer.feed, trainer.is_fsdp_enabled, trainer.tokens, trainer.predictions = True, sharded, 0, 0
    trainer.args = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    trainer.accelerator = SimpleNamespace(no_sync=no_sync, backward=torch.Tensor.backward)
    rows = sort_rows(make_rows()[:3])
    trainer.training_step(model, {"packs": [make_pack([row], False) for row in rows], "predictions": 1})
    assert len(waited) == together
