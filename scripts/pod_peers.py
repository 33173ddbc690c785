"""Whether the other pods of a run are still there. A node that loses its power or its cable says nothing: without this,
the others would wait in the middle of a step for half an hour, gloo's time limit.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

PORT = 29400
EVERY = 5.0  # seconds between two questions
SILENT = 30.0  # seconds without an answer, after which a pod counts as lost


def listen(port: int = PORT) -> None:
    """Let others see that this pod is there, for as long as it runs: a thread takes connections and closes them."""
    server = socket.create_server(("", port), backlog=64, reuse_port=True)

    def answer() -> None:
        while True:
            with contextlib.suppress(OSError):  # who hung up before the answer got it anyway
                server.accept()[0].close()

    threading.Thread(target=answer, daemon=True, name="peers").start()


@contextlib.contextmanager
def watched(
    peers: list[tuple[str, int]], lost: Callable[[str], None], every: float = EVERY, silent: float = SILENT
) -> Iterator[None]:
    """Ask these hosts and ports while the block runs; `lost` is called once with the name of one that fell silent.

    One that never answered is not there yet, and not lost.
    """
    over = threading.Event()

    def ask() -> None:
        heard: dict[str, float] = {}
        while not over.wait(every):
            for host, port in peers:
                if answers(host, port):
                    heard[host] = time.monotonic()
            gone = [host for host, when in heard.items() if time.monotonic() - when > silent]
            if gone and not over.is_set():
                lost(gone[0])
                return

    thread = threading.Thread(target=ask, daemon=True, name="watch")
    thread.start()
    try:
        yield
    finally:
        over.set()


def answers(host: str, port: int) -> bool:
    """Whether something listens at a host's port; a name that is not known yet is a no."""
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False
