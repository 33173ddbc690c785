"""Brings blobs to one node: takes chunks from the workstation or from another node, checks each, passes it on at once.

The workstation starts this over ssh and talks to it through stdin and stdout; it leaves with that connection, and
what it had verified stays in its directory for the next try. It decides nothing: where to take chunks from is said to
it. Other nodes may only read, with the token of this push. Python 3.8, standard library; nothing of it is written to
the node.

To the agent, one JSON object a line: first the job, then {"source": [host, port] or null}, {"chunk": n, "size":
bytes} and the bytes, {"recheck": true}, {"beat": true}. From it: {"ready": port}, {"have": bitmap, "received": bytes}
twice a second while it changes and at least every other second, {"lost": why, "bad": true or false} when its source
failed it, {"error": text} before it gives up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import socket
import struct
import sys
import threading
import time

from ansible_collections.tunefleet.nodes.plugins.module_utils.chunks import blob_path, cut, pack_bits, unpack_bits

FRAME = struct.Struct(">II")  # number of the chunk, its bytes
HEARTBEAT = 0xFFFFFFFF  # a frame without bytes: still here, nothing new
BEAT = 1.0  # seconds between heartbeats
SILENCE = 4.0  # seconds after which a source without a sign of life is given up
REPORT = 0.5  # seconds between reports
ALONE = 120.0  # seconds without a word after which the workstation is gone: nobody may listen here for ever


class Agent:
    """What the threads share; `changed` guards it all."""

    def __init__(self, job):
        self.token = job["token"]
        self.directory = job["directory"]
        self.blobs = job["blobs"]
        self.chunks = cut(self.blobs, job["chunk_size"], bytes.fromhex(job["hashes"]))
        wanted = set(job["need"])
        self.need = bytearray(chunk.blob in wanted for chunk in self.chunks)
        self.have = bytearray(len(self.chunks))
        self.arrived = []  # in this order they are passed on
        self.received = 0
        self.heard = time.monotonic()
        self.source = None
        self.generation = 0  # of the source: threads of an older one end
        self.changed = threading.Condition()
        self.fresh = set()  # files that held nothing before: no need to read them
        self.files = {number: self.open_blob(number) for number in wanted}

    def open_blob(self, number):
        """The file of a blob, as long as it will be: a full disk shows now, not in the middle."""
        digest, size = self.blobs[number]
        handle = os.open(blob_path(self.directory, digest), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.fstat(handle).st_size == 0:
            self.fresh.add(number)
        if os.fstat(handle).st_size != size:
            os.ftruncate(handle, size)
        os.posix_fallocate(handle, 0, max(size, 1))
        return handle

    def read(self, number):
        chunk = self.chunks[number]
        return os.pread(self.files[chunk.blob], chunk.size, chunk.offset)

    def right(self, number, data):
        return hashlib.sha256(data).digest() == self.chunks[number].sha256

    def check_files(self):
        """Count only what the files really hold: after an interruption, and when another node found a wrong chunk
        here.
        """
        for number, needed in enumerate(self.need):
            if needed and self.chunks[number].blob not in self.fresh:
                right = self.right(number, self.read(number))
                with self.changed:
                    if right and not self.have[number]:
                        self.arrived.append(number)
                    self.have[number] = right
        self.fresh.clear()

    def take(self, number, data):
        """Keep a chunk that came in. False when it is not what it should be."""
        self.received += len(data)
        if not self.right(number, data):
            return False
        chunk = self.chunks[number]
        if self.need[number] and not self.have[number]:
            self.write(chunk, data)
            with self.changed:
                self.have[number] = 1
                self.arrived.append(number)
                self.changed.notify_all()
        return True

    def write(self, chunk, data):
        try:
            os.pwrite(self.files[chunk.blob], data, chunk.offset)
        except OSError as error:
            say({"error": f"cannot write to {self.directory}: {error}"})
            os._exit(1)  # from whichever thread: this node cannot go on

    # ---- passing on ----

    def serve(self, listener):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.serve_one, args=(connection,), daemon=True).start()

    def serve_one(self, connection):
        # Whoever hangs up or stalls has another source by then: nothing to report here.
        with connection, contextlib.suppress(OSError, ValueError, KeyError):
            connection.settimeout(30)
            with connection.makefile("rb") as lines:
                hello = json.loads(lines.readline(1 << 20))
            if hmac.compare_digest(hello["token"], self.token):
                self.pass_on(connection, unpack_bits(hello["need"]))

    def pass_on(self, connection, wanted):
        at = 0
        while True:
            with self.changed:
                if at == len(self.arrived):
                    self.changed.wait(BEAT)
                numbers = self.arrived[at:]
            if not numbers:
                connection.sendall(FRAME.pack(HEARTBEAT, 0))
            for number in numbers:
                at += 1
                if wanted[number] and self.have[number]:
                    chunk = self.chunks[number]
                    wanted[number] = 0
                    connection.sendall(FRAME.pack(number, chunk.size) + self.read(number))

    # ---- taking in ----

    def follow(self, source):
        """Take chunks from another node from now on, or from none."""
        with self.changed:
            self.generation += 1
            self.source = source
            generation = self.generation
        if source:
            threading.Thread(target=self.drain, args=(source, generation), daemon=True).start()

    def drain(self, source, generation):
        try:
            with socket.create_connection(tuple(source), timeout=SILENCE) as connection:
                missing = bytes(need and not have for need, have in zip(self.need, self.have))
                connection.sendall(json.dumps({"token": self.token, "need": pack_bits(missing)}).encode() + b"\n")
                with connection.makefile("rb", buffering=1 << 20) as frames:
                    while self.generation == generation and not self.complete():
                        number, size = FRAME.unpack(exactly(frames, FRAME.size))
                        if number != HEARTBEAT and not self.take(number, exactly(frames, size)):
                            self.lost(generation, "sent bytes that are not the image's", bad=True)
                            return
        except (OSError, EOFError) as error:
            self.lost(generation, str(error) or type(error).__name__)

    def lost(self, generation, why, bad=False):
        if self.generation == generation and not self.complete():
            say({"lost": why, "bad": bad})

    def complete(self):
        return self.have == self.need

    def report_once(self):
        say({"have": pack_bits(self.have), "received": self.received})

    def report(self):
        told, spoke = None, 0.0
        while True:
            now = self.have[:], self.received
            if now != told or time.monotonic() - spoke > 2:
                self.report_once()
                told, spoke = now, time.monotonic()
            time.sleep(REPORT)

    def leave_when_alone(self):
        """A workstation that lost its power or its network cannot hang up."""
        while time.monotonic() - self.heard < ALONE:
            time.sleep(BEAT)
        os._exit(1)

    def obey(self, orders):
        """Whatever the workstation says, until it hangs up."""
        for line in iter(orders.readline, b""):
            self.heard = time.monotonic()
            order = json.loads(line)
            if "chunk" in order:
                if not self.take(order["chunk"], exactly(orders, order["size"])):
                    raise OSError("a chunk from the workstation was damaged on the way")
            elif "beat" in order:
                continue
            elif "recheck" in order:
                self.check_files()
                self.follow(self.source)
            else:
                self.follow(order["source"])


def exactly(stream, size):
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the connection ended")
    return data


def say(message, lock=threading.Lock()):  # noqa: B008 (one lock for all threads is the purpose)
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def own_directory(directory):
    """One push at a time works in a directory; the lock ends with the process. Not an error for good: the other may
    be our own agent of before, which does not know yet that its line was cut; the workstation tries again."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit("another push to this node is running") from error
    return handle


def listen(port):
    """On every address; with IPv6 where the machine has it."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def main(orders):
    job = json.loads(orders.readline())
    try:
        lock = own_directory(job["directory"])  # noqa: F841 (held until the process ends)
        agent = Agent(job)
        # Reports begin before the check: reading gigabytes again is progress too, and takes longer than the patience.
        threading.Thread(target=agent.report, daemon=True).start()
        agent.check_files()
        listener = listen(job["port"])
    except OSError as error:
        say({"error": str(error)})
        return
    agent.report_once()  # nothing that is here already is to be sent again
    say({"ready": listener.getsockname()[1]})
    for work, given in ((agent.serve, (listener,)), (agent.leave_when_alone, ())):
        threading.Thread(target=work, args=given, daemon=True).start()
    try:
        agent.obey(orders)
    except (OSError, EOFError) as error:
        say({"error": str(error)})
