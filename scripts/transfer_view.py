"""Long transfers as a person and a program see them: a bar with rate and time left, lines in a log, events of a pod."""

import sys
import threading
import time

from tqdm import tqdm

from train.events import tell

SECONDS_BETWEEN_LINES = 10.0  # where nobody looks at a bar
SECONDS_BETWEEN_EVENTS = 2.0


class View:
    """One transfer of `total` bytes, `done` of them there already; a context manager, used from several threads."""

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done = title, total, done
        self.first, self.began = done, time.monotonic()
        self.told = self.lined = self.began
        self.lock = threading.Lock()
        self.live = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=title, unit="B", unit_scale=True, disable=not self.live,
                        dynamic_ncols=True, smoothing=0.1)  # fmt: skip

    def __enter__(self) -> "View":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def add(self, count: int) -> None:
        """So many bytes more are there; negative where some have to come again."""
        with self.lock:
            self.done += count
            self.bar.update(count)
            now = time.monotonic()
            if now - self.told >= SECONDS_BETWEEN_EVENTS:
                self.told = now
                self.event()
            if not self.live and now - self.lined >= SECONDS_BETWEEN_LINES:
                self.lined = now
                print(self.line(), file=sys.stderr, flush=True)

    def set(self, done: int) -> None:
        """So many bytes are there by now."""
        self.add(done - self.done)

    def say(self, text: str) -> None:
        """A line of its own."""
        with self.lock:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """The last state, and the bar's end."""
        with self.lock:
            self.event()
            self.bar.close()

    @property
    def rate(self) -> float:
        """Bytes a second since it began; 0 before anything came."""
        return max(self.done - self.first, 0) / max(time.monotonic() - self.began, 1e-3)

    def line(self) -> str:
        """Where it stands, in words."""
        rate = self.rate
        left = f", {clock((self.total - self.done) / rate)} left" if rate else ""
        share = self.done / self.total if self.total else 1.0
        return f"{self.title}: {amount(self.done)} of {amount(self.total)} ({share:.0%}), {amount(rate)}/s{left}"

    def event(self) -> None:
        """Where it stands, for who follows from a workstation."""
        rate = self.rate
        left = (self.total - self.done) / rate if rate else None
        tell("transfer", what=self.title, bytes=self.done, total=self.total, rate=rate, seconds_left=left)


def amount(count: float) -> str:
    """Bytes as people write them: 13.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def clock(seconds: float) -> str:
    """Seconds as 45 s, 3:05 or 2:03:05."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
