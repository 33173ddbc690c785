"""What a run tells while it goes on, and how it ends."""

import json
import signal
from types import SimpleNamespace

import pytest

from train.launch import translate
from train.progress import Progress, TrainingDiverged, minutes, trim_metrics


def write_lines(path, steps, torn=False):
    text = "".join(json.dumps({"step": step}) + "\n" for step in steps)
    path.write_text(text + ('{"step": 9, "lo' if torn else ""))


def kept(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_metrics_of_steps_that_are_computed_again_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [0, 1, 2, 2, 3, 4], torn=True)
    trim_metrics(path, 2)
    assert kept(path) == [0, 1, 2, 2]


def test_new_start_begins_with_empty_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [0, 1])
    trim_metrics(path, 0)
    assert kept(path) == []
    trim_metrics(tmp_path / "absent.jsonl", 0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_time_left_is_written_as_a_clock(seconds, text):
    assert minutes(seconds) == text


def progress(tmp_path):
    order = SimpleNamespace(rows_of_step=lambda step: [0, 2], steps_per_epoch=5)
    return Progress(tmp_path, order, [10, 99, 5], flop=(2e9, 0.0), matmul_gflops=100.0)


def test_loss_that_is_no_number_ends_the_run_with_advice(tmp_path):
    state = SimpleNamespace(global_step=7, max_steps=9, epoch=1.0)
    with pytest.raises(TrainingDiverged, match=r"step 7 is nan: lower learning_rate"):
        progress(tmp_path).on_log(SimpleNamespace(process_index=0), state, None, {"loss": float("nan")})


def test_rate_counts_the_real_tokens_of_all_processes(tmp_path):
    watcher = progress(tmp_path)
    watcher.seconds, watcher.memory = 0.5, 1.25
    assert watcher.speed(3) == {
        "tokens": 15,
        "seconds": 0.5,
        "tokens_per_second": 30.0,
        "matmul_share": 0.6,
        "memory_gb": 1.25,
    }


def failure(*codes):
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}
    return SimpleNamespace(failures=failures, get_first_failure=lambda: (0, failures[0]))


@pytest.mark.parametrize(
    ("codes", "status"), [((2, 2), 2), ((75, 75), 75), ((-signal.SIGKILL, -signal.SIGTERM), 1), ((1,), 1)]
)
def test_launcher_ends_with_the_status_of_its_processes(codes, status):
    assert translate(failure(*codes)) == status


def test_killed_process_is_named_with_the_likely_cause(capsys):
    translate(failure(-signal.SIGKILL))
    assert "was killed by SIGKILL (the kernel does so when memory runs out" in capsys.readouterr().err
