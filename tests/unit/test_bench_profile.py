"""`make profile`: what kind of work an event is, and the callback around real steps.

.venv/bin/python -m pytest tests/unit/test_bench_profile.py
"""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3ForCausalLM

from scripts.bench.profile import show
from tests.tiny import make_model
from train.profile_kinds import KINDS, MARK, REST, kind_of, seconds_by_kind
from train.profiling import Profiled


def event(name: str, parent=None, scope: int = 0, sequence: int = -1, microseconds: float = 0.0) -> SimpleNamespace:
    """An event as torch.profiler gives it."""
    return SimpleNamespace(
        name=name, cpu_parent=parent, scope=scope, sequence_nr=sequence, self_cpu_time_total=microseconds
    )


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mm"], "matrix products"),
        (["aten::mm", "aten::cross_entropy_loss"], "matrix products"),
        (["aten::bmm", "aten::scaled_dot_product_attention"], "attention"),
        (["aten::mul", f"{MARK}normalisation"], "normalisation"),
        (["aten::mul", "Optimizer.step#AdamW.step"], "optimiser"),
        (["aten::copy_", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"], "data"),
        (["c10d::allreduce_"], "communication"),
        (["aten::exp", "LogSoftmaxBackward0"], "loss"),
        (["aten::mul", f"{MARK}normalisation", "DistributedDataParallel.forward"], "normalisation"),
        (["aten::silu"], "elementwise"),
        (["aten::empty"], REST),
        (["autograd::engine::evaluate_function: MmBackward0"], REST),
    ],
)
def test_an_event_has_the_kind_of_its_name_or_of_what_is_around_it(names, kind):
    found = None
    for name in reversed(names):
        found = event(name, found)
    assert kind_of(found, {}) == kind


def test_the_backward_of_a_normalisation_is_one_too():
    forward = event("aten::mul", event(f"{MARK}normalisation"), sequence=7)
    node = event("MulBackward0", scope=1, sequence=7)
    assert kind_of(event("aten::mul", node), {7: forward}) == "normalisation"
    assert kind_of(event("aten::mul", event("MulBackward0", scope=1, sequence=8)), {7: forward}) == "elementwise"


def test_what_no_event_covers_is_the_rest():
    kinds = {kind["kind"]: kind for kind in seconds_by_kind([event("aten::mm", microseconds=300_000.0)], 1.0)}
    assert kinds["matrix products"]["seconds"] == 0.3
    assert kinds["matrix products"]["share"] == 0.3
    assert kinds[REST]["seconds"] == 0.7


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """Four real steps of a tiny model with steps 2 and 3 profiled: the directory, and the model."""
    directory = tmp_path_factory.mktemp("profile")
    make_model(directory / "model")
    model = Qwen3ForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    callback = Profiled(directory / "out", first_step=2, steps=2)
    args, state = SimpleNamespace(process_index=0), SimpleNamespace(global_step=0, max_steps=4)
    rows = torch.randint(3, 100, (4, 64))
    for _ in range(4):
        callback.on_step_begin(args, state, None, model=model)
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        state.global_step += 1
        callback.on_step_end(args, state, None)
    callback.on_train_end(args, state, None)
    return directory / "out", model


def test_a_profile_holds_every_kind_of_work_that_a_step_has(profiled):
    found = json.loads((profiled[0] / "profile.json").read_text())
    assert found["steps"] == 2
    assert [kind["kind"] for kind in found["kinds"]] == list(KINDS)
    seconds = {kind["kind"]: kind["seconds"] for kind in found["kinds"]}
    for kind in ("matrix products", "attention", "normalisation", "elementwise", "loss", "optimiser", REST):
        assert seconds[kind] > 0, kind
    assert sum(seconds.values()) == pytest.approx(found["seconds"], rel=0.02)


def test_a_trace_lies_beside_it_and_the_model_is_as_before(profiled):
    directory, model = profiled
    assert json.loads((directory / "trace.json").read_text())["traceEvents"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_table_shows_most_time_first(profiled):
    text = show(json.loads((profiled[0] / "profile.json").read_text()))
    assert text.startswith("2 steps")
    shares = [float(line.split("%")[0].split()[-1]) for line in text.splitlines()[2:-1]]
    assert shares == sorted(shares, reverse=True)
    assert "matrix products" in text


def test_other_ranks_profile_nothing(tmp_path):
    callback = Profiled(tmp_path / "out", first_step=1)
    callback.on_step_begin(SimpleNamespace(process_index=1), SimpleNamespace(global_step=0), None, model=None)
    assert callback.profile is None
