"""Spreads the missing blobs of an image over nodes: starts an agent on each, links them, feeds the first, watches.

links.py decides who takes from whom; the agents do what they are told. Here: the lines to them, the feeding, the clock.
"""

import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.tunefleet.nodes.plugins.module_utils import chunks as pieces
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.bundle import NODE_PROGRAMS, bundle
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.channel import Channel
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.layout import Image
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.links import Links, Node

TICK = 0.2  # seconds between looks at the whole
RETRY = 3.0  # seconds until a broken line is tried again
RESEND = 3.0  # seconds without news after which what was fed is fed again
GATHER = 3.0  # seconds to wait for the other agents once the first is ready
TRIAL = 3  # nodes that get the first chunk, to see which one the workstation reaches best
TRIAL_LASTS = 5.0
BEFORE_LEAVING = 10.0  # seconds stragglers are given once the others are done, and a quarter of the time so far
BEAT = 5.0  # seconds between signs of life to agents and followers
TELL = 2.0  # seconds between lines of progress


@dataclass
class Target:
    """A node to bring blobs to, and how it went."""

    name: str
    argv: list[str]  # ssh to it, and the agent's command
    peer: str  # address at which other nodes reach it
    port: int  # its agent listens there; 0: any
    directory: str
    missing: list[str]  # digests
    follower_argv: list[str] | None = None  # ssh to it, and the follower's command; None: nothing is imported early
    follower_job: dict = field(default_factory=dict)
    follower: Channel | None = None
    channel: Channel | None = None
    retry_at: float = float("inf")
    moved: float = 0.0  # when it last got further
    received: int = 0  # bytes, over all agents it had
    received_before: int = 0
    seconds: float | None = None  # until it had everything
    fatal: bool = False
    problem: str = ""  # the last thing that went wrong
    arrived: set[str] = field(default_factory=set)  # digests the follower knows of
    sent: set[int] = field(default_factory=set)  # chunks fed since it was last quiet


class Spread:
    """One round. `patience`: seconds without a byte after which a node is given up; `leave_behind`: whether to end once
    only stragglers are left, so that the others need not wait for them."""

    def __init__(
        self, image: Image, targets: list[Target], patience: float, leave_behind: bool, tell: Callable[[str], None]
    ):
        wanted = {digest for target in targets for digest in target.missing}
        self.patience, self.leave_behind, self.tell = patience, leave_behind, tell
        self.blobs = [(layer["digest"], layer["size"]) for layer in unique(image.layers) if layer["digest"] in wanted]
        self.total = sum(size for _, size in self.blobs)
        self.chunk_size = pieces.chunk_size(self.total)
        self.paths = [str(image.blob(digest)) for digest, _ in self.blobs]
        self.hashes = pieces.hash_chunks(self.paths, self.chunk_size)
        self.chunks = pieces.cut(self.blobs, self.chunk_size, self.hashes)
        self.token = secrets.token_hex(32)
        self.targets = {target.name: target for target in targets}
        self.links = Links([Node(target.name, self.need(target), bytes(len(self.chunks))) for target in targets])
        self.bundle = bundle("chunks", "agent")
        self.follower_bundle = bundle(*NODE_PROGRAMS)
        self.chunks_of = [[n for n, chunk in enumerate(self.chunks) if chunk.blob == b] for b in range(len(self.blobs))]
        self.lock = threading.RLock()
        self.feeding: dict[str, int] = defaultdict(int)  # node -> number of its feeder; odd while it works
        self.feeders: list[threading.Thread] = []
        self.files = [os.open(path, os.O_RDONLY) for path in self.paths]

    def need(self, target: Target) -> bytes:
        missing = set(target.missing)
        return bytes(self.blobs[chunk.blob][0] in missing for chunk in self.chunks)

    def run(self) -> None:
        """Until every node has everything or is given up. What became of each is in its target."""
        self.began = self.told = self.beaten = time.monotonic()
        try:
            for target in self.targets.values():
                self.connect(target)
            self.choose_first()
            while not self.over():
                self.step()
                time.sleep(TICK)
        finally:
            self.feeding.clear()
            for target in self.targets.values():
                target.channel.close()
            for feeder in self.feeders:  # a closed line ends what one is at
                feeder.join()
            self.end_followers()
            for handle in self.files:
                os.close(handle)

    # ---- lines ----

    def connect(self, target: Target) -> None:
        wanted = set(target.missing)
        job = {
            "token": self.token,
            "directory": target.directory,
            "blobs": self.blobs,
            "chunk_size": self.chunk_size,
            "hashes": self.hashes.hex(),
            "need": [number for number, (digest, _) in enumerate(self.blobs) if digest in wanted],
            "port": target.port,
        }
        target.retry_at = float("inf")
        target.received_before = target.received
        target.moved = target.moved or time.monotonic()
        target.channel = Channel(target.name, target.argv, self.bundle, job, self.hear)

    def follow(self, target: Target, node: Node) -> None:
        """Tell the follower which blobs have arrived since it was last told; the first one starts it."""
        if not target.follower_argv:
            return
        for number, (digest, _) in enumerate(self.blobs):
            if digest not in target.arrived and all(node.have[chunk] for chunk in self.chunks_of[number]):
                target.arrived.add(digest)
                if not target.follower:
                    job = target.follower_job
                    target.follower = Channel(target.name, target.follower_argv, self.follower_bundle, job, ignore)
                threading.Thread(target=target.follower.order, kwargs={"arrived": digest}, daemon=True).start()

    def end_followers(self) -> None:
        """Each finishes the import it is at; one whose node is not done cleans up."""
        followed = [target for target in self.targets.values() if target.follower]
        for target in followed:
            if self.links.nodes[target.name].done:
                target.follower.order(whole=True)
            target.follower.hang_up()
        waiting = [target for target in followed if self.links.nodes[target.name].done]
        while waiting:
            time.sleep(TICK)
            now = time.monotonic()
            for target in [target for target in waiting if target.follower.process.poll() is not None]:
                target.seconds = now - self.began
                waiting.remove(target)
            if waiting and now - self.told >= TELL * 2:
                self.told = now
                self.tell(f"all layers are there; still importing: {', '.join(target.name for target in waiting)}")

    def hear(self, name: str, word: dict) -> None:
        """What an agent says; called from the reader of its line."""
        with self.lock:
            target, node, now = self.targets[name], self.links.nodes[name], time.monotonic()
            node.heard = now
            if "have" in word:
                self.progress(target, node, word, now)
            elif "ready" in word:
                node.address = (target.peer, word["ready"])
            elif "lost" in word and node.source:
                target.problem = f"{node.source}: {word['lost']}"
                self.links.failed(name, node.source, now, forever=word["bad"])
                source, node.source = self.targets[node.source], None
                if word["bad"]:
                    self.tell(f"{name}: {source.name} sent bytes that are not the image's; taking them from elsewhere")
                    threading.Thread(target=source.channel.order, kwargs={"recheck": True}, daemon=True).start()
            elif "error" in word:
                target.problem, target.fatal = word["error"], True
            elif "ended" in word and not node.done:
                target.problem = target.problem if target.fatal else word["ended"]
                target.retry_at = now + RETRY
                node.address = node.source = None

    def progress(self, target: Target, node: Node, word: dict, now: float) -> None:
        have = bytes(pieces.unpack_bits(word["have"]))
        if have != node.have:
            node.have, target.moved = have, now
            self.follow(target, node)
            target.sent -= {number for number in target.sent if have[number]}
        target.received = target.received_before + word["received"]
        if node.done and target.seconds is None:
            target.seconds = now - self.began

    # ---- every tick ----

    def step(self) -> None:
        now = time.monotonic()
        with self.lock:
            for target in self.targets.values():
                if target.retry_at <= now and not target.fatal:
                    self.connect(target)
            sources = self.links.step(now)
            for name, source in sources.items():
                node = self.links.nodes[name]
                if source != node.source or node.linked == 0.0:
                    node.source, node.linked = source, now
                    peer = self.links.nodes[source].address if source else None
                    order = {"source": peer}
                    threading.Thread(target=self.targets[name].channel.order, kwargs=order, daemon=True).start()
            for name in self.targets:
                self.feed(name, name in sources and sources[name] is None)
            if now - self.beaten >= BEAT:
                self.beaten = now
                for target in self.targets.values():
                    for channel in filter(None, (target.channel, target.follower)):
                        channel.beat()
            if now - self.told >= TELL:
                self.told = now
                self.tell(self.status())

    def feed(self, name: str, wanted: bool) -> None:
        """Start or stop the feeder of a node."""
        if wanted != bool(self.feeding[name] % 2):
            self.feeding[name] += 1
            if wanted:
                self.targets[name].sent.clear()
                self.feeders.append(threading.Thread(target=self.feeder, args=(name, self.feeding[name]), daemon=True))
                self.feeders[-1].start()

    def feeder(self, name: str, number: int) -> None:
        target, quiet = self.targets[name], 0.0
        while self.feeding.get(name) == number:
            chunk = self.next_chunk(name)
            if chunk is not None:
                self.send(target, chunk)
                quiet = 0.0
            else:
                time.sleep(TICK)
                quiet += TICK
                if quiet >= RESEND and time.monotonic() - target.moved >= RESEND:
                    target.sent.clear()
                    quiet = 0.0

    def next_chunk(self, name: str) -> int | None:
        with self.lock:
            node, sent = self.links.nodes[name], self.targets[name].sent
            for number, (need, have) in enumerate(zip(node.need, node.have, strict=True)):
                if need > have and number not in sent:
                    sent.add(number)
                    return number
        return None

    def send(self, target: Target, number: int) -> None:
        chunk = self.chunks[number]
        target.channel.send_chunk(number, os.pread(self.files[chunk.blob], chunk.size, chunk.offset))

    def choose_first(self) -> None:
        """Give the first chunk to several nodes; whoever has it first becomes the one the workstation feeds."""
        self.wait(lambda: self.ready(), self.patience)
        self.wait(lambda: len(self.ready()) + self.given_up() == len(self.targets), GATHER)
        ready = self.ready()
        rivals = [node for node in ready if node.need == ready[0].need and not node.done][:TRIAL]
        if len(rivals) < 2:
            return
        before = {node.name: sum(node.have) for node in rivals}
        for node in rivals:
            first = self.next_chunk(node.name)
            threading.Thread(target=self.send, args=(self.targets[node.name], first), daemon=True).start()
        arrived = lambda: next((node for node in rivals if sum(node.have) > before[node.name]), None)  # noqa: E731
        self.wait(arrived, TRIAL_LASTS)
        with self.lock:
            if winner := arrived():
                self.links.put_first(winner.name)

    def wait(self, happened: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not happened() and time.monotonic() < end and self.given_up() < len(self.targets):
            time.sleep(TICK / 10)

    def ready(self) -> list[Node]:
        return [self.links.nodes[name] for name in self.links.row if self.links.nodes[name].address]

    def given_up(self) -> int:
        return sum(target.fatal for target in self.targets.values())

    def over(self) -> bool:
        now = time.monotonic()
        with self.lock:
            open_ = [t for t in self.targets.values() if not self.links.nodes[t.name].done and not t.fatal]
            for target in open_:
                if now - target.moved > self.patience:
                    target.fatal = True
                    target.problem = f"no byte arrived for {self.patience:.0f} s" + because(target.problem)
            finished = [target.seconds for target in self.targets.values() if target.seconds is not None]
            last = max(finished, default=0.0)
            leave = self.leave_behind and finished and now - self.began > last * 1.25 + BEFORE_LEAVING
            return leave or all(target.fatal for target in open_)

    def status(self) -> str:
        """One line: how far, how fast, how long."""
        nodes = [node for node in self.links.nodes.values() if not self.targets[node.name].fatal]
        shares = {node.name: sum(node.have) / sum(node.need) for node in nodes}
        slowest = min(shares, key=shares.get) if shares else "none"
        share = sum(shares.values()) / max(len(shares), 1)
        spent = time.monotonic() - self.began
        left = f"about {spent / share - spent:.0f} s left" if share > 0.02 else "starting"
        done = sum(node.done for node in nodes)
        return (
            f"{share:4.0%} of {self.total / 1e6:.1f} MB on {len(nodes)} nodes, {done} done, "
            f"slowest {slowest} {shares.get(slowest, 0):.0%}, {share * self.total / 1e6 / spent:.1f} MB/s each, {left}"
        )


def ignore(name: str, word: dict) -> None:
    """What a follower says: what it could not do, the import of the whole does, or says."""


def because(problem: str) -> str:
    return f" ({problem})" if problem else ""


def unique(layers: tuple[dict, ...]) -> list[dict]:
    """Layers without repetitions: the same blob may occur twice in an image."""
    return list({layer["digest"]: layer for layer in layers}.values())
