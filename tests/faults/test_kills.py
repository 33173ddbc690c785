"""Kills at random moments: the same command ends with the very curve and the very adapter of an undisturbed run.

Minutes long: `make test-faults`. Fourteen kills hit a data-parallel training, five a sharded one; test_chain_kills.py
has those of the whole chain behind `make run`.
"""

import random
import subprocess
import time
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from tests.tiny import adapter_bytes, curve, environment, finetune, finetune_command, make_world, prepare

pytestmark = pytest.mark.faults

STEPWISE = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}
STEPWISE_KILLS = ["one rank", "all ranks", "launcher", "while a checkpoint is written"]
KILLS = {
    "data-parallel": [*STEPWISE_KILLS, "SIGTERM", *STEPWISE_KILLS, "SIGTERM to a rank", *STEPWISE_KILLS],
    "sharded": [*STEPWISE_KILLS, "SIGTERM"],
}


@pytest.fixture(scope="module", params=KILLS)
def undisturbed(request, tmp_path_factory):
    """A world with dropout and frequent checkpoints, and its undisturbed run in two processes."""
    kind = {"data-parallel": {"num_train_epochs": 24}, "sharded": {"num_train_epochs": 10, "fsdp": True}}[request.param]
    world = make_world(tmp_path_factory.mktemp("kills"), **STEPWISE, **kind)
    prepare(world)
    run = world.root / "undisturbed"
    done = finetune(world, run, 2)
    assert done.returncode == 0, done.stderr
    return world, run, KILLS[request.param]


def ranks(launcher: int) -> list[psutil.Process]:
    """The training processes below a launcher or a chain."""
    below = psutil.Process(launcher).children(recursive=True)
    return [
        process
        for process in below
        if "train.finetune" in " ".join(process.cmdline())[:400] and not is_launcher(process)
    ]


def is_launcher(process: psutil.Process) -> bool:
    """Whether a process is train.launch, whose own arguments are handed to train.finetune."""
    return "train.launch" in process.cmdline()


def lines_written(run: Path) -> int:
    """Lines in the run's metrics."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def metrics_file(run: Path) -> int:
    """The inode of the run's metrics, which is another one whenever a training has begun; 0 where there is none."""
    path = run / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0


def wait_for(condition, process: subprocess.Popen, seconds: float = 90.0) -> bool:
    """Wait until the condition holds; False when the process ended first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)
    return True


def hit(kind: str, process: subprocess.Popen) -> None:
    """Kill as `kind` says."""
    if kind == "launcher":
        process.kill()
    elif kind == "SIGTERM":
        process.terminate()
    elif kind == "SIGTERM to a rank":
        ranks(process.pid)[-1].terminate()
    elif kind == "one rank":
        random.choice(ranks(process.pid)).kill()
    else:
        for rank in ranks(process.pid):
            rank.kill()


def no_process_of(run: Path) -> bool:
    """Whether no process works in the run any more."""
    return not any(str(run) in " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_killed_training_ends_as_if_nothing_had_happened(undisturbed):
    world, reference, kills = undisturbed
    random.seed(11)
    run, landed = world.root / "killed", 0
    for kind in kills:
        before = metrics_file(run)
        process = subprocess.Popen(finetune_command(world, run, 2), env=environment(), stdout=PIPE, stderr=PIPE)
        running = wait_for(lambda before=before: metrics_file(run) != before, process)
        wanted = lines_written(run) + random.randint(1, 14)
        running = running and wait_for(lambda wanted=wanted: lines_written(run) >= wanted, process)
        if kind == "while a checkpoint is written":
            running = running and wait_for(lambda: any(run.glob("checkpoints/.checkpoint-*.tmp")), process)
            time.sleep(random.uniform(0, 0.02))
        else:
            time.sleep(random.uniform(0, 0.15))
        if running and process.poll() is None:
            hit(kind, process)
            landed += 1
        process.communicate(timeout=90)
        deadline = time.monotonic() + 10
        while not no_process_of(run):
            assert time.monotonic() < deadline, f"{kind}: a process outlived its launcher"
            time.sleep(0.05)
        if (run / "adapter").exists():
            break
    assert landed >= len(kills) - 2, "the run ended before it was disturbed"
    done = finetune(world, run, 2)
    assert done.returncode == 0, done.stderr
    assert curve(run) == curve(reference)
    assert adapter_bytes(run) == adapter_bytes(reference)
    assert not list(run.rglob("*.tmp")) and not list(run.rglob(".*.old"))
