"""Many questions over one kubectl: `kubectl proxy`, at a socket that this user alone can reach.

A kubectl for each question starts, reads the kubeconfig and logs in each time: a tenth of a second of a processor, and
a second where a cloud's login program is called. What the API server does not plainly answer here is not judged: it is
asked again by kubectl itself, whose words people know and the checks understand.
"""

import http.client
import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

# Ends kubectl, and takes its directory away, once nobody holds the other end of its input, however this program ended.
KEEPER = '"$@" & exec >&-; read -r end; kill $!; rm -rf "$0"'
FROM_KUBECTL = (401, 422, 429)  # kubectl words the first two in a way of its own, and tries again after the third


class NoAnswer(Exception):
    """Nothing that can be told as it is: kubectl has to be asked."""


class Connection:
    """A `kubectl proxy`, started at the first question by `command`, which adds words to kubectl's. To be closed."""

    def __init__(self, command: Callable[..., list[str]]):
        self.command, self.starting = command, threading.Lock()
        self.directory = ""
        self.process: subprocess.Popen | None = None
        self.usable = True

    def ask(self, method: str, path: str, seconds: float, body: str | None = None) -> tuple[int, str]:
        """The API server's answer: (HTTP status, JSON). Raises NoAnswer, and TimeoutError after so many seconds."""
        with self.starting:
            if self.process is None:
                self.start()
        if not self.usable:
            raise NoAnswer
        line = Line(f"{self.directory}/api", seconds)
        try:
            line.request(method, path, body, {"Accept": "application/json", "Content-Type": "application/json"})
            answer = line.getresponse()
            text = answer.read().decode()
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError):
            self.usable = False
            raise NoAnswer from None
        finally:
            line.close()
        if answer.status in FROM_KUBECTL or answer.status >= 500:
            raise NoAnswer
        return answer.status, text

    def start(self) -> None:
        """Start kubectl and wait until it listens, or has ended."""
        proxy = self.command("proxy", "--unix-socket")
        self.directory = tempfile.mkdtemp(prefix="tunefleet-")
        self.process = subprocess.Popen(
            ["sh", "-c", KEEPER, self.directory, *proxy, f"{self.directory}/api"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for this program
        )
        self.process.stdout.readline()  # that it serves; nothing where it does not
        self.usable = Path(self.directory, "api").exists()

    def close(self) -> None:
        """End kubectl; its socket goes with it."""
        self.usable = False
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


class Line(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float):
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        """As the parent's."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def refusal(text: str) -> str:
    """What kubectl says when the API server refuses. Raises NoAnswer where this is not the API server's own refusal."""
    try:
        status = json.loads(text)
    except ValueError:
        raise NoAnswer from None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        raise NoAnswer
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return f"Error from server{reason}: {status.get('message', '')}"
