"""A sweep of four ranks on the demo, interrupted in the middle and repeated, as make does it: under a minute.

.venv/bin/python -m pytest tests/e2e/test_demo_swept.py
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny import ROOT, environment

QUICK = [
    *("max_steps=4", "num_train_epochs=", "max_train_samples=64", "max_eval_samples=8", "exact_match="),
    *("generate_samples=0", "merge=false"),
    *("eval_strategy=steps", "eval_steps=4", "save_strategy=steps", "save_steps=4"),
]
RANKS = [2, 4, 8, 16]


def command(place: Path, what: str = "run") -> list[str]:
    """The command line of one `make sweep`."""
    words = ["-m", "scripts.sweep.sweep", what, "--overlay", "demo", "--runs-dir", str(place / "runs")]
    given = ["--sweep", str(place / "sweep.yaml"), "--nproc", "1", "--threads", "1", "--set", *QUICK]
    return [sys.executable, *words, *(given if what == "run" else [])]


def sweep(place: Path, what: str = "run") -> str:
    """What it prints, run to its end. Fails where it fails."""
    done = subprocess.run(command(place, what), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interrupt_in_the_second_point(place: Path) -> tuple[int, str]:
    """Begin, and press Ctrl-C when the second point begins to train; the exit status and what was printed."""
    process = subprocess.Popen(command(place), cwd=ROOT, env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("--- train") and "=== 2 of 4" in printed:
            process.send_signal(signal.SIGINT)
            break
    return process.wait(), printed + process.stdout.read()


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> SimpleNamespace:
    """The sweep: begun, interrupted, looked at, and gone on with."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "sweep.yaml").write_text(f"grid: {{lora_r: {RANKS}}}\n")
    status, before = interrupt_in_the_second_point(place)
    (record,) = (place / "runs").glob("*.sweep.json")
    record = json.loads(record.read_text())
    first = place / "runs" / record["points"][0]["run"] / "adapter" / "adapter_model.safetensors"
    looked_at = sweep(place, "status")
    stamp = first.stat().st_mtime_ns
    printed = sweep(place)
    return SimpleNamespace(place=place, record=record, status=status, before=before, between=looked_at, printed=printed,
                           kept=stamp == first.stat().st_mtime_ns)  # fmt: skip


def test_ctrl_c_says_what_is_done_and_leaves_with_130(swept):
    assert swept.status == 130
    assert "stopped: 1 of 4 points are done; the same command goes on." in swept.before
    assert "lora_r=2: complete" in swept.before and "lora_r=8: not started" in swept.before


def test_status_between_tells_which_points_are_missing(swept):
    assert f"{swept.record['name']}: 1 of 4 done" in swept.between
    assert swept.between.count("not started") == 2 and "incomplete, has " in swept.between


def test_the_same_command_does_only_what_is_missing(swept):
    assert swept.kept and "=== 1 of 4: lora_r=2  done before" in swept.printed
    assert swept.printed.count("--- after\n") == 3
    assert "=== 2 of 4: lora_r=4  (about " in swept.printed, "the time left, by the point that is done"
    assert "--- before: done before" in swept.printed, "the interrupted point goes on where it stopped"


def test_every_point_is_a_run_that_learned_with_its_value(swept):
    records = [json.loads((swept.place / "runs" / point["run"] / "run.json").read_text())
               for point in swept.record["points"]]  # fmt: skip
    assert [record["recipe"]["lora_r"] for record in records] == RANKS
    assert all(record["status"] == "complete" for record in records)
    assert len({record["model_path"] for record in records}) == 1, "one model, read from one place"


def test_it_ends_with_the_best_marked_and_a_comparison_of_all(swept):
    end = swept.printed.split("=== all points")[1]
    assert "4 of 4 done" in end and end.count("  best") == 1
    page = swept.place / "runs" / f"{swept.record['name']}.html"
    assert f"comparison: {page}" in end
    assert all(point["run"] in page.read_text() for point in swept.record["points"])
