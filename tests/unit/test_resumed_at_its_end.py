"""A training that was killed between its last checkpoint and its result: the same command adds no step."""

import shutil

import pytest

from tests.tiny import adapter_bytes, curve, finetune, make_world, prepare

STEPS = 6  # in the middle of an epoch, which has seven


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"fsdp": True}, marks=pytest.mark.faults)], ids=["data-parallel", "sharded"]
)
def test_a_training_that_goes_on_from_its_last_step_ends_with_the_same_adapter(tmp_path, changes):
    world = make_world(tmp_path, num_train_epochs=0.8, save_strategy="steps", save_steps=3,
                       eval_strategy="steps", eval_steps=3, load_best_model_at_end=True, **changes)  # fmt: skip
    prepare(world)
    run = tmp_path / "run"
    first = finetune(world, run, 2)
    assert first.returncode == 0, first.stderr
    learned, adapter = curve(run), adapter_bytes(run)
    assert (run / f"checkpoints/checkpoint-{STEPS}").is_dir()

    shutil.rmtree(run / "adapter")  # as if the kill had come before it was written
    (run / "training.json").unlink()
    again = finetune(world, run, 2)
    assert again.returncode == 0, again.stderr
    assert curve(run) == learned
    assert adapter_bytes(run) == adapter
