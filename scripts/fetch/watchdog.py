"""Brings a transfer to its end: starts it, watches its bytes, kills it when it stalls, waits when the hub asks to."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.fetch.ask import LONGEST_WAIT
from scripts.fetch.choose import File
from scripts.fetch.follow import Growing
from scripts.fetch.messages import AGAIN, Asked, FetchFailed, host
from scripts.transfer_view import View, amount
from train.errors import InputError, see
from train.files import sync

ROOT = Path(__file__).resolve().parents[2]
STALL = 60.0  # seconds without a byte
TRIES = 6  # in a row, without a byte
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_FLUSHES = 1.0
HASHED_AT_A_LOOK = 64 << 20  # bytes; what was left by a kill is caught up with while new bytes come


@dataclass(frozen=True)
class Order:
    """What is to lie in `incoming` in the end."""

    asked: Asked
    commit: str
    files: list[File]
    incoming: Path


class Watch:
    """A transfer while it goes on: what has come, and what went wrong since the last byte."""

    def __init__(self, order: Order, stall: float, view: View, spare: subprocess.Popen):
        self.order, self.stall, self.view = order, stall, view
        self.spare: subprocess.Popen | None = spare
        self.growing = {file.name: Growing(file, order.incoming) for file in order.files}
        self.present = {name: one.present for name, one in self.growing.items()}
        self.entries: dict[str, dict[str, Any]] = {}  # verified
        self.active = {name for name, one in self.growing.items() if one.whole}  # to be looked at: they grow, or wait
        self.wrong: set[str] = set()  # arrived with wrong bytes once
        self.moved = time.monotonic()
        self.fast = True
        self.trouble, self.asked_to_wait = "", None
        self.best = self.came  # a file that begins anew at every try does not count as moving

    @property
    def came(self) -> int:
        """Bytes on disk."""
        return sum(self.present.values())

    @property
    def complete(self) -> bool:
        """Whether every file is verified."""
        return len(self.entries) == len(self.growing)

    @property
    def missing(self) -> list[Growing]:
        """The files that have not wholly arrived."""
        return [one for name, one in self.growing.items() if name not in self.entries and not one.whole]

    def look(self) -> int:
        """See what has come, hash it, judge what is whole; returns the bytes hashed."""
        hashed = 0
        for name in sorted(self.active):
            one = self.growing[name]
            hashed += one.follow(HASHED_AT_A_LOOK - hashed)
            present = one.present
            if present != self.present[name]:
                self.present[name], self.moved = present, time.monotonic()
            if one.done:
                self.judge(name, one)
        self.view.set(self.came)
        return hashed

    def judge(self, name: str, one: Growing) -> None:
        """Note a file as verified, or have it fetched once more. Raises FetchFailed at its second wrong arrival."""
        self.active.discard(name)
        if one.right or one.read_again():
            self.entries[name] = one.entry()
            return
        one.discard()
        self.present[name] = 0
        self.best = self.came  # what comes again counts
        if name in self.wrong:
            expected = one.file.sha256 or f"git's {one.file.blob}"
            raise FetchFailed(
                f"{self.order.asked}: {name} arrived with wrong bytes twice (its hash is not {expected}). Nothing was "
                f"published; {host()} or something on the way damages it, so try another hub or another network"
            )
        self.wrong.add(name)
        self.trouble = f"{name} arrived with wrong bytes"

    def hear(self, said: dict[str, Any]) -> None:
        """What the transfer tells. Raises where the hub refuses for good."""
        match said["event"]:
            case "begun":
                self.active.add(said["file"])
                self.moved = time.monotonic()
            case "arrived":
                self.active.add(said["file"])
            case "busy":
                self.trouble = f"status {said['status']}"
                self.asked_to_wait = max(said["seconds"] or 0.0, self.asked_to_wait or 0.0) or None
            case "failed":
                self.trouble = f"{said['file']}: {said['message']}"
            case "refused" if "problems" in said:
                raise InputError(said["problems"])
            case "refused":
                raise FetchFailed(said["message"])


def transfer(order: Order, stall: float, spare: subprocess.Popen) -> dict[str, dict[str, Any]]:
    """Bring all files of the order, verified, first by the process that is `ready`; returns name -> size and sha256.

    Raises InputError or FetchFailed where that cannot be; whatever has come stays in `incoming` for the next time.
    """
    total = sum(file.size for file in order.files)
    there = sum(Growing(file, order.incoming).present for file in order.files)
    with View(order.asked.name, total, there) as view, flushed(watch := Watch(order, stall, view, spare)):
        idle = 0
        while not watch.complete:
            if watch.missing:
                one_pass(watch)
            while watch.look():
                pass
            if not watch.missing:
                continue
            idle = 0 if watch.came > watch.best else idle + 1
            watch.best = max(watch.best, watch.came)
            pause(watch, idle)
    return watch.entries


@contextlib.contextmanager
def flushed(watch: Watch) -> Iterator[None]:
    """Bring bytes to the disk as they come; else publishing would begin with minutes of flushing what memory took."""
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(SECONDS_BETWEEN_FLUSHES):
            for name in sorted(watch.active):
                with contextlib.suppress(OSError):  # publishing flushes again, and says what is wrong
                    sync(watch.growing[name].partial)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def one_pass(watch: Watch) -> None:
    """Run the transfer over what is missing until it ends, or is killed because nothing moves."""
    watch.trouble, watch.asked_to_wait, watch.moved = "", None, time.monotonic()
    for one in watch.missing:
        one.fast.unlink(missing_ok=True)
        watch.present[one.file.name] = one.present
    child, watch.spare = watch.spare or launch(watch.fast), None
    give_order(child, watch)
    said: queue.SimpleQueue = queue.SimpleQueue()
    listener = threading.Thread(target=listen, args=(child, said), daemon=True)
    listener.start()
    try:
        while not watch.complete:
            hashed = watch.look()
            if time.monotonic() - watch.moved > watch.stall:
                watch.trouble, watch.fast = f"not a byte for {watch.stall:.0f} s", False
                break
            with contextlib.suppress(queue.Empty, subprocess.TimeoutExpired):
                word = said.get(timeout=0.0 if hashed else SECONDS_BETWEEN_LOOKS)
                if word is None:
                    child.wait(timeout=watch.stall)
                    break
                watch.hear(word)
    finally:
        child.kill()
        child.wait()
        listener.join()
    if child.returncode > 0 and not watch.trouble:
        watch.trouble, watch.fast = "the transfer ended by an error of its own", False


@contextlib.contextmanager
def ready() -> Iterator[subprocess.Popen]:
    """A transfer that starts while the hub is still being asked what to transfer, and ends with the context."""
    child = launch(fast=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def launch(fast: bool) -> subprocess.Popen:
    """The transfer's process, which waits for its order; a token reaches it as it reached us."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    if not fast:
        environment["HF_HUB_DISABLE_XET"] = "1"
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.fetch.transfer"],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def give_order(child: subprocess.Popen, watch: Watch) -> None:
    """Tell the transfer what is missing."""
    order = watch.order
    files = [asdict(one.file) for one in watch.missing]
    wanted = asdict(order.asked) | {"commit": order.commit, "incoming": str(order.incoming.absolute()), "files": files}
    try:
        json.dump(wanted, child.stdin)
        child.stdin.close()
    except BrokenPipeError:  # it ended already; its exit status says so
        pass


def listen(child: subprocess.Popen, said: queue.SimpleQueue) -> None:
    """Pass on what the transfer tells, None when it ends; a line torn by a kill is no line."""
    for line in child.stdout:
        try:
            said.put(json.loads(line))
        except ValueError:
            continue
    said.put(None)


def pause(watch: Watch, idle: int) -> None:
    """Wait before the next pass: as the hub asks, or longer with every try in vain. FetchFailed after too many."""
    why = watch.trouble or "files are missing"
    if idle >= TRIES:
        done = f"{amount(watch.came)} of {amount(watch.view.total)} are here"
        raise FetchFailed(
            f"{watch.order.asked}: not a byte in {TRIES} tries ({why}); {done}, and {AGAIN}{see('fetch-stalls')}"
        )
    if idle:
        watch.fast = False
    seconds = watch.asked_to_wait
    if seconds is None:
        seconds = min(2.0 ** (idle - 1), 60.0) if idle else 0.0
        path = "" if watch.fast else ", on the plain path"
        watch.view.say(f"going on after: {why}" + (f"; in {seconds:.0f} s" if seconds else "") + path)
    elif seconds > LONGEST_WAIT:
        raise FetchFailed(f"{host()} asks to wait {seconds:.0f} s; {AGAIN} after that")
    else:
        watch.view.say(f"{host()} asks to wait {seconds:.0f} s ({why})")
    time.sleep(seconds)
