"""A real S3 server of these tests' own, on loopback: the test equipment's Versity gateway on a directory."""

import contextlib
import lzma
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
PACKED = ROOT / os.environ.get("SHARED", "../shared") / "testbed" / "bin" / "versitygw.xz"
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_REGION": "us-east-1"}


@dataclass
class Server:
    """A running server; `data` is where its buckets lie as directories."""

    endpoint: str
    data: Path
    command: list
    process: subprocess.Popen

    def freeze(self) -> None:
        """Let it answer nobody, without closing a connection."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a machine does that loses its power; what it has written stays."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it on the same data and port."""
        self.process = begin(self.command)
        address = urlsplit(self.endpoint)
        wait_for(address.hostname, address.port, self.process)


def begin(command: list) -> subprocess.Popen:
    """Start the server's program."""
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    return subprocess.Popen(command, env=os.environ | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def unpack(directory: Path) -> Path:
    """The server's program, unpacked."""
    program = directory / "versitygw"
    program.write_bytes(lzma.decompress(PACKED.read_bytes()))
    program.chmod(0o755)
    return program


@contextlib.contextmanager
def serving(program: Path, data: Path, *words: str, scheme: str = "http", host: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server on a free port of this machine; it is gone afterwards."""
    data.mkdir(exist_ok=True)
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--port", f"{host}:{port}", "--quiet", *words, "posix", data]
    server = Server(f"{scheme}://{host}:{port}", data, command, begin(command))
    try:
        wait_for(host, port, server.process)
        yield server
    finally:
        server.kill()


def wait_for(host: str, port: int, process: subprocess.Popen) -> None:
    """Until something listens at the port. Fails where the server ends first."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the server does not listen")
