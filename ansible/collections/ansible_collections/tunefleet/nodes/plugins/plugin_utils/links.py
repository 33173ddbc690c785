"""Who takes from whom, while an image spreads over nodes. Decides only; nothing here touches a socket.

Nodes stand in a row. Each takes from the nearest one before it that can give, so every link carries the image once in
each direction and the last node has it about one image/bandwidth after the first, however many there are. The first
is fed by the workstation. A node that falls silent or behind goes to the end of the row, where nobody waits for it;
the others close up. Where no node can give (the first one, a firewall between nodes), the workstation feeds. Why a
row and not a swarm: docs/decisions/0008-image-by-a-row-of-nodes.md.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

SILENT = 5.0  # seconds without a word after which a node counts as silent: agents speak every other second
BEHIND = 3.0  # seconds of its own speed by which a node must lag behind its source, and for how long, until it is moved
SLOW = 0.5  # of the best rate seen: above it a lag is caught up and nobody is moved
WINDOW = 5.0  # seconds over which rates are measured
SHORTEST = 2.0  # seconds over which they are measured at least: chunks are reported in bursts
AGAIN = 15.0  # seconds until a source that failed is tried again; doubled each time
LAGGARDS = 3  # nodes that lag behind the same source, until it is taken for the slow one
TOGETHER = 10.0  # seconds: two sources that fail a node within these are a firewall, and the others are not tried


@dataclass
class Node:
    """What is known of one node. `need` and `have` are one byte a chunk; times are seconds of one monotonic clock."""

    name: str
    need: bytes
    have: bytes = b""
    address: tuple[str, int] | None = None  # where its agent gives; None until it is ready
    heard: float = float("-inf")
    source: str | None = None  # the node it takes from
    linked: float = 0.0  # since when
    lagging: float | None = None  # since when it has been slow and behind its source
    gave: float = 0.0  # the best rate anybody had from it
    gives: bool = True  # False once its way out has proven slow
    refused: dict[str, float] = field(default_factory=dict)  # sources that failed it, and until when
    failures: dict[str, int] = field(default_factory=dict)
    failed_at: float = float("-inf")  # when a source last failed it
    alone: float = float("-inf")  # until then it takes from the workstation only
    history: deque = field(default_factory=deque)  # (time, chunks)

    @property
    def done(self) -> bool:
        return self.address is not None and self.have == self.need

    def speaks(self, now: float) -> bool:
        return self.address is not None and now - self.heard < SILENT

    def lacks(self, other: "Node") -> int:
        """Chunks it needs that the other has."""
        return sum(
            1 for need, have, there in zip(self.need, self.have, other.have, strict=True) if need > have and there
        )

    def record(self, now: float) -> None:
        self.history.append((now, sum(self.have)))
        while self.history[0][0] < now - WINDOW:
            self.history.popleft()

    def rate(self) -> float:
        """Chunks a second, lately."""
        (start, first), (end, last) = self.history[0], self.history[-1]
        return (last - first) / max(end - start, SHORTEST)


class Links:
    """The row, and what was learned about it."""

    def __init__(self, nodes: list[Node]):
        self.nodes = {node.name: node for node in nodes}
        # Whoever needs most stands first: it can give to all who need less. Within that, the order of the inventory.
        self.row = [node.name for node in sorted(nodes, key=lambda node: -sum(node.need))]
        self.best = 0.0  # rate, chunks a second
        self.blamed: dict[str, set[str]] = defaultdict(set)  # source -> those that lagged behind it

    def step(self, now: float) -> dict[str, str | None]:
        """The source of each unfinished node that speaks: a node's name, or None for the workstation."""
        ready = [self.nodes[name] for name in self.row if self.nodes[name].address]
        for node in ready:
            node.record(now)
            self.best = max(self.best, node.rate())
            if node.source and now - node.linked >= WINDOW:
                source = self.nodes[node.source]
                source.gave = max(source.gave, node.rate())
        unfinished = [node for node in ready if not node.done]
        for node in unfinished:
            if not node.speaks(now) or self.is_behind(node, now):
                self.move_to_end(node.name)
        return {node.name: self.find_source(node, now) for node in unfinished if node.speaks(now)}

    def is_behind(self, node: Node, now: float) -> bool:
        """Whether it holds up those after it, though its source has more for it."""
        if now - node.linked < BEHIND or not self.lags(node) or not self.is_waited_for(node):
            node.lagging = None
            return False
        node.lagging = node.lagging or now
        if now - node.lagging < BEHIND:
            return False
        node.lagging = None
        if node.source:
            self.blame(node.source, node)
        else:
            self.best *= SLOW  # should it be the workstation's line: do not turn the row for ever
        return True

    def lags(self, node: Node) -> bool:
        """Whether it is slow, and behind its source; the workstation has everything."""
        lacks = node.lacks(self.nodes[node.source]) if node.source else sum(node.need) - sum(node.have)
        return node.rate() < SLOW * self.best and lacks > BEHIND * node.rate()

    def blame(self, source: str, node: Node) -> None:
        """Slow is who lags; but where several lag behind one source, and nobody was fast there, it is the source."""
        self.blamed[source].add(node.name)
        enough = min(LAGGARDS, len(self.nodes) - 1)
        if len(self.blamed[source]) >= enough and self.nodes[source].gave < SLOW * self.best:
            self.nodes[source].gives = False

    def is_waited_for(self, node: Node) -> bool:
        return any(other.source == node.name and not other.done for other in self.nodes.values())

    def put_first(self, name: str) -> None:
        """The one the workstation reaches best, among those that need as much as the first."""
        self.row.remove(name)
        self.row.insert(0, name)

    def move_to_end(self, name: str) -> None:
        self.row.remove(name)
        self.row.append(name)

    def find_source(self, node: Node, now: float) -> str | None:
        if now < node.alone:
            return None
        at = self.row.index(node.name)
        before = reversed(self.row[:at])
        after = (name for name in self.row[at + 1 :] if self.nodes[name].done)
        for name in (*before, *after):
            other = self.nodes[name]
            usable = other.gives and other.speaks(now) and node.refused.get(name, 0.0) <= now
            if usable and all(there >= need for need, there in zip(node.need, other.need, strict=True)):
                return name
        return None

    def failed(self, name: str, source: str, now: float, forever: bool) -> None:
        """A node says that its source failed it."""
        node = self.nodes[name]
        count = node.failures[source] = node.failures.get(source, 0) + 1
        node.refused[source] = float("inf") if forever else now + AGAIN * 2 ** (count - 1)
        if now - node.failed_at < TOGETHER and not forever:
            node.alone = now + AGAIN * 2 ** max(node.failures.values())
        node.failed_at = now
