"""Nodes, links and a workstation in virtual time, to try plugin_utils/links.py without any."""

from dataclasses import dataclass, field

from ansible_collections.tunefleet.nodes.plugins.plugin_utils.links import Links, Node

TICK, LOOK, REPORT = 0.05, 0.2, 0.5  # seconds: of the simulation; between decisions; between an agent's reports
CONNECT = 4.0  # seconds after which an agent gives a source up that shows no sign of life


@dataclass
class Machine:
    """Speeds are chunks a second; `away` are times (from, to) at which it is cut off."""

    down: float = 50.0
    up: float = 50.0
    away: tuple[float, float] = (float("inf"), float("inf"))
    walled: bool = False  # other nodes cannot reach it
    held: int = 0  # chunks: sources pass them on in order
    part: float = 0.0
    taking: str | None = "nothing"
    since: float = 0.0  # it last got something, or was linked
    done_at: float | None = None

    def there(self, now: float) -> bool:
        return not self.away[0] <= now < self.away[1]


@dataclass
class Network:
    machines: dict[str, Machine]
    chunks: int = 1000
    workstation: float = 50.0  # its way out
    now: float = 0.0
    sent: int = 0  # chunks, by the workstation
    links: Links = field(init=False)

    def __post_init__(self):
        need = bytes([1]) * self.chunks
        nodes = [Node(name, need, bytes(self.chunks), address=(name, 1), heard=0.0) for name in self.machines]
        self.links = Links(nodes)
        # Spread.choose_first: the first of three that has a chunk.
        self.links.put_first(max(self.links.row[:3], key=lambda name: self.machines[name].down))

    def run(self, seconds: float) -> None:
        """Until all have everything, or so long."""
        for tick in range(1, int(seconds / TICK)):
            self.now = tick * TICK
            self.deliver()
            if tick % round(REPORT / TICK) == 0:
                self.report()
            if tick % round(LOOK / TICK) == 0:
                self.decide()
            if all(machine.done_at for machine in self.machines.values()):
                return

    def deliver(self) -> None:
        before = {name: machine.held for name, machine in self.machines.items()}
        takers = [name for name, machine in self.machines.items() if machine.held < self.chunks]
        active = [name for name in takers if self.machines[name].there(self.now)]
        for name in active:
            machine = self.machines[name]
            source = self.machines.get(machine.taking)
            if machine.taking == "nothing":
                continue
            if source and (source.walled or not source.there(self.now)):
                if self.now - machine.since > CONNECT:
                    self.links.failed(name, machine.taking, self.now, forever=False)
                    self.links.nodes[name].source, machine.taking = None, "nothing"
                continue
            way_out = source.up if source else self.workstation
            sharers = sum(self.machines[other].taking == machine.taking for other in active)
            limit = before[machine.taking] if source else self.chunks
            machine.part = min(machine.part + min(machine.down, way_out / sharers) * TICK, max(limit - machine.held, 0))
            machine.held += int(machine.part)
            self.sent += 0 if source else int(machine.part)
            machine.part -= int(machine.part)
            machine.since = self.now
            if machine.held == self.chunks:
                machine.done_at = self.now

    def report(self) -> None:
        for name, machine in self.machines.items():
            if machine.there(self.now):
                node = self.links.nodes[name]
                node.have = bytes([1]) * machine.held + bytes(self.chunks - machine.held)
                node.heard = self.now

    def decide(self) -> None:
        """As Spread.step does."""
        for name, source in self.links.step(self.now).items():
            node, machine = self.links.nodes[name], self.machines[name]
            if source != node.source or node.linked == 0.0:
                node.source, node.linked = source, self.now
            if machine.taking != source:
                machine.taking, machine.since = source, self.now
