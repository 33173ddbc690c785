"""What runs on a node during a push: module_utils/agent.py over loopback, and the chunks it deals in.

.venv/bin/python -m pytest tests/unit/test_push_agent.py
"""

import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.tunefleet.nodes.plugins.module_utils import chunks
from ansible_collections.tunefleet.nodes.plugins.module_utils.agent import FRAME
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.bundle import NODE_PROGRAMS, bundle, command

DATA = [random.Random(n).randbytes(size) for n, size in enumerate((700_000, 300_000, 1))]
CHUNK = 256 << 10
TOKEN = "secret"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pieces() -> list[bytes]:
    return [data[at : at + CHUNK] for data in DATA for at in range(0, len(data), CHUNK)]


class Agent:
    """An agent as the workstation starts it, without the ssh."""

    def __init__(self, directory: Path, need=(0, 1, 2)):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        argv = ["sh", "-c", command("agent", sys.executable)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
        job = {"token": TOKEN, "directory": str(directory), "blobs": [(digest(data), len(data)) for data in DATA]}
        job |= {"chunk_size": CHUNK, "hashes": b"".join(hashlib.sha256(piece).digest() for piece in pieces()).hex()}
        self.process.stdin.write(bundle("chunks", "agent"))
        self.order(**job, need=list(need), port=0)
        self.have, self.received = [], 0

    def order(self, **order: object) -> None:
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def feed(self, number: int, data: bytes | None = None) -> None:
        data = data or pieces()[number]
        self.process.stdin.write(json.dumps({"chunk": number, "size": len(data)}).encode() + b"\n" + data)
        self.process.stdin.flush()

    def hear(self, key: str) -> object:
        """What it says next under this key."""
        for line in iter(self.process.stdout.readline, b""):
            word = json.loads(line)
            if "have" in word:
                self.have, self.received = list(chunks.unpack_bits(word["have"])), word["received"]
            if key in word:
                return word[key]
        raise AssertionError(f"it ended without a word of {key}")

    def until(self, *have: int) -> None:
        while self.have != list(have):
            self.hear("have")

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def files(self) -> dict[str, bytes]:
        return {f"sha256:{path.name}": path.read_bytes() for path in self.directory.iterdir()}


@pytest.fixture
def start(tmp_path):
    agents = []

    def begin(name: str, **more: object) -> Agent:
        agents.append(Agent(tmp_path / name, **more))
        return agents[-1]

    yield begin
    for agent in agents:
        if not agent.process.stdin.closed:
            agent.end()


def test_chunks_go_from_the_workstation_to_one_node_and_from_there_to_the_next_while_they_come_in(start):
    first, second = start("first"), start("second")
    port = first.hear("ready")
    second.hear("ready")
    second.order(source=["localhost", port])
    first.feed(0)
    second.until(1, 0, 0, 0, 0, 0)
    for number in range(1, 6):
        first.feed(number)
    second.until(1, 1, 1, 1, 1, 1)
    assert first.files() == second.files() == {digest(data): data for data in DATA}
    assert second.received == sum(map(len, DATA))


def test_a_node_keeps_only_the_blobs_it_needs(start):
    agent = start("one", need=[1])
    agent.hear("ready")
    agent.feed(3)
    agent.feed(4)
    agent.until(0, 0, 0, 1, 1, 0)
    assert agent.files() == {digest(DATA[1]): DATA[1]}


def test_what_was_verified_counts_after_a_restart_and_what_was_changed_does_not(start):
    agent = start("one")
    agent.hear("ready")
    for number in (0, 1, 4):
        agent.feed(number)
    agent.until(1, 1, 0, 0, 1, 0)
    agent.end()
    path = agent.directory / digest(DATA[0]).removeprefix("sha256:")
    with path.open("r+b") as blob:
        blob.seek(CHUNK + 5)
        blob.write(b"spoilt")
    again = start("one")
    again.hear("ready")
    again.until(1, 0, 0, 0, 1, 0)
    assert again.received == 0


def test_a_wrong_chunk_from_the_workstation_ends_the_agent_and_is_not_kept(start):
    agent = start("one")
    agent.hear("ready")
    agent.feed(0, b"x" * CHUNK)
    assert "damaged" in agent.hear("error")
    assert not any(agent.files()[digest(DATA[0])])


def test_a_wrong_chunk_from_another_node_is_refused_and_that_node_finds_it_when_told_to_look(start):
    first, second = start("first"), start("second")
    port = first.hear("ready")
    second.hear("ready")
    for number in range(6):
        first.feed(number)
    first.until(1, 1, 1, 1, 1, 1)
    path = first.directory / digest(DATA[1]).removeprefix("sha256:")
    with path.open("r+b") as blob:
        blob.write(b"spoilt")
    second.order(source=["localhost", port])
    assert second.hear("bad") is True
    second.until(1, 1, 1, 0, 0, 0)
    first.order(recheck=True)
    first.until(1, 1, 1, 0, 1, 1)
    first.feed(3)
    first.until(1, 1, 1, 1, 1, 1)
    second.order(source=["localhost", port])
    second.until(1, 1, 1, 1, 1, 1)


def test_a_source_that_is_not_there_is_told_of(start):
    agent = start("one")
    agent.hear("ready")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    agent.order(source=["localhost", port])
    assert "refused" in agent.hear("lost")


@pytest.mark.parametrize("hello", [b'{"token": "wrong", "need": "1ff"}', b"{}", b"nonsense", b""])
def test_nothing_is_passed_on_without_the_token(start, hello):
    agent = start("one")
    port = agent.hear("ready")
    agent.feed(0)
    agent.until(1, 0, 0, 0, 0, 0)
    with socket.create_connection(("localhost", port), timeout=10) as stranger:
        stranger.sendall(hello + b"\n")
        assert stranger.recv(FRAME.size) == b""


def test_a_second_agent_in_a_directory_leaves_and_another_can_follow_the_first(start):
    first = start("one")
    first.hear("ready")
    second = start("one")
    assert second.process.wait(10) == 1
    first.end()
    start("one").hear("ready")


def test_the_agent_leaves_with_its_line(start):
    agent = start("one")
    agent.hear("ready")
    agent.process.stdin.close()
    began = time.monotonic()
    assert agent.process.wait(10) == 0
    assert time.monotonic() - began < 5


def test_nothing_of_the_agent_is_written_to_the_node(start, tmp_path):
    agent = start("one", need=[])
    agent.hear("ready")
    agent.end()
    assert [path.name for path in tmp_path.rglob("*")] == ["one"]


@pytest.mark.parametrize("flags", [b"", b"\0", b"\1", b"\0\1\1", bytes(1000), b"\1" * 1001])
def test_a_bitmap_comes_back_as_it_was(flags):
    assert bytes(chunks.unpack_bits(chunks.pack_bits(flags))) == flags


def test_blobs_are_cut_into_chunks_of_one_size_and_hashed_alike_on_both_sides(tmp_path):
    paths = []
    for number, data in enumerate(DATA):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    hashes = chunks.hash_chunks([str(path) for path in paths], CHUNK)
    cut = chunks.cut([(digest(data), len(data)) for data in DATA], CHUNK, hashes)
    assert [(chunk.blob, chunk.size) for chunk in cut] == [
        (0, CHUNK),
        (0, CHUNK),
        (0, 175712),
        (1, CHUNK),
        (1, 37856),
        (2, 1),
    ]
    assert [hashlib.sha256(piece).digest() for piece in pieces()] == [chunk.sha256 for chunk in cut]


@pytest.mark.parametrize(("total", "size"), [(0, 256 << 10), (10**9, 10**6), (10**11, 8 << 20)])
def test_chunks_are_neither_too_small_nor_too_large(total, size):
    assert chunks.chunk_size(total) == size


def test_what_a_step_sends_is_small_beside_the_hundred_kilobytes_of_a_second_push():
    assert len(bundle(*NODE_PROGRAMS)) + len(command("node")) < 30_000
