"""Who takes from whom, while an image spreads over nodes. Decides only; nothing here touches a socket.

Nodes stand in a row. Each takes from the nearest one before it that can give, so every link carries the image once in
each direction and the last node has it about one image/bandwidth after the first, however many there are. The first
is fed by the workstation. A node that falls silent or behind goes to the end of the row, where nobody waits for it;
the others close up. Where no node can give (the first one, a firewall between nodes), the workstation feeds. Why a
row and not a swarm: docs/decisions/0008-image-by-a-row-of-nodes.md.
"""

from collections import deque
from dataclasses import dataclass, field

SILENT = 5.0  # seconds without a word after which a node counts as silent: agents speak every other second
BEHIND = 3.0  # seconds of full speed by which a node must lag behind its source before it is moved
SETTLING = 5.0  # seconds a new link is given before it is judged
SLOW = 0.5  # of the best rate seen: above it a lag is caught up and nobody is moved
WINDOW = 5.0  # seconds over which rates are measured
AGAIN = 15.0  # seconds until a source that failed is tried again; doubled each time


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
    gives: bool = True  # False once two nodes lagged behind it: its way out is slow
    refused: dict[str, float] = field(default_factory=dict)  # sources that failed it, and until when
    failures: dict[str, int] = field(default_factory=dict)
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
        return (last - first) / (end - start) if end > start else 0.0


class Links:
    """The row, and what was learned about it."""

    def __init__(self, nodes: list[Node]):
        self.nodes = {node.name: node for node in nodes}
        # Whoever needs most stands first: it can give to all who need less. Within that, the order of the inventory.
        self.row = [node.name for node in sorted(nodes, key=lambda node: -sum(node.need))]
        self.best = 0.0  # rate, chunks a second
        self.blamed: dict[str, str] = {}  # source -> the node that lagged behind it

    def step(self, now: float) -> dict[str, str | None]:
        """The source of each unfinished node that speaks: a node's name, or None for the workstation."""
        unfinished = [self.nodes[name] for name in self.row if not self.nodes[name].done and self.nodes[name].address]
        for node in unfinished:
            node.record(now)
            if now - node.linked >= SETTLING:
                self.best = max(self.best, node.rate())
        for node in unfinished:
            if not node.speaks(now) or self.is_behind(node, now):
                self.move_to_end(node.name)
        return {node.name: self.find_source(node, now) for node in unfinished if node.speaks(now)}

    def is_behind(self, node: Node, now: float) -> bool:
        """Whether it holds up those after it, though its source has more for it."""
        if now - node.linked < SETTLING or not self.is_waited_for(node):
            return False
        if node.source is None:  # the workstation, which has everything
            behind = node.rate() < SLOW * self.best
            self.best *= SLOW if behind else 1.0  # should it be the workstation's line: do not turn the row for ever
            return behind
        source = self.nodes[node.source]
        behind = node.lacks(source) > max(8.0, BEHIND * self.best) and node.rate() < SLOW * self.best
        if behind and self.blamed.setdefault(source.name, node.name) != node.name:
            source.gives = False  # a second one behind the same source: it is the source that is slow
        return behind

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
