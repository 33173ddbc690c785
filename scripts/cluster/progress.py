"""What a run tells of itself: the events in its log, put together to where it stands now."""

import json
import time
from dataclasses import dataclass, field

from scripts.cluster.names import EVENT

WITHOUT_MEANING = ("time", "at", "seconds_left")  # two tellings of one event may differ in these


@dataclass
class Progress:
    """Where a run stands, as far as it has told."""

    nodes: int | None = None
    processes: int | None = None
    starts: int = 0  # of the pod that leads
    stages: dict[str, str] = field(default_factory=dict)  # in the order of their first word
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    memory_gb: float | None = None
    eval_loss: float | None = None
    perplexity: float | None = None
    checkpoint: int | None = None
    restarts: int = 0
    restart_reason: str = ""
    waiting: str = ""
    end: dict | None = None

    @property
    def stage(self) -> str:
        """The stage that is being worked on."""
        return next((name for name, state in reversed(self.stages.items()) if state == "started"), "")


def read_event(line: str) -> dict | None:
    """The event in a line of a log, None where the line is for people. Launchers may put a prefix before it."""
    at = line.find(EVENT + "{")
    text = line[at + len(EVENT) :] if at >= 0 else line if line.startswith("{") else ""
    if not text:
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None  # torn by a kill, or another's
    return event if isinstance(event, dict) and "event" in event else None


def same(event: dict) -> str:
    """The event as a word to compare: the same telling in the pod's log and in the store's."""
    return json.dumps({key: value for key, value in event.items() if key not in WITHOUT_MEANING}, sort_keys=True)


def take(progress: Progress, event: dict) -> str:
    """Put an event into the picture; returns a line about it where it is worth one."""
    kind, get = event["event"], event.get
    if kind != "waiting":
        progress.waiting = ""
    if kind == "start":
        if get("index") not in (0, None):
            return ""
        progress.end = None
        progress.nodes, progress.processes, progress.starts = get("nodes"), get("processes"), progress.starts + 1
        again = f", start {progress.starts}" if progress.starts > 1 else ""
        return f"started on {get('node')}{again}"
    if kind == "waiting":
        known, progress.waiting = progress.waiting, f"{get('for')}"
        return "" if progress.waiting == known else f"waits for {progress.waiting}"
    if kind == "stage":
        return take_stage(progress, event)
    if kind == "resumed":
        progress.step = get("step")
        return f"goes on from step {get('step')}"
    if kind == "step":
        for key in ("step", "total", "loss", "learning_rate", "tokens_per_second", "seconds_left", "memory_gb"):
            setattr(progress, key, get(key))
        return ""
    if kind == "validation":
        progress.eval_loss, progress.perplexity = get("eval_loss"), get("perplexity")
        progress.total = get("total") or progress.total
        return f"step {get('step')}: validation loss {number(get('eval_loss'), '.4f')}"
    if kind == "checkpoint":
        progress.checkpoint = get("step")
        return ""
    if kind == "diverged":
        return f"step {get('step')}: the loss is {get('loss')}"
    if kind == "ranks":
        return f"{get('words', '')}"
    if kind == "restart":
        progress.restarts, progress.restart_reason = progress.restarts + 1, f"{get('reason')}"
        return f"starts again: {get('reason')}"
    if kind == "end":
        progress.end = event
        return f"the program ended: {get('status')}" + (f": {get('reason')}" if get("reason") else "")
    return ""


def take_stage(progress: Progress, event: dict) -> str:
    """A stage begins or ends."""
    name, state, seconds = event.get("stage", "?"), event.get("state", "?"), event.get("seconds")
    progress.stages[name] = state
    if state == "started":
        return f"{name} …"
    return f"{name} {state}" + (f" in {duration(seconds)}" if seconds else "")


def replay(text: str) -> tuple[Progress, list[str], list[dict]]:
    """Where a run stands after these lines, what was worth a line (with its time, where told), and the events."""
    progress = Progress()
    events = [event for event in map(read_event, text.splitlines()) if event]
    told = [(event.get("time"), take(progress, event)) for event in events]
    return progress, [f"{clock(when)}  {line}" for when, line in told if line], events


def since_last_start(events: list[dict]) -> list[dict]:
    """What the pod that leads now has told, without what those before it did."""
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    return events[starts[-1] :] if starts else events


# ---- words ----


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def clock(when: float | None) -> str:
    """A time of day, with the date where it is another day."""
    if when is None:
        return "earlier "
    then = time.localtime(when)
    return time.strftime("%H:%M:%S" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M:%S", then)


def duration(seconds: float | None) -> str:
    """Seconds as 12 s, 2:03 min or 1:02:03 h."""
    if seconds is None:
        return "-"
    hours, rest = divmod(round(max(seconds, 0)), 3600)
    if hours:
        return f"{hours}:{rest // 60:02}:{rest % 60:02} h"
    return f"{rest // 60}:{rest % 60:02} min" if rest >= 60 else f"{rest} s"


def step_line(progress: Progress) -> str:
    """The newest step in one line, for where nothing is redrawn."""
    share = f" ({progress.step / progress.total:.0%})" if progress.step is not None and progress.total else ""
    parts = [f"step {progress.step}/{progress.total or '?'}{share}", f"loss {number(progress.loss, '.4f')}"]
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.checkpoint is not None:
        parts.append(f"checkpoint at {progress.checkpoint}")
    return "  ".join(parts)
