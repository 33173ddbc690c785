"""Metrics of a run: what the log's events become, how they are served, and what is refused.

.venv/bin/python -m pytest tests/unit/test_pod_metrics.py
"""

import json
import shutil
import socket
import subprocess
import urllib.request

import pytest

from scripts import pod_metrics
from scripts.cluster.checks import admission
from scripts.cluster.checks.answers import FAILED
from scripts.cluster.kubectl import Refused
from scripts.pod_metrics import COUNTERS, GAUGES, Figures, read_on, serve_metrics, wanted_port
from scripts.pod_place import read_overlay, read_place
from tests.unit.test_pod import ENVIRONMENT
from train.errors import InputError

prometheus_client = pytest.importorskip("prometheus_client")
RUN = {"run": "medical-1a2b3c4d", "overlay": "medical"}
EVENTS = [
    {"time": 100.0, "event": "start", "run": "medical-1a2b3c4d"},
    {"time": 101.0, "event": "stage", "stage": "train", "state": "started"},
    {"time": 110.0, "event": "step", "step": 10, "total": 40, "loss": 1.5, "learning_rate": 1e-4,
     "tokens_per_second": 420.0, "memory_gb": 2.5, "seconds_left": 60.0},
    {"time": 120.0, "event": "step", "step": 15, "total": 40, "loss": 1.25, "learning_rate": 1e-4,
     "tokens_per_second": 400.0, "memory_gb": 2.5, "seconds_left": 50.0},
    {"time": 121.0, "event": "validation", "step": 15, "total": 40, "eval_loss": 1.75, "perplexity": 5.75},
    {"time": 122.0, "event": "checkpoint", "step": 15},
    {"time": 123.0, "event": "ranks", "step": 15, "slowest": 1, "ratio": 1.6},
]  # fmt: skip


def figures_of(events):
    """The figures after these events, and a way to ask for one of them."""
    figures = Figures("medical-1a2b3c4d", "medical")
    for event in events:
        figures.take(event)
    registry = prometheus_client.CollectorRegistry()
    registry.register(figures)
    return registry, lambda name, **more: registry.get_sample_value(f"tunefleet_{name}", RUN | more)


def test_every_metric_is_told_once_its_event_was_there():
    _, value = figures_of(EVENTS)
    assert {name: value(name) for name in GAUGES} == {
        "loss": 1.25, "validation_loss": 1.75, "step": 15, "total_steps": 40, "tokens_per_second": 400.0,
        "memory_bytes": 2.5e9, "step_seconds": 2.0, "seconds_left": 50.0, "last_step_timestamp_seconds": 120.0,
        "last_progress_timestamp_seconds": 122.0, "last_checkpoint_timestamp_seconds": 122.0,
        "last_checkpoint_step": 15, "stage_start_timestamp_seconds": 101.0, "slowest_rank": 1,
        "slowest_rank_ratio": 1.6,
    }  # fmt: skip
    assert {name: value(f"{name}_total") for name in COUNTERS} == {"restarts": 0, "non_finite_losses": 0}
    assert value("stage", stage="train") == 1


def test_what_is_not_known_yet_is_left_out_and_counters_begin_at_zero():
    _, value = figures_of(EVENTS[:1])
    assert value("loss") is None and value("stage", stage="train") is None
    assert value("restarts_total") == value("non_finite_losses_total") == 0


def test_a_restart_of_the_training_and_one_of_the_pod_count_alike():
    _, value = figures_of([EVENTS[0], {"event": "restart", "attempt": 1, "reason": "lost a peer"}, EVENTS[0]])
    assert value("restarts_total") == 2


@pytest.mark.parametrize(
    "event",
    [
        {"time": 9.0, "event": "diverged", "step": 11, "loss": "nan"},
        {"time": 9.0, "event": "diverged", "step": 11, "loss": "inf"},
        {"time": 9.0, "event": "validation", "step": 11, "total": 40, "eval_loss": float("nan"), "perplexity": 1.0},
    ],
)
def test_a_loss_that_is_no_number_is_counted(event):
    _, value = figures_of([*EVENTS, json.loads(json.dumps(event))])
    assert value("non_finite_losses_total") == 1


def test_a_step_computed_again_after_a_restart_gives_no_negative_step_time():
    _, value = figures_of([*EVENTS, EVENTS[2] | {"time": 200.0}])
    assert value("step_seconds") == 2.0 and value("step") == 10


RESTART = {"time": 130.0, "event": "restart", "attempt": 1, "reason": "demo-1 has been silent for 30 s"}
RESUMED = {"time": 190.0, "event": "resumed", "step": 15}
NEXT = EVENTS[3] | {"time": 200.0, "step": 16}


def test_a_run_that_goes_on_with_fewer_processes_says_no_more_of_one_that_is_gone():
    """Rank 1 of two was slow, and its pod is lost: one process alone tells nothing of ranks that could replace it."""
    _, value = figures_of([*EVENTS, RESTART])
    assert value("slowest_rank") is None and value("slowest_rank_ratio") is None
    _, value = figures_of([*EVENTS, RESTART, RESUMED, NEXT, NEXT | {"time": 203.0, "step": 17}])
    assert value("slowest_rank_ratio") is None and value("step") == 17 and value("restarts_total") == 1


@pytest.mark.parametrize("event", [EVENTS[0], RESTART, RESUMED, EVENTS[1] | {"stage": "merge"}])
def test_the_slowest_rank_is_that_of_the_processes_that_compute_now(event):
    _, value = figures_of([*EVENTS, event])
    assert value("slowest_rank") is None
    _, value = figures_of([*EVENTS, event, EVENTS[6] | {"slowest": 0, "ratio": 1.1}])
    assert (value("slowest_rank"), value("slowest_rank_ratio")) == (0, 1.1)


@pytest.mark.parametrize("between", [[RESTART, RESUMED], [EVENTS[0], RESUMED], [RESUMED]])
def test_the_time_without_processes_is_no_steps_time(between):
    _, value = figures_of([*EVENTS, *between, NEXT])
    assert value("step_seconds") == 2.0, "80 s lie between step 15 and step 16"
    _, value = figures_of([*EVENTS, *between, NEXT, NEXT | {"time": 203.0, "step": 17}])
    assert value("step_seconds") == 3.0


def test_a_pod_that_is_back_and_joins_in_is_a_restart_and_every_restart_counts_once():
    """torchrun has the processes leave a checkpoint and starts them anew, more of them: nobody tells a restart."""
    joined = [RESUMED, NEXT, RESUMED | {"step": 16}, NEXT | {"step": 17}]
    _, value = figures_of([*EVENTS, *joined])
    assert value("restarts_total") == 2
    _, value = figures_of([*EVENTS, RESTART, *joined])
    assert value("restarts_total") == 2, "the first of them goes on after a restart that was told"
    _, value = figures_of([EVENTS[0], RESUMED, NEXT])
    assert value("restarts_total") == 0, "a first pod that goes on from a checkpoint of elsewhere"


def test_a_line_that_is_still_being_written_waits_and_a_torn_one_is_passed_over(tmp_path):
    log, figures = tmp_path / "log.jsonl", Figures("r", "o")
    assert read_on(log, 0, figures) == 0, "it is not written yet"
    log.write_text(json.dumps(EVENTS[2]) + "\n" + '{"time": 1, "event": "st' + "\n" + "[1]\n" + '{"event"')
    at = read_on(log, 0, figures)
    assert figures.gauges["step"] == 10
    with log.open("a") as file:
        file.write(': "restart", "attempt": 1}\n')
    assert read_on(log, at, figures) == log.stat().st_size
    assert figures.counters["restarts"] == 1


# ---- serving ----


def free_port() -> int:
    """A port below those that the kernel hands out, where nobody listens now."""
    for port in range(20000, 21000):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Start a pod's metrics at a free port; returns what it answers."""

    def start(index):
        place = read_place(ENVIRONMENT | {"NODE_INDEX": index, "NODE_NAME": "node2", "STORE": str(tmp_path)})
        place.directory.mkdir(parents=True, exist_ok=True)
        (place.directory / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
        port = free_port()
        monkeypatch.setenv(pod_metrics.VARIABLE, str(port))
        serve_metrics(place, "medical")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    return start


def test_the_leading_pod_serves_the_runs_figures(serve):
    text = serve("0")
    assert 'tunefleet_loss{overlay="medical",run="medical-1a2b3c4d"} 1.25' in text
    assert 'tunefleet_pod_info{index="0",node="node2",overlay="medical",run="medical-1a2b3c4d"} 1.0' in text


def test_another_pod_tells_only_that_it_is_there(serve):
    text = serve("1")
    assert "tunefleet_pod_info" in text and "tunefleet_loss" not in text


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_own_parser_accepts_the_metrics(serve):
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=serve("0"), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_run_has_few_series():
    registry, _ = figures_of(EVENTS)
    lines = prometheus_client.generate_latest(registry).decode().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) < 25
    assert {name for metric in registry.collect() for sample in metric.samples for name in sample.labels} == {
        "run",
        "overlay",
        "stage",
    }


# ---- what is refused, and what ends no run ----


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("80", "'80' is no port to serve at"),
        ("40000", "'40000' is no port to serve at"),
        ("metrics", "'metrics' is no port"),
        ("29500", "29500 is where the run's processes meet"),
        ("29400", "29400 is where"),
    ],
)
def test_a_port_that_cannot_be_is_refused_with_variable_and_fix(value, words):
    with pytest.raises(InputError) as caught:
        wanted_port({pod_metrics.VARIABLE: value})
    assert f"environment: METRICS_PORT: {words}" in str(caught.value) and "metrics.port" in str(caught.value)


def test_a_pod_without_the_component_serves_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv(pod_metrics.VARIABLE, raising=False)
    monkeypatch.setattr(pod_metrics, "Figures", None)
    serve_metrics(read_place(ENVIRONMENT | {"STORE": str(tmp_path)}), "medical")


def test_a_port_that_is_taken_is_told_and_ends_no_run(monkeypatch, tmp_path, capsys):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(pod_metrics, "wanted_port", lambda: port)
        serve_metrics(read_place(ENVIRONMENT | {"STORE": str(tmp_path)}), "medical")
    assert f"no metrics: port {port} (METRICS_PORT)" in capsys.readouterr().err


def test_the_overlay_is_read_from_the_placement_and_may_be_missing(tmp_path):
    assert read_overlay(tmp_path) == ""
    head = "metadata:\n  annotations:\n    tunefleet.io/overlay: medical\n"
    (tmp_path / "cluster.yaml").write_text(head)
    assert read_overlay(tmp_path) == "medical"


def test_a_cluster_without_prometheus_operator_is_told_by_preflight_with_the_way_out():
    missing = Refused("Error from server (NotFound): the server could not find the requested resource", 1)
    answer = admission.judge_one(admission.OBJECTS, "PodMonitor medical-1a2b3c4d", missing)
    assert answer.status == FAILED and "does not serve this kind" in str(answer)
    assert "WITHOUT=podmonitor" in str(answer)
