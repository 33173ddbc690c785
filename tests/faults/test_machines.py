"""A training over several machines, which here are launchers of one machine, learns and ends as on one.

torchrun forks the processes, or starts programs where a fork cannot compute. Minutes long: `make test-faults`.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.tiny import curve, environment, finetune, finetune_command, make_world, prepare
from train.launch import meeting_point

pytestmark = pytest.mark.faults

PROGRAMS = "import sys, train.launch as it; it.can_fork = lambda: False; sys.argv[0] = it.__file__; sys.exit(it.main())"
WAYS = {"forks": ["-m", "train.launch"], "programs": ["-c", PROGRAMS]}
LONG = {"num_train_epochs": 40, "save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 50,
        "load_best_model_at_end": False}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows, model and recipe without dropout, which would draw other masks in another layout."""
    world = make_world(tmp_path_factory.mktemp("machines"), lora_dropout=0.0)
    prepare(world)
    return world


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """The same, of hundreds of steps."""
    world = make_world(tmp_path_factory.mktemp("lasting"), **LONG)
    prepare(world)
    return world


def start(world: SimpleNamespace, run: Path, way: str) -> list[subprocess.Popen]:
    """The launchers of two machines, one process each; the first has rank 0."""
    with meeting_point() as free:
        port = free.getsockname()[1]
    command = finetune_command(world, run, 1)
    started = []
    for number in range(2):
        own = ["--nodes", "2", "--leader", f"127.0.0.1:{port}", "--grace", "20", *(["--host"] if number == 0 else [])]
        address = ["--address", ("127.0.0.1", "node-1")[number]]
        words = [sys.executable, *WAYS[way], *own, *address, *command[3:]]
        started.append(
            subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return started


def ends(launchers: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Status and output of each."""
    said = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    return [launcher.returncode for launcher in launchers], said


def wait_for_step(run: Path, step: int, launchers: list[subprocess.Popen]) -> None:
    """Return once the run is beyond this step."""
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline:
        assert all(launcher.poll() is None for launcher in launchers), ends(launchers)
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if lines and json.loads(lines[-1])["step"] > step:
            return
        time.sleep(0.1)
    raise AssertionError(f"no step {step}: {metrics}")


@pytest.mark.parametrize("way", WAYS)
def test_two_machines_learn_what_one_does(world, way):
    one, run = world.root / f"one-{way}", world.root / f"two-{way}"
    assert finetune(world, one, 1).returncode == 0
    statuses, said = ends(start(world, run, way))
    assert statuses == [0, 0], said
    expected, found = curve(one), curve(run)
    assert len(expected) == len(found) > 10
    for line, other in zip(expected, found, strict=True):
        assert line == pytest.approx(other, rel=2e-5), f"step {line[0]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_that_is_asked_to_leave_has_both_leave_a_checkpoint(lasting, way):
    run = lasting.root / f"asked-{way}"
    launchers = start(lasting, run, way)
    wait_for_step(run, 6, launchers)
    launchers[1].send_signal(signal.SIGTERM)
    statuses, said = ends(launchers)
    assert statuses == [75, 75], said
    assert list((run / "checkpoints").iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_process_is_named_where_it_was_killed(lasting, way):
    run = lasting.root / f"killed-{way}"
    launchers = start(lasting, run, way)
    wait_for_step(run, 2, launchers)
    rank = next(
        child for child in psutil.Process(launchers[1].pid).children() if "train.finetune" in " ".join(child.cmdline())
    )
    rank.kill()
    statuses, said = ends(launchers)
    assert statuses == [1, 1], said
    assert "was killed by SIGKILL" in said[1]
    assert not psutil.pid_exists(rank.pid)
