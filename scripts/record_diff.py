"""What differs between the records of two runs (run.json), group by group.

Used by `make diff-runs` and by `make reproduce`, which compares a run's record with what is there now.
"""

from dataclasses import asdict, dataclass
from typing import Any

from train.report_facts import shown

ABSENT = "-"
HASH = 64  # digits of a SHA-256
HASH_SHOWN = 12
# Groups that decide what is learned, each with the reason why a difference in it may change the result.
CAUSES = {
    "layout": "other sums: gradients are added in another order",
    "computation": "another way to compute the same",
    "versions": "another release may compute, order or seed differently",
    "hardware": "another processor rounds differently",
    "code": "other programs",
}
# Of the machine what the arithmetic depends on. Cores, sockets and NUMA nodes act through the layout alone.
OF_PROCESSOR = ("cpu", "flags")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: `was` in the first record, `now` in the second; None where it is absent."""

    group: str
    key: str
    was: Any
    now: Any

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def in_words(self) -> str:
        """`peft: was 0.21.2, is 0.22.0`, the thing first."""
        return f"{self.key}: was {brief(self.was, self.now)}, is {brief(self.now, self.was)}"


def grouped(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All that a record says of a run by group; a group is empty where nothing of it was recorded."""
    base, data = record.get("base_model") or {}, record.get("data") or {}
    artifacts, training = record.get("artifacts") or {}, record.get("training") or {}
    model, rows = artifacts.get("model") or {}, artifacts.get("dataset") or {}
    recipe, layout = record.get("recipe") or {}, record.get("layout") or {}
    return {
        "recipe": recipe,
        "model": {
            "name": model.get("name") or base.get("name") or recipe.get("model_name_or_path"),
            "revision": model.get("revision") or base.get("revision"),
        },
        "model files": record.get("model_files") or {},
        "model weights": {name: one.get("sha256") for name, one in (base.get("files") or {}).items()},
        "data": {"revision": rows.get("revision"), "digest": data.get("digest")},
        "data files": {name: one.get("sha256") for name, one in (data.get("sources") or {}).items()},
        "layout": {key: layout.get(key) for key in ("processes", "threads") if key in layout},
        "computation": {
            **({"number format": record["dtype"]} if "dtype" in record else {}),
            **{key: value for key, value in (training.get("path") or {}).items() if key != "notes"},
        },
        "versions": record.get("versions") or {},
        # The memory that was free at that moment is no property of the machine.
        "hardware": {key: value for key, value in (record.get("hardware") or {}).items() if key != "memory_gb"},
        "code": {"commit": record.get("git"), "image": record.get("image")},
        "result": (record.get("result") or {}).get("files") or {},
    }


def differences(first: dict[str, dict], second: dict[str, dict]) -> tuple[list[Difference], dict[str, int], list[str]]:
    """Of two records as groups: what differs, how many are equal by group, and the groups that one of them lacks."""
    found, equal, unknown = [], {}, []
    for group in first.keys() | second.keys():
        was, now = first.get(group) or {}, second.get(group) or {}
        if bool(was) != bool(now):
            unknown.append(group)
            continue
        keys = list(dict.fromkeys([*was, *now]))
        differing = [key for key in keys if was.get(key) != now.get(key)]
        found += [Difference(group, key, was.get(key), now.get(key)) for key in differing]
        equal[group] = len(keys) - len(differing)
    order = list(dict.fromkeys([*first, *second]))
    found.sort(key=lambda one: order.index(one.group))
    return found, {group: equal[group] for group in order if equal.get(group)}, sorted(unknown, key=order.index)


def causes(first: dict[str, dict], second: dict[str, dict]) -> list[Difference]:
    """The differences that may change what is learned although recipe, model and data are the same."""
    found, _, _ = differences({group: first.get(group) or {} for group in CAUSES}, second)
    return [one for one in found if one.group in CAUSES and (one.group != "hardware" or one.key in OF_PROCESSOR)]


def brief(value: Any, other: Any = None) -> str:
    """A value in one line: of a hash its first digits, of a list only what the other one lacks."""
    if value is None:
        return "none"
    if isinstance(value, list) and isinstance(other, list) and value and other:
        own = [item for item in value if item not in other]
        return f"with {shown(own)}" if own else "without"
    text = " ".join(shown(value).split()) or "empty"
    return text[:HASH_SHOWN] if len(text) == HASH and set(text) <= set("0123456789abcdef") else text
