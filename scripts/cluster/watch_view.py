"""What `make watch` shows: a few lines that are drawn again and again on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

from scripts.cluster.jobs import Job
from scripts.cluster.pods import age, is_over, restarts_of, short_name, state_of
from scripts.cluster.progress import Progress, duration, number, step_line
from train.errors import see

BAR = 30
SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_SILENCE = 900.0  # longer than most validations and merges
SHOWN_PODS = 8
FIRST_LINES, LAST_LINES = 8, 24  # of what happened before


class View:
    """Prints what happens once, and on a terminal keeps the present state below it."""

    def __init__(self, out=sys.stdout, live: bool | None = None):
        self.out = out
        self.live = out.isatty() if live is None else live
        self.drawn = 0  # lines of the present state that stand on the terminal
        self.last_step, self.last_time = None, 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self.out.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
        self.out.flush()

    def say_all(self, lines: list[str]) -> None:
        """What happened before; the middle of a long story is left out."""
        left_out = len(lines) - FIRST_LINES - LAST_LINES
        if left_out > 0:
            more = f"…         {left_out} lines more"
            lines = [*lines[:FIRST_LINES], more, *lines[-LAST_LINES:]]
        for line in lines:
            self.out.write(f"{line}\n")
        self.out.flush()

    def show(self, job: Job | None, progress: Progress, trouble: str, heard: float) -> None:
        """The present state; `heard` is how many seconds ago the run last told of itself."""
        if not self.live:
            self.show_step(progress)
            return
        self.draw(state_lines(job, progress, trouble, heard))

    def draw(self, lines: list[str]) -> None:
        """These lines on a terminal, in place of those drawn before; nothing elsewhere."""
        if not self.live:
            return
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] for line in lines]
        back = f"\x1b[{self.drawn}A" if self.drawn else ""
        self.out.write(back + "\r\x1b[J" + "".join(line + "\n" for line in lines))
        self.out.flush()
        self.drawn = len(lines)

    def show_step(self, progress: Progress) -> None:
        """Where nothing is redrawn: the newest step, every few seconds, and the last one."""
        now = time.monotonic()
        fresh = progress.step is not None and progress.step != self.last_step and progress.loss is not None
        if fresh and (now - self.last_time >= SECONDS_BETWEEN_LINES or progress.step == progress.total):
            self.last_step, self.last_time = progress.step, now
            self.say(step_line(progress))

    def clear(self) -> None:
        """Take the present state from the terminal."""
        if self.drawn:
            self.out.write(f"\x1b[{self.drawn}A\r\x1b[J")
            self.drawn = 0


def state_lines(job: Job | None, progress: Progress, trouble: str, heard: float) -> list[str]:
    """The present state as lines."""
    lines = []
    if job is not None:
        restarts = restarts_of_run(job) + progress.restarts
        lines.append(f"{job.name}   {job.runtime}   {job.state} for {duration(age(since(job)))}")
        lines.append(pods_line(job) + (f"   restarts: {restarts}" if restarts else ""))
        if job.reason:
            lines.append(f"because   {job.reason}")
    if progress.stages:
        lines.append("stages    " + "  ".join(stage_word(*item) for item in progress.stages.items()))
    if progress.waiting:
        lines.append(f"waits     for {progress.waiting}")
    if progress.step is not None:
        lines += [f"steps     {bar_line(progress, heard)}", f"          {figures(progress)}"]
    if job is not None and job.state == "running" and heard > SECONDS_OF_SILENCE:
        lines.append(f"silent    nothing was told for {duration(heard)}{see('run-stalled')}")
    if trouble:
        lines.append(f"the cluster does not answer, trying again: {trouble}")
    return lines


def since(job: Job) -> str:
    """When the state began, as far as the job's own status tells."""
    status = job.object.get("status", {})
    if job.state == "running":
        started = [one["state"]["running"].get("startedAt") for pod in job.pods
                   for one in pod["status"].get("containerStatuses", []) if "running" in one["state"]]  # fmt: skip
        return min(filter(None, started), default=status.get("startTime") or job.created)
    return job.created


def pods_line(job: Job) -> str:
    """Which pods there are, what they do and where."""
    shown = [pod for pod in job.pods if not is_over(pod)] or job.pods
    words = [f"{short_name(pod)} {state_of(pod)} {pod['spec'].get('nodeName', '')}".rstrip() for pod in shown]
    more = f"  and {len(words) - SHOWN_PODS} more" if len(words) > SHOWN_PODS else ""
    return "pods      " + ("   ".join(words[:SHOWN_PODS]) or "none yet") + more


def restarts_of_run(job: Job) -> int:
    """How often pods were started again: containers in their pods, and pods that took a failed one's place."""
    return sum(restarts_of(pod) for pod in job.pods) + sum(state_of(pod) == "failed" for pod in job.pods)


def stage_word(name: str, state: str) -> str:
    """A stage and how far it is."""
    return f"{name} {'…' if state == 'started' else state}"


def bar_line(progress: Progress, heard: float) -> str:
    """The bar, the step, and the time left, which runs on while nothing new is heard."""
    total, step = progress.total or 0, progress.step or 0
    filled = BAR * step // total if total else 0
    left = f"   {duration(progress.seconds_left - heard)} left" if progress.seconds_left is not None else ""
    share = f"   {step / total:.0%}" if total else ""
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {step}/{total or '?'}{share}{left}"


def figures(progress: Progress) -> str:
    """Loss, validation, speed, memory and the checkpoint, those that are known."""
    parts = [f"loss {number(progress.loss, '.4f')}"]
    if progress.eval_loss is not None:
        parts.append(f"validation {progress.eval_loss:.4f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.memory_gb:
        parts.append(f"{progress.memory_gb:.1f} GB")
    if progress.checkpoint is not None:
        parts.append(f"checkpoint at {progress.checkpoint}")
    return "   ".join(parts)
