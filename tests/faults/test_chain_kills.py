"""Kills of the whole chain behind `make run`, at random moments from its first check to its report. Minutes long.

The chain's own process is killed, as when a terminal is closed or the kernel runs out of memory: everything below it
must die too, and the same command must end with what an undisturbed run has.
"""

import random
import subprocess
import time

import pytest

from tests.e2e.chain import chain_command, read, run_chain
from tests.faults.test_kills import no_process_of
from tests.tiny import ROOT, adapter_bytes, curve, environment

pytestmark = pytest.mark.faults

SHORT = ["--set", "max_steps=12", "num_train_epochs=", "eval_strategy=steps", "eval_steps=3", "save_strategy=steps",
         "save_steps=3", "exact_match=", "generate_samples=2", "max_new_tokens=8", "max_eval_samples=16"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An undisturbed run, and the seconds it took."""
    started = time.monotonic()
    run, _ = run_chain(tmp_path_factory.mktemp("reference"), "demo", *SHORT)
    return run, time.monotonic() - started


def kill_when(command, condition, seconds: float) -> bool:
    """Start the chain and kill it once the condition holds or the seconds are over; False when it had ended."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment(2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not condition():
        time.sleep(0.002)
    landed = process.poll() is None
    process.kill()
    process.communicate(timeout=30)
    return landed


def same_result(run, reference) -> None:
    """The run learned, merged and measured exactly what the reference did, and nothing is left half-written."""
    assert curve(run) == curve(reference)
    assert adapter_bytes(run) == adapter_bytes(reference)
    merged = "merged/model.safetensors"
    assert (run / merged).read_bytes() == (reference / merged).read_bytes()
    assert read(run, "after.json")["eval_loss"] == read(reference, "after.json")["eval_loss"]
    assert not list(run.rglob("*.tmp")) and not list(run.rglob("*.old"))


def test_chain_killed_at_random_moments_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    reference, seconds = undisturbed
    random.seed(5)
    command = chain_command(tmp_path, "demo", *SHORT)
    landed = [kill_when(command, lambda: False, random.uniform(0.1, 0.6) * seconds) for _ in range(3)]
    assert sum(landed) >= 2
    run, _ = run_chain(tmp_path, "demo", *SHORT)
    same_result(run, reference)


def test_chain_killed_during_the_merge_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    reference, seconds = undisturbed
    command = chain_command(tmp_path, "demo", *SHORT)
    run = tmp_path / reference.name

    def merging() -> bool:
        found = (run / "merged.tmp").exists()
        time.sleep(0.02 if found else 0)
        return found

    assert kill_when(command, merging, 5 * seconds)
    assert not (run / "merged").exists(), "half a merge is never in its place"
    deadline = time.monotonic() + 10
    while not no_process_of(run):
        assert time.monotonic() < deadline, "a process outlived the chain"
        time.sleep(0.05)
    same_result(run_chain(tmp_path, "demo", *SHORT)[0], reference)
