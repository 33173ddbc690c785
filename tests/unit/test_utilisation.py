"""How busy each process of a training is, and which one the others wait for: with made-up figures.

.venv/bin/python -m pytest tests/unit/test_utilisation.py
"""

import json
from types import SimpleNamespace

import pytest
import torch

from scripts.cluster.progress import Progress as Followed
from scripts.cluster.progress import take
from tests.clock import set_time
from tests.unit.test_progress import progress
from train import utilisation
from train.report import page_parts, read_run
from train.report_ranks import rank_rows
from train.results import resumed_from
from train.utilisation import LEAST_STEPS, Utilisation, slowest_of


@pytest.fixture
def clock(monkeypatch):
    """Time goes by only where the test says so."""
    now = [100.0]
    set_time(monkeypatch, utilisation, perf_counter=lambda: now[0])
    return now


def of_four(clock, seconds, steps=LEAST_STEPS + 1):
    """Rank 0 of four, after as many steps of these seconds of each rank; half a minute later."""
    busy = Utilisation(0, 4)
    busy.nodes = ["node1", "node1", "node2", "node2"]
    for _ in range(steps):
        busy.take(seconds)
    clock[0] += 31.0
    return busy


def test_a_rank_that_computes_longer_is_named_with_its_node_once(clock):
    busy = of_four(clock, [1.0, 1.0, 1.1, 1.76])
    rank, ratio = busy.slowest(clock[0])
    assert (rank, round(ratio, 2)) == (3, 1.76)
    assert busy.words(rank, ratio) == "rank 3 on node2 computes 1.8x as long a step as the others; they wait for it"
    assert busy.words(rank, ratio) == "", "it was told"
    assert busy.words(2, 1.3).startswith("rank 2 on node2")
    assert busy.words(2, 1.0) == "" and busy.words(2, 1.3) != "", "it was well in between"


@pytest.mark.parametrize("seconds", [[1.0, 1.0, 1.0, 1.0], [1.0, 1.1, 1.05, 1.2]])
def test_ranks_that_differ_by_no_more_than_a_fifth_are_not_named(clock, seconds):
    busy = of_four(clock, seconds)
    assert busy.words(*busy.slowest(clock[0])) == ""


def test_one_of_two_ranks_is_compared_with_the_other():
    assert slowest_of([1.0, 1.6]) == (1, 1.6)
    assert slowest_of([0.3, 0.2, 0.2]) == (0, pytest.approx(1.5))


def test_nothing_is_said_after_few_steps_or_too_soon_or_of_one_process(clock):
    assert of_four(clock, [1.0, 1.0, 1.0, 2.0], steps=LEAST_STEPS).slowest(clock[0]) is None, "the first is not counted"
    busy = of_four(clock, [1.0, 1.0, 1.0, 2.0])
    assert busy.slowest(clock[0] - 30.0) is None
    assert busy.slowest(clock[0]) and busy.slowest(clock[0] + 60.0) is None, "a new window begins"
    alone = Utilisation(0, 1)
    for _ in range(10):
        alone.take([1.0])
    assert alone.slowest(clock[0] + 99.0) is None


def test_a_step_in_which_a_rank_had_no_gradient_is_not_counted(clock):
    busy = of_four(clock, [1.0, 1.0, 0.0, 2.0])
    assert busy.counted == 0 and busy.slowest(clock[0]) is None


def test_a_rank_tells_its_own_seconds_among_zeros_until_its_last_gradient(clock):
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad = False
    busy = Utilisation(1, 3)
    busy.watch(model.parameters())
    busy.step_begins()
    assert busy.share() == [0.0, 0.0, 0.0], "no gradient yet"
    clock[0] += 0.5
    model(torch.ones(1, 2)).sum().backward()
    clock[0] += 9.0  # waiting for the others
    assert busy.share() == [0.0, 0.5, 0.0]
    busy.step_begins()
    assert busy.share() == [0.0, 0.0, 0.0], "the gradient of the step before does not count"


def test_the_hook_changes_no_gradient():
    torch.manual_seed(1)
    model, rows = torch.nn.Linear(8, 4), torch.randn(16, 8)
    model(rows).square().sum().backward()
    before = model.weight.grad.clone()
    model.zero_grad()
    Utilisation(0, 1).watch(model.parameters())
    model(rows).square().sum().backward()
    assert torch.equal(before, model.weight.grad)


def test_processes_that_are_started_anew_in_another_number_count_from_nothing(tmp_path, clock, monkeypatch):
    """An elastic training loses half of its four processes, and goes on from a checkpoint in the same run."""
    monkeypatch.setattr(utilisation, "from_every_process", lambda value, world: [value] * world)
    watcher = progress(tmp_path)
    watcher.busy = of_four(clock, [1.0, 1.0, 1.0, 1.76])
    assert watcher.busy.slowest(clock[0])[0] == 3
    arguments = SimpleNamespace(process_index=0, world_size=2, fsdp=[])
    watcher.on_train_begin(arguments, SimpleNamespace(global_step=6, max_steps=9), None, model=torch.nn.Linear(1, 1))
    assert watcher.busy.share() == [0.0, 0.0] and len(watcher.busy.nodes) == 2
    for _ in range(LEAST_STEPS + 1):
        watcher.busy.take([1.0, 1.3])
    clock[0] += 31.0
    assert watcher.busy.slowest(clock[0]) == (1, pytest.approx(1.3))
    assert [one["step_wait_seconds"] for one in watcher.busy.of_all()] == [pytest.approx(0.3), 0.0]


def test_every_rank_has_its_share_of_processors_memory_and_waiting(clock, monkeypatch):
    busy = of_four(clock, [1.0, 1.0, 1.5, 2.0], steps=3)
    monkeypatch.setattr(utilisation, "from_every_process", lambda value, world: [value] * world)
    found = busy.of_all()
    assert [one["rank"] for one in found] == [0, 1, 2, 3] and found[2]["node"] == "node2"
    assert [one["step_compute_seconds"] for one in found] == [1.0, 1.0, 1.5, 2.0]
    assert [one["step_wait_seconds"] for one in found] == [1.0, 1.0, 0.5, 0.0]
    assert found[0]["cpu_share"] >= 0 and found[0]["peak_memory_gb"] > 0.01


def test_the_training_prints_the_slow_rank_and_tells_it_as_an_event(tmp_path, clock, monkeypatch, capsys):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    watcher = progress(tmp_path)
    watcher.busy = of_four(clock, [1.0, 1.0, 1.0, 1.6])
    watcher.tell_slowest(40)
    words = "rank 3 on node2 computes 1.6x as long a step as the others; they wait for it"
    event, line = capsys.readouterr().out.splitlines()
    assert line == words
    told = json.loads(event.removeprefix("tunefleet: "))
    assert told == {"event": "ranks", "step": 40, "slowest": 3, "node": "node2", "ratio": 1.6, "words": words}
    assert take(Followed(), told) == words and take(Followed(), told | {"words": ""}) == ""


# ---- the report ----

RANKS = [
    {"rank": 0, "node": "node1", "cpu_share": 0.97, "peak_memory_gb": 0.5, "step_compute_seconds": 0.4,
     "step_wait_seconds": 0.24},
    {"rank": 1, "node": "<node2>", "cpu_share": 0.5, "peak_memory_gb": 0.75, "step_compute_seconds": 0.64,
     "step_wait_seconds": 0.0},
]  # fmt: skip


def test_the_report_has_a_row_a_rank_and_marks_the_slow_one(tmp_path):
    from tests.unit.test_report import make_run, page_of

    run = make_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["training"]["ranks"] = RANKS
    (run / "run.json").write_text(json.dumps(record))
    (run / "training.json").write_text("{}")
    text = page_of(run).text
    assert "Processes" in text and "<node2> 50 % 0.75 GB 0.64 s 1.6x the others 0 s" in text
    assert "node1 97 % 0.50 GB 0.4 s 0.24 s" in text
    assert page_parts(read_run(run), run)["ranks"][0]["slow"] == ""


def test_a_training_that_was_interrupted_says_from_where_it_went_on_and_of_when_its_processes_tell(tmp_path):
    from tests.unit.test_report import make_run, page_of

    steps = [{"step": 1, "since_start": 3.0}, {"step": 2}, {"step": 7, "since_start": 2.5}, {"step": 8}]
    assert resumed_from(steps) == [6] and resumed_from(steps[:2]) == []
    run = make_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["training"] |= {"ranks": RANKS, "resumed_from": [6, 40]}
    (run / "run.json").write_text(json.dumps(record))
    (run / "training.json").write_text("{}")
    said = "went on from the checkpoints of steps 6, 40; what stands of the processes is of the time since the last"
    assert said in page_of(run).text


def test_a_run_from_before_has_no_such_table_and_unknown_seconds_are_said_to_be():
    assert rank_rows({"training": {"steps": 3}}) == [] == rank_rows({"training": None})
    sharded = [one | {"step_compute_seconds": None, "step_wait_seconds": None} for one in RANKS]
    (first, _) = rank_rows({"training": {"ranks": sharded}})
    assert (first["computes"], first["waits"], first["slow"]) == ("not known", "not known", "")


def test_a_loss_that_is_no_number_is_an_event_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUNEFLEET_EVENTS", "-")
    state = SimpleNamespace(global_step=7, max_steps=9, epoch=1.0)
    with pytest.raises(RuntimeError):
        progress(tmp_path).on_log(SimpleNamespace(process_index=0), state, None, {"loss": float("nan")})
    told = json.loads(capsys.readouterr().out.removeprefix("tunefleet: "))
    assert told == {"event": "diverged", "step": 7, "loss": "nan"}
    assert take(Followed(), told) == "step 7: the loss is nan"
