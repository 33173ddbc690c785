"""A line to the agent on one node, over ssh: orders down, words up."""

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress


class Channel:
    """Starts the agent and reads what it says. Everything it says arrives at `on_word(name, word)`, from a thread of
    its own; the end of the connection as {"ended": why}."""

    def __init__(self, name: str, argv: Sequence[str], bundle: bytes, job: dict, on_word: Callable[[str, dict], None]):
        self.name = name
        self.on_word = on_word
        self.lock = threading.Lock()
        # A group of its own: Ctrl-C in the terminal reaches Ansible, which ends this in order.
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self.errors = b""
        threading.Thread(target=self.read_errors, daemon=True).start()
        threading.Thread(target=self.read_words, daemon=True).start()
        self.lock.acquire()  # nothing goes out before the job
        threading.Thread(target=self.begin, args=(bundle + json.dumps(job).encode() + b"\n",), daemon=True).start()

    def begin(self, data: bytes) -> None:
        try:
            self.put(data)
        finally:
            self.lock.release()

    def order(self, **order: object) -> None:
        self.write(json.dumps(order).encode() + b"\n")

    def send_chunk(self, number: int, data: bytes) -> None:
        self.write(json.dumps({"chunk": number, "size": len(data)}).encode() + b"\n" + data)

    def write(self, data: bytes) -> None:
        """Blocks while the line is full. A line that is gone is told by the reader, once."""
        with self.lock:
            self.put(data)

    def put(self, data: bytes) -> None:
        with suppress(OSError, ValueError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors = (self.errors + line)[-2000:]

    def read_words(self) -> None:
        for line in self.process.stdout:
            try:
                word = json.loads(line)
            except ValueError:
                self.errors += line  # a banner, or a shell's complaint
                continue
            self.on_word(self.name, word)
        status = self.process.wait()
        said = self.errors.decode(errors="replace").strip().splitlines()
        self.on_word(self.name, {"ended": said[-1] if said else f"the connection ended (exit {status})"})

    def beat(self) -> None:
        """A sign of life, unless something is on its way anyway: whoever hears nothing for two minutes leaves."""
        if self.lock.acquire(blocking=False):
            try:
                self.put(b'{"beat": true}\n')
            finally:
                self.lock.release()

    def hang_up(self) -> None:
        """The other side reads the end of its orders, finishes and leaves."""
        with self.lock, suppress(OSError, ValueError):
            self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
