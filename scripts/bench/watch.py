"""Run one measured program to its end; its memory and the moments of its steps are seen from outside, alike for all."""

import json
import os
import resource
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

from train.orphans import LAUNCHER_PID

ROOT = Path(__file__).resolve().parents[2]
PAUSE = 0.05  # seconds between two looks at the metrics; a step takes seconds
BETWEEN_MEMORY = 0.5


class MeasuredFailed(RuntimeError):
    """A program that was to be measured ended with an error."""


def watch(command: list, environment: dict[str, str], log: Path, metrics: Path | None = None) -> SimpleNamespace:
    """Run a program and return what was seen: seconds, `moments` (seconds from its start to the end of each step, when
    its line in `metrics` appears), `lines` of metrics, `peaks` (GB of each of its processes, the largest first), and
    `disturbed`, the cores that all other processes of the machine took meanwhile.

    Raises MeasuredFailed with the end of its output where it does not end with 0.
    """
    moments: dict[int, float] = {}
    peaks: dict[int, float] = {}
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), LAUNCHER_PID: str(os.getpid())} | environment
    began, looked, busy = time.monotonic(), 0.0, busy_elsewhere()
    with log.open("w") as sink:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=sink, stderr=sink)
        try:
            while process.poll() is None:
                note_steps(metrics, moments, time.monotonic() - began)
                if time.monotonic() - looked >= BETWEEN_MEMORY:
                    looked = time.monotonic()
                    note_peaks(process.pid, peaks)
                time.sleep(PAUSE)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    seconds = time.monotonic() - began
    disturbed = max(0.0, busy_elsewhere() - busy) / seconds
    note_steps(metrics, moments, seconds)
    if process.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise MeasuredFailed(f"{log} says how it failed (status {process.returncode}):\n{end}")
    return SimpleNamespace(
        seconds=seconds, moments=moments, lines=read_lines(metrics), peaks=sorted(peaks.values(), reverse=True),
        disturbed=disturbed,
    )  # fmt: skip


def busy_elsewhere() -> float:
    """CPU seconds that all processes but this one and its ended children have used since the machine started.

    Time that a hypervisor took away (steal) counts too.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return (user + nice + system + irq + softirq + steal) / ticks - own


def note_steps(metrics: Path | None, moments: dict[int, float], now: float) -> None:
    """Note the moment of each step whose line appeared since the last look."""
    for line in read_lines(metrics):
        if "loss" in line:
            moments.setdefault(line["step"], now)


def read_lines(metrics: Path | None) -> list[dict]:
    """The whole lines of a metrics file; a line that is being written comes with the next look."""
    if metrics is None or not metrics.exists():
        return []
    return [json.loads(line) for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]


def note_peaks(pid: int, peaks: dict[int, float]) -> None:
    """Note the peak of resident memory (VmHWM, file pages mapped in counted) of a process and all below it, in GB."""
    for process in [pid, *below(pid)]:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue  # it has ended meanwhile
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peaks[process] = int(line.split()[1]) * 1024 / 1e9


def below(pid: int) -> list[int]:
    """Pids of all processes that a process started, directly or not."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        for child in pids:
            found += [child, *below(child)]
    return found
