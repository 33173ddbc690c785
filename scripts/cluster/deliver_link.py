"""One connection to the data-access pod that takes files into the store, as scripts/store_receive.py speaks there.

The program travels first, as a line of JSON with its modules, then its input follows on the same stream.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import DATA_ACCESS
from scripts.cluster.store_client import SECONDS_FOR_A_POD, START, listen, refusal, texts

READ_AND_START = f"{START}import json\nstart(json.loads(sys.stdin.buffer.readline()))"
BLOCK = 1 << 20
SECONDS_OF_SILENCE = 60.0
SECONDS_BETWEEN_SIGNS = 5.0


class Link:
    """kubectl with the program at its far end; `landed` hears how many bytes of this session lie there."""

    def __init__(self, cluster: Cluster, landed: Callable[[int], None]):
        where = ["-i", f"--pod-running-timeout={SECONDS_FOR_A_POD}s", f"deployment/{DATA_ACCESS}", "-c", DATA_ACCESS]
        command = cluster.command("exec", *where, "--", "python", "-I", "-c", READ_AND_START)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with contextlib.suppress(
            OSError, AttributeError
        ):  # fewer changes between the two processes, where it can be had
            fcntl.fcntl(self.process.stdin.fileno(), fcntl.F_SETPIPE_SZ, BLOCK)
        self.landed = landed
        self.heard = time.monotonic()
        self.said: list[str] = []
        self.messages: queue.Queue[dict | None] = queue.Queue()
        for work in (self.hear, self.watch):
            threading.Thread(target=work, daemon=True).start()
        errors = (line.decode(errors="replace") for line in self.process.stderr)
        self.listener = threading.Thread(target=listen, args=(errors, self.said, lambda line: None), daemon=True)
        self.listener.start()
        self.say(texts("scripts.store_receive"))

    def hear(self) -> None:
        """Take what the far end says; None at its end."""
        for line in self.process.stdout:
            self.heard = time.monotonic()
            try:
                message = json.loads(line)
            except ValueError:  # nothing that follows can be trusted, and each side would wait for the other
                self.said.append(
                    f"error: the store says what is no message: {line.decode(errors='replace').strip()[:200]}"
                )
                self.process.kill()
                break
            if "landed" in message:
                self.landed(message["landed"])
            else:
                self.messages.put(message)
        self.messages.put(None)

    def watch(self) -> None:
        """End a connection over which nothing comes any more."""
        while self.process.poll() is None:
            if time.monotonic() - self.heard > SECONDS_OF_SILENCE:
                self.said.append(f"error: the store has said nothing for {SECONDS_OF_SILENCE:.0f} s")
                self.process.kill()
            time.sleep(0.5)

    def write(self, view: bytes | memoryview) -> None:
        """Bytes to the far end. Raises Refused where it is gone."""
        try:
            while view:
                view = view[os.write(self.process.stdin.fileno(), view) :]
        except BrokenPipeError:
            raise self.gone() from None

    def say(self, message: dict) -> None:
        """One line to the far end."""
        self.write(json.dumps(message).encode() + b"\n")

    def next(self) -> dict:
        """What it says next. Raises Refused where the connection ends."""
        message = self.messages.get()
        if message is None:
            raise self.gone()
        return message

    def waiting(self) -> Iterator[dict]:
        """What it has said already."""
        while not self.messages.empty():
            yield self.next()

    def send(self, name: str, path: Path, offset: int, size: int) -> None:
        """The bytes of a file from an offset on. Raises OSError where it cannot be read."""
        self.say({"file": name, "offset": offset, "size": size - offset})
        left, room = size - offset, memoryview(bytearray(BLOCK))
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while left:
                count = file.readinto(room[: min(BLOCK, left)])
                if not count:
                    raise OSError(f"{path}: became shorter while it was sent")
                left -= count
                self.write(room[:count])

    def digest_of(self, path: Path) -> str:
        """The SHA-256 of a file here; the far end hears meanwhile that this one lives."""
        digest, told = hashlib.sha256(), time.monotonic()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                if time.monotonic() - told > SECONDS_BETWEEN_SIGNS:
                    told = time.monotonic()
                    self.say({})
        return digest.hexdigest()

    def gone(self) -> Refused:
        """Why the connection ended, in one line."""
        self.process.kill()
        status = self.process.wait()
        self.listener.join(2)
        return refusal(self.said or ["the connection was cut"], status)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
