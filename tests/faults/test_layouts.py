"""The same recipe in several layouts of processes learns the same. Minutes long: `make test-faults`."""

from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file

from tests.tiny import curve, finetune, make_world, prepare

pytestmark = pytest.mark.faults

LAYOUTS = {
    "two processes": (2, {}),
    "two processes with accumulation": (2, {"per_device_train_batch_size": 2}),
    "two processes, sharded": (2, {"fsdp": True}),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows, model and recipe without dropout: dropout draws other masks in another layout."""
    world = make_world(tmp_path_factory.mktemp("layouts"), lora_dropout=0.0)
    prepare(world)
    return world


def with_changes(world: SimpleNamespace, name: str, changes: dict) -> SimpleNamespace:
    """The world with another recipe."""
    recipe = world.root / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(world.recipe.read_text()) | changes))
    return SimpleNamespace(**{**vars(world), "recipe": recipe})


@pytest.fixture(scope="module", params=["lora", "full"])
def single(world, request):
    """One process: the curve that the others must give. Full training too: there all weights are sharded."""
    changes = {"method": request.param}
    if request.param == "full":
        changes |= {"lora_r": None, "lora_dropout": None, "learning_rate": 1.0e-3}
    method = with_changes(world, request.param, {})
    values = {
        key: value for key, value in (yaml.safe_load(world.recipe.read_text()) | changes).items() if value is not None
    }
    method.recipe.write_text(yaml.safe_dump(values))
    run = world.root / f"one-{request.param}"
    done = finetune(method, run, 1)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(world=method, run=run, method=request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_curve_and_result_do_not_depend_on_the_layout(single, layout):
    processes, changes = LAYOUTS[layout]
    run = single.world.root / f"{single.method}-{layout.replace(' ', '-')}"
    done = finetune(with_changes(single.world, run.name, changes), run, processes)
    assert done.returncode == 0, done.stderr
    expected, found = curve(single.run), curve(run)
    assert len(expected) == len(found) > 10
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=2e-5), f"step {one[0]}"
    result = "model/model.safetensors" if single.method == "full" else "adapter/adapter_model.safetensors"
    weights, others = load_file(single.run / result), load_file(run / result)
    assert weights.keys() == others.keys()
    assert all((weights[name].float() - others[name].float()).abs().max() < 1e-3 for name in weights)


def test_sharded_run_holds_only_its_share_in_every_checkpoint(world):
    run = world.root / "sharded-checkpoints"
    done = finetune(with_changes(world, "sharded", {"fsdp": True}), run, 2)
    assert done.returncode == 0, done.stderr
    newest = max(run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shards = sorted(newest.glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(shards) == 2, "one shard a process"
