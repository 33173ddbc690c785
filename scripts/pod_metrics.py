"""Metrics of a run for Prometheus, served by its pods where component `metrics` asks for it (METRICS_PORT).

The leading pod tells the run's figures. It reads them from the run's log.jsonl, where the training's events stand,
in a thread of a process that does not train: the training is not touched. The others tell that they are there.
docs/monitoring.md has a table of the metrics.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts import pod_peers
from scripts.pod_place import PORT, Place
from train.errors import InputError, problem

VARIABLE = "METRICS_PORT"
EVERY = 1.0  # seconds between two looks at the log
# metric, without its prefix: what it says. Names, units and suffixes as Prometheus recommends them.
GAUGES = {
    "loss": "Loss of the last step that was told.",
    "validation_loss": "Loss of the last validation.",
    "step": "Optimiser steps done.",
    "total_steps": "Optimiser steps of the whole training.",
    "tokens_per_second": "Tokens that all processes together learn from in a second.",
    "memory_bytes": "Memory of all training processes together at the end of the last step.",
    "step_seconds": "Seconds from one step to the next, between the last two that were told.",
    "seconds_left": "Seconds until the last step, at the rate so far.",
    "last_step_timestamp_seconds": "When the last step was told, in seconds since 1970.",
    "last_progress_timestamp_seconds": "When the last step, validation or checkpoint ended, or the stage began.",
    "last_checkpoint_timestamp_seconds": "When the last checkpoint was whole, in seconds since 1970.",
    "last_checkpoint_step": "Step of the last checkpoint.",
    "stage_start_timestamp_seconds": "When the stage began that the run is in, in seconds since 1970.",
    "slowest_rank": "Number of the process that computes longest on a step.",
    "slowest_rank_ratio": "How many times as long it computes as the median of the others.",
}
COUNTERS = {
    "restarts": "Times that the training, or the whole pod, was started again.",
    "non_finite_losses": "Losses that were no number, or infinite.",
}
NAMES = {
    "loss": "loss",
    "step": "step",
    "total": "total_steps",
    "tokens_per_second": "tokens_per_second",
    "seconds_left": "seconds_left",
    "eval_loss": "validation_loss",
}  # in an event: the gauge
PROGRESS = ("step", "validation", "checkpoint")
# Behind one of these other processes may compute, fewer or more, and the time since the last step was no step's.
ANEW = ("start", "restart", "resumed", "stage")
OF_PROCESSES = ("slowest_rank", "slowest_rank_ratio")


class Figures:
    """What is known of a run, from its events; Prometheus' library asks it for metrics by `collect`."""

    def __init__(self, run: str, overlay: str):
        self.labels = {"run": run, "overlay": overlay}
        self.gauges: dict[str, float] = {}
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.stage = ""
        self.starts = 0
        self.anew = True  # no step was told since one of ANEW
        self.announced = False  # it was told that the training is started again, and not yet from where

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event's figures over."""
        what, when = event.get("event"), float(event.get("time", 0))
        told = {name: float(event[key]) for key, name in NAMES.items() if key in event}
        losses = [value for name, value in told.items() if name.endswith("loss")]
        self.counters["non_finite_losses"] += sum(not math.isfinite(loss) for loss in losses)
        if what in ANEW:
            self.anew = True
            self.gauges = {name: value for name, value in self.gauges.items() if name not in OF_PROCESSES}
        if what in PROGRESS or (what == "stage" and event.get("state") == "started"):
            told["last_progress_timestamp_seconds"] = when
        if what == "step":
            told |= self.of_step(event, when)
        elif what == "checkpoint":
            told |= {"last_checkpoint_timestamp_seconds": when, "last_checkpoint_step": event["step"]}
        elif what == "ranks":
            told |= {"slowest_rank": event["slowest"], "slowest_rank_ratio": event["ratio"]}
        elif what == "stage" and event.get("state") == "started":
            self.stage = event["stage"]
            told["stage_start_timestamp_seconds"] = when
        elif what in ("restart", "start"):
            self.starts += what == "start"
            self.counters["restarts"] += what == "restart" or self.starts > 1
            self.announced = True
        elif what == "resumed":  # unannounced where torchrun lets a pod that is back join in
            self.counters["restarts"] += not self.announced
            self.announced = False
        self.gauges |= told

    def of_step(self, event: Mapping[str, Any], when: float) -> dict[str, float]:
        """What a step says besides its figures."""
        told = {"last_step_timestamp_seconds": when}
        before, last = self.gauges.get("step"), self.gauges.get("last_step_timestamp_seconds")
        if not self.anew and event["step"] > before:
            told["step_seconds"] = (when - last) / (event["step"] - before)
        self.anew = self.announced = False
        if "memory_gb" in event:
            told["memory_bytes"] = event["memory_gb"] * 1e9
        return told

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now; what is not known yet is left out."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        names, values = list(self.labels), list(self.labels.values())
        gauges = dict(self.gauges)
        for name, about in GAUGES.items():
            if name in gauges:
                family = GaugeMetricFamily(f"tunefleet_{name}", about, labels=names)
                family.add_metric(values, gauges[name])
                yield family
        for name, about in COUNTERS.items():
            counter = CounterMetricFamily(f"tunefleet_{name}", about, labels=names)
            counter.add_metric(values, self.counters[name])
            yield counter
        if self.stage:
            stage = GaugeMetricFamily(
                "tunefleet_stage", "1 for the stage that the run is in.", labels=[*names, "stage"]
            )
            stage.add_metric([*values, self.stage], 1)
            yield stage


def serve_metrics(place: Place, overlay: str) -> None:
    """Serve this pod's metrics for as long as it runs, if that is asked for. Raises InputError for a wrong port.

    A port that cannot be had is told and ends no run.
    """
    port = wanted_port()
    if port is None:
        return
    from prometheus_client import CollectorRegistry, Gauge, start_http_server

    registry = CollectorRegistry()
    here = Gauge("tunefleet_pod_info", "1 for each pod of a run, with its number and its node.",
                 ["run", "overlay", "index", "node"], registry=registry)  # fmt: skip
    here.labels(place.run, overlay, str(place.index), place.node).set(1)
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        print(f"no metrics: port {port} ({VARIABLE}): {error.strerror}; give another metrics.port in cluster.yaml",
              file=sys.stderr, flush=True)  # fmt: skip
        return
    if place.leads:
        log, figures = place.directory / "log.jsonl", Figures(place.run, overlay)
        at = read_on(log, 0, figures)  # what earlier pods of the run told
        registry.register(figures)
        threading.Thread(target=keep_reading, args=(log, at, figures), daemon=True, name="metrics").start()
    print(f"metrics: http://{place.address or 'localhost'}:{port}/metrics", flush=True)


def wanted_port(environment: Mapping[str, str] = os.environ) -> int | None:
    """The port to serve at, None where nobody asks. Raises InputError."""
    text = environment.get(VARIABLE)
    if not text:
        return None
    fix = "give metrics.port in cluster.yaml a free port from 1024 to 32767, and render the run anew: make deploy"
    if not text.isdigit() or not 1024 <= int(text) <= 32767:
        raise InputError(problem("environment", VARIABLE, f"{text!r} is no port to serve at", fix))
    if int(text) in (PORT, pod_peers.PORT):
        raise InputError(problem("environment", VARIABLE, f"{text} is where the run's processes meet", fix))
    return int(text)


def keep_reading(log: Path, at: int, figures: Figures) -> None:
    """Give the figures every event that the log gets, for as long as this process lives."""
    while True:
        time.sleep(EVERY)
        at = read_on(log, at, figures)


def read_on(log: Path, at: int, figures: Figures) -> int:
    """Take the whole lines that begin at byte `at`; returns where the next one begins."""
    try:
        with log.open("rb") as file:
            file.seek(at)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                at += len(line)
                take_line(line, figures)
    except OSError:  # not written yet, or the store does not answer: the next look will tell
        return at
    return at


def take_line(line: bytes, figures: Figures) -> None:
    """Take one line of the log; one that a kill tore is passed over."""
    try:
        event = json.loads(line)
        figures.take(event)
    except (ValueError, TypeError, KeyError, AttributeError):
        return
