"""What is known of a sweep after it was started: its points and the names of their runs, in runs/<name>.sweep.json."""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from scripts.chain import now
from scripts.runs import is_held, run_status
from scripts.sweep.check import TRIED
from scripts.sweep.points import words
from train.errors import InputError, problem
from train.files import write_json

ENDING = ".sweep.json"
COUNTED = {"exact_match": "share", "rouge": "rougeL"}  # metrics with several figures: the one that decides
HERE, CLUSTER = "here", "cluster"


def make_record(sweep: Any, overlay: str, where: str, namespace: str, runs: list[str]) -> dict[str, Any]:
    """The record of a sweep; its name holds a hash of points, runs and metric, so that another one is beside it."""
    points = [{"values": point, "run": run} for point, run in zip(sweep.points, runs, strict=True)]
    decides = json.dumps([points, sweep.metric, where, namespace], sort_keys=True)
    name = f"{overlay}-sweep-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"
    return {"name": name, "overlay": overlay, "on": where, "namespace": namespace, "metric": sweep.metric,
            "file": str(sweep.path),
            "command": " ".join(sys.orig_argv[1:]), "used": now(), "points": points}  # fmt: skip


def save_record(runs: Path, record: dict[str, Any]) -> None:
    """Keep the record beside the runs; the same sweep again takes its place."""
    runs.mkdir(parents=True, exist_ok=True)
    write_json(runs / f"{record['name']}{ENDING}", record)


def load_record(runs: Path, overlay: str, where: str, namespace: str = "", name: str = "") -> dict[str, Any]:
    """The sweep of this name, else the overlay's that was used last there. Raises InputError naming those there are."""
    known = [json.loads(path.read_text()) for path in sorted(runs.glob(f"*{ENDING}"))]
    there = [one for one in known if (one["on"], one["namespace"]) == (where, namespace)]
    fits = [one for one in there if one["name"] == name or (not name and one["overlay"] == overlay)]
    if not fits:
        key, asked = ("RUN", name) if name else ("OVERLAY", overlay)
        what = f"no sweep of it was started from {runs}" + (f" in the namespace {namespace}" if namespace else "")
        on = " ON=cluster" if where == CLUSTER else ""
        names = ", ".join(one["name"] for one in there) or f"none; make sweep OVERLAY={overlay}{on} starts one"
        raise InputError(problem(key, asked, what, f"there are: {names}"))
    return max(fits, key=lambda one: one["used"])


# ---- how it stands ----


def state_here(run: Path) -> str:
    """How a run stands on this machine."""
    if not run.is_dir():
        return "not started"
    return "running" if is_held(run) else run_status(run)


def metric_of(run: Path, metric: str) -> float | None:
    """A metric of a finished run, from its last evaluation; None where it is not there, or no number."""
    path = run / "after.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text()).get(metric)
    value = found[COUNTED[metric]] if isinstance(found, dict) else found
    return value if value is not None and math.isfinite(value) else None


def best_of(values: list[float | None], metric: str) -> int | None:
    """Which of these is the best; None where none is known."""
    known = [number for number, value in enumerate(values) if value is not None]
    if metric in COUNTED:
        return max(known, key=lambda number: values[number], default=None)
    return min(known, key=lambda number: values[number], default=None)


def table(record: dict[str, Any], runs: Path, states: list[str]) -> list[str]:
    """The sweep for a person: each point with its metric, the best one marked."""
    metric, points = record["metric"], record["points"]
    values = [metric_of(runs / point["run"], metric) if state == "complete" else None
              for point, state in zip(points, states, strict=True)]  # fmt: skip
    best, done = best_of(values, metric), states.count("complete")
    wide = max(len("point"), *(len(words(point["values"])) for point in points))
    lines = [
        f"{record['name']}: {done} of {len(points)} done",
        f"     {'point':{wide}}  {TRIED[metric]:16}  {'run':28}  state",
    ]
    for number, (point, value, state) in enumerate(zip(points, values, states, strict=True)):
        figure = "-" if value is None else f"{value:.1%}" if metric == "exact_match" else f"{value:.4f}"
        figure += "  best" if number == best else ""
        lines.append(f"{number + 1:3}  {words(point['values']):{wide}}  {figure:16}  {point['run']:28}  {state}")
    return lines


def show(record: dict[str, Any], runs: Path, states: list[str]) -> None:
    """Print the table, and where two or more points are done their comparison, which is also written as a page."""
    print("\n".join(table(record, runs, states)))
    done = [runs / point["run"] for point, state in zip(record["points"], states, strict=True) if state == "complete"]
    if len(done) < 2:
        return
    from scripts.compare import print_comparison, write_comparison

    page = runs / f"{record['name']}.html"
    write_comparison(done, page)
    print_comparison(done)
    print(f"\ncomparison: {page}", flush=True)
