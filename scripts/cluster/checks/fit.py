"""Question: does it fit? Pods are put where the scheduler could put them, first beside what runs, then alone."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, not_told
from scripts.cluster.checks.quantity import Resources, bare, several, total, words
from scripts.cluster.checks.scheduling import (
    CORDONED,
    Spread,
    label_objection,
    node_objection,
    shortage,
    spreads,
    taint_objection,
    taints,
)
from scripts.cluster.checks.shapes import PodSet, numbers, requests
from scripts.cluster.kubectl import Refused
from scripts.cluster.names import RUN
from train.errors import see

QUESTION = "does it fit on the nodes"


@dataclass
class Room:
    """A node with what is free on it, and the pods put there."""

    node: dict
    free: Resources
    put: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node["metadata"]["name"]


def judge_fit(sets: list[PodSet], run: str, facts: dict, queue: str = "") -> list[Answer]:
    """Whether all pods find a place now, would in an empty cluster, or never."""
    for key in ("nodes", "pods"):
        if isinstance(facts[key], Refused):
            return [not_told(QUESTION, f"the cluster's {key}", facts[key])]
    nodes, pods = facts["nodes"], [pod for pod in facts["pods"] if run_of(pod) != run]
    rooms = free_rooms(nodes, pods)
    before = [Room(one.node, dict(one.free)) for one in rooms]
    placed = place_all(sets, rooms)
    lacking = next((one for one in sets if placed[one.name] < one.count), None)
    if lacking is None:
        return [Answer(PASSED, QUESTION, f"{pods_words(sets)}: {places(rooms)}")]
    count = placed[lacking.name]
    found = f"{count} of {lacking.count} {lacking.name} pods {'finds' if count == 1 else 'find'} a place"
    found += f" ({several(size_of(lacking))} each); {'; '.join(objections(lacking, before, rooms))}"
    if all(placed[one.name] >= one.least for one in sets):
        return [Answer(PASSED, QUESTION, f"{found}; it begins with {count} and takes the others when there is room")]
    empty = free_rooms(nodes, [pod for pod in pods if is_daemon(pod)])
    fix = remedy(lacking, count, before)
    if sum(place_all(sets, empty).values()) == sum(one.count for one in sets):
        if queue:  # a queue is there to wait in
            fix = f"deploy: the run waits in queue {queue}, or its pods for room"
            return [Answer(UNKNOWN, QUESTION, f"{found}; would fit an empty cluster, but not now", fix)]
        fix = f"wait until other work ends, deploy with FORCE=1 (the pods wait for room), or {fix}{see('job-pending')}"
        return [Answer(FAILED, QUESTION, f"{found}; would fit an empty cluster, but not now", fix)]
    return [Answer(FAILED, QUESTION, f"{found}; never fits this cluster as it is", fix + see("job-pending"))]


def run_of(pod: dict) -> str:
    """The run a pod belongs to: its own pods are no reason why a run would not fit."""
    return (pod["metadata"].get("labels") or {}).get(RUN, "")


def is_daemon(pod: dict) -> bool:
    """Whether a pod is one of every node, which an empty cluster has too."""
    return any(owner["kind"] in ("DaemonSet", "Node") for owner in pod["metadata"].get("ownerReferences") or [])


def free_rooms(nodes: list[dict], pods: list[dict]) -> list[Room]:
    """The nodes with what their pods leave free of what is allocatable."""
    used: dict[str, list[dict]] = {}
    for pod in pods:
        name = pod["spec"].get("nodeName")
        if name:
            used.setdefault(name, []).append(pod["spec"])
    return [room(node, used.get(node["metadata"]["name"], [])) for node in nodes]


def room(node: dict, specs: list[dict]) -> Room:
    """One node with what these pods leave free."""
    allocatable = numbers(node.get("status", {}).get("allocatable"))
    taken = total([requests(spec) for spec in specs])
    return Room(node, {name: amount - taken.get(name, Fraction(0)) for name, amount in allocatable.items()})


def size_of(one: PodSet) -> Resources:
    """What one pod asks for, without the place it takes in the node's count of pods."""
    return {name: amount for name, amount in requests(one.spec).items() if name != "pods"}


def place_all(sets: list[PodSet], rooms: list[Room]) -> Counter:
    """Put the pods of every set into the rooms; how many of each found a place."""
    return Counter({one.name: place(one, rooms) for one in sets})


def place(one: PodSet, rooms: list[Room]) -> int:
    """Put the pods of one set where its spread allows and most is free; how many there was room for."""
    wanted, bounds = requests(one.spec), spreads(one.spec, one.labels)
    able = [room for room in rooms if not node_objection(room.node, one.spec)]
    able.sort(key=lambda room: (room.free.get("cpu", 0), room.free.get("memory", 0)), reverse=True)
    counts = [
        Counter({label(room, bound.key): 0 for room in rooms if bound.counts(room.node, one.spec)}) for bound in bounds
    ]
    for number in range(one.count):
        chosen = next((room for room in able if may_take(room, wanted, bounds, counts)), None)
        if chosen is None:
            return number
        chosen.free = {name: left - wanted.get(name, 0) for name, left in chosen.free.items()}
        chosen.put.append(one.name)
        for bound, count in zip(bounds, counts, strict=True):
            count[label(chosen, bound.key)] += 1
        able.sort(key=lambda room: len(room.put))  # stable: among those with as many pods, the one with most free
    return one.count


def may_take(room: Room, wanted: Resources, bounds: list[Spread], counts: list[Counter]) -> bool:
    """Whether a room has what a pod wants and its places are not too far ahead of the others."""
    for bound, count in zip(bounds, counts, strict=True):
        here = label(room, bound.key)
        if not here:
            return False
        least = min(count.values()) if len(count) >= bound.domains else 0
        if count[here] + 1 - least > bound.skew:
            return False
    return not shortage(room.free, wanted)


def label(room: Room, key: str) -> str:
    """The value of a node's label, empty without one."""
    return (room.node["metadata"].get("labels") or {}).get(key, "")


def objections(one: PodSet, before: list[Room], after: list[Room]) -> list[str]:
    """Why each node takes no (further) pod of the set: the nearest three by name, the others counted by reason."""
    wanted = requests(one.spec)
    near, counted = [], Counter()
    for room, left in zip(before, after, strict=True):
        objection = node_objection(room.node, one.spec)
        gaps = shortage(left.free, wanted)
        if objection:
            counted[objection] += 1
        elif one.name in left.put and spreads(one.spec, one.labels):
            counted["takes one, and no more by the spread that is asked"] += 1
        elif gaps:
            near.append((worst(gaps, wanted), f"{room.name} is short of {short(gaps, left)}"))
        else:
            counted["has room, but the spread that is asked forbids it"] += 1
    near.sort()
    said = [text for _, text in near[:3]]
    said += [f"{nodes_words(len(near) - 3)} short too"] if len(near) > 3 else []
    said += [f"{nodes_words(count)}: {text}" for text, count in counted.most_common(4)]
    return said or ["the cluster has no nodes"]


def nodes_words(count: int) -> str:
    """A number of nodes."""
    return f"{count} {'node' if count == 1 else 'nodes'}"


def worst(gaps: Resources, wanted: Resources) -> Fraction:
    """How far a node is from enough: the greatest gap, as a share of what is wanted."""
    return max(gap / wanted[name] for name, gap in gaps.items())


def short(gaps: Resources, left: Room) -> str:
    """What a node lacks, of how much it has in all and has free."""
    whole = numbers(left.node["status"].get("allocatable"))
    return " and ".join(
        f"{words(name, gap)} ({bare(name, left.free)} free of {bare(name, whole)})" for name, gap in gaps.items()
    )


def remedy(one: PodSet, placed: int, rooms: list[Room]) -> str:
    """What would let the pods in, gentlest first."""
    wanted, ways = requests(one.spec), [f"PLACE=nodes={placed}"] if placed and one.count > 1 else []
    able = [room for room in rooms if not node_objection(room.node, one.spec)]
    lacking = dict.fromkeys(name for room in able for name in shortage(room.free, wanted) if name != "pods")
    if lacking:
        smaller = " ".join(f"resources.requests.{name}=…" for name in lacking if name in ("cpu", "memory"))
        ways += [f'ask for less: PLACE="{smaller}", limits likewise'] if smaller else []
        ways += [f"ask for less {name}, or have nodes added that have it" for name in lacking if "/" in name]
    objected = [room.node for room in rooms if node_objection(room.node, one.spec)]
    keys = {taint["key"] for node in objected for taint in taints(node) if taint_objection(node, one.spec)}
    if keys - {CORDONED}:
        ways.append(f"where tainted nodes are meant for this, WITH=node-taint PLACE=nodeTaint={min(keys - {CORDONED})}")
    if CORDONED in keys:
        ways.append("kubectl uncordon the cordoned ones")
    if any(label_objection(node, one.spec) for node in objected) and not able:
        ways.append("have nodes labelled so, or leave out the component that asks for it")
    return "; or ".join(ways) or "have nodes added or repaired"


def pods_words(sets: list[PodSet]) -> str:
    """The pods and what each asks for."""
    return " and ".join(
        f"{one.count} {one.name} {'pod' if one.count == 1 else 'pods'} with {several(size_of(one))}" for one in sets
    )


def places(rooms: list[Room]) -> str:
    """Where pods were put."""
    taken = [f"{len(room.put)} on {room.name}" for room in rooms if room.put]
    return ", ".join(taken[:6]) + (f" and {len(taken) - 6} more nodes" if len(taken) > 6 else "")
