"""Where the scheduler may put a pod: node conditions, taints, selectors, affinity, spread; functions on objects."""

from dataclasses import dataclass
from fractions import Fraction

NEVER_ENOUGH = 10**9
CORDONED = "node.kubernetes.io/unschedulable"
BLOCKING = ("NoSchedule", "NoExecute")


def node_objection(node: dict, spec: dict) -> str:
    """Why this pod may not run on this node at all, whatever is free there; empty if it may."""
    conditions = {entry["type"]: entry["status"] for entry in node.get("status", {}).get("conditions", [])}
    if conditions.get("Ready") != "True":
        return "is not ready"
    return taint_objection(node, spec) or label_objection(node, spec)


def taint_objection(node: dict, spec: dict) -> str:
    """Which of the node's taints the pod does not tolerate; empty for none."""
    for taint in taints(node):
        if taint["effect"] in BLOCKING and not any(tolerates(one, taint) for one in spec.get("tolerations") or []):
            if taint["key"] == CORDONED:
                return "is cordoned"
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"has the taint {taint['key']}{value}:{taint['effect']}"
    return ""


def taints(node: dict) -> list[dict]:
    """The node's taints; a cordoned one has the taint that the node controller gives it."""
    found = list(node.get("spec", {}).get("taints") or [])
    if node.get("spec", {}).get("unschedulable"):
        found.append({"key": CORDONED, "effect": "NoSchedule"})
    return found


def tolerates(toleration: dict, taint: dict) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def label_objection(node: dict, spec: dict) -> str:
    """What of the pod's node selector and required node affinity this node does not have; empty if it has all."""
    labels = node["metadata"].get("labels") or {}
    lacking = [f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items() if labels.get(key) != value]
    if lacking:
        return f"has no label {', '.join(lacking)}"
    required = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (required.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    if terms is not None and not any(term_matches(term, node) for term in terms):
        return f"does not match the node affinity ({' or '.join(map(term_words, terms))})"
    return ""


def term_matches(term: dict, node: dict) -> bool:
    """Whether a node has all that one term of a node affinity asks for."""
    labels, fields = node["metadata"].get("labels") or {}, {"metadata.name": node["metadata"]["name"]}
    wanted = [(entry, labels) for entry in term.get("matchExpressions", [])]
    wanted += [(entry, fields) for entry in term.get("matchFields", [])]
    return bool(wanted) and all(expression_matches(entry, among) for entry, among in wanted)


def expression_matches(entry: dict, labels: dict) -> bool:
    """Whether labels meet one expression of a selector."""
    key, operator, values = entry["key"], entry["operator"], entry.get("values") or []
    if operator in ("In", "NotIn"):
        return (labels.get(key) in values) == (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return (key in labels) == (operator == "Exists")
    try:
        found, bound = int(labels[key]), int(values[0])
    except (KeyError, ValueError, IndexError):
        return False
    return found > bound if operator == "Gt" else found < bound


def term_words(term: dict) -> str:
    """One term of a node affinity in words."""
    entries = [*term.get("matchExpressions", []), *term.get("matchFields", [])]
    said = (f"{entry['key']} {entry['operator']} {' '.join(entry.get('values') or [])}".strip() for entry in entries)
    return " and ".join(said)


def selects(selector: dict | None, labels: dict) -> bool:
    """Whether a label selector matches these labels; no selector matches nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(expression_matches(entry, labels) for entry in selector.get("matchExpressions") or [])


@dataclass(frozen=True)
class Spread:
    """What bounds how many of a set's pods one place takes."""

    key: str  # label of the place
    skew: int  # how many more pods than the emptiest place it may have
    domains: int = 1  # places there have to be; with fewer, the emptiest counts as one without pods
    tainted: bool = True  # whether a place counts that the pod could not go to for a taint
    labelled: bool = False  # whether a place counts that the pod could not go to for its labels

    def counts(self, node: dict, spec: dict) -> bool:
        """Whether a node is one of the places that are compared."""
        if self.key not in (node["metadata"].get("labels") or {}):
            return False
        return (self.tainted or not taint_objection(node, spec)) and (self.labelled or not label_objection(node, spec))


def spreads(spec: dict, labels: dict) -> list[Spread]:
    """The bounds that hold among pods of one set. A required anti-affinity of theirs is at most one pod a place."""
    found = []
    for entry in spec.get("topologySpreadConstraints") or []:
        if entry.get("whenUnsatisfiable") == "DoNotSchedule" and selects(entry.get("labelSelector"), labels):
            tainted, labelled = entry.get("nodeTaintsPolicy") != "Honor", entry.get("nodeAffinityPolicy") == "Ignore"
            domains = entry.get("minDomains") or 1
            found.append(Spread(entry["topologyKey"], entry.get("maxSkew", 1), domains, tainted, labelled))
    affinity = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    for entry in affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or []:
        if selects(entry.get("labelSelector"), labels):
            found.append(Spread(entry["topologyKey"], 1, domains=NEVER_ENOUGH))
    return found


def shortage(free: dict[str, Fraction], wanted: dict[str, Fraction]) -> dict[str, Fraction]:
    """What of the wanted is not free, by how much."""
    gaps = {name: amount - free.get(name, Fraction(0)) for name, amount in wanted.items()}
    return {name: gap for name, gap in gaps.items() if gap > 0}
