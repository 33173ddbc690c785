"""What is in the cluster of what is wanted: read, and compared field by field without any right to write."""

import json
from collections.abc import Iterator

from scripts.cluster.checks.quantity import number
from scripts.cluster.kubectl import Cluster, parse

# Of these anything more than wanted is a hole, is found and taken away; elsewhere the server's defaults are welcome.
STRICT = ("NetworkPolicy",)


def name_of(thing: dict) -> str:
    """An object as kubectl names it: networkpolicy/dns."""
    return f"{thing['kind'].lower()}/{thing['metadata']['name']}"


def read(cluster: Cluster, things: list[dict]) -> dict[str, dict]:
    """The objects as they are in the cluster, under their names; those that are missing are left out."""
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    text = cluster.run("get", "--filename", "-", "--ignore-not-found", "--output", "json", given=given)
    if not text.strip():
        return {}
    answer = parse(text)
    return {name_of(thing): thing for thing in (answer["items"] if answer["kind"] == "List" else [answer])}


def settled(thing: dict | None) -> str:
    """An object without what the cluster itself keeps changing, to tell whether something was changed."""
    if thing is None:
        return ""
    own = {key: value for key, value in thing.items() if key not in ("status", "metadata")}
    metadata = thing["metadata"]
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if not key.startswith("deployment.k")
    }
    if thing["kind"] == "PersistentVolumeClaim":  # binding a volume is the cluster's part of it
        own["spec"] = {key: value for key, value in own["spec"].items() if key != "volumeName"}
        annotations = {}
    return json.dumps([own, metadata.get("labels"), annotations, metadata["uid"]], sort_keys=True)


def deviations(wanted: dict, live: dict) -> list[str]:
    """Each field that is not as wanted, in words."""
    strict = wanted["kind"] in STRICT
    found = differences({key: value for key, value in wanted.items() if key != "metadata"},
                        {key: value for key, value in live.items() if key in wanted and key != "metadata"},
                        "", strict)  # fmt: skip
    for part in ("labels", "annotations"):
        there = live["metadata"].get(part) or {}
        found = [*found, *differences(wanted["metadata"].get(part) or {}, there, f"metadata.{part}")]
    return [in_words(path, has, wants) for path, has, wants in found]


def in_words(path: str, has: object, wants: object) -> str:
    """One difference in words; of lists, what is too much and what is lacking."""
    if isinstance(has, list) and isinstance(wants, list):
        told = [f"has {show(has)} too much"] * bool(has) + [f"lacks {show(wants)}"] * bool(wants)
        return f"{path} {' and '.join(told)}"
    return f"{path} is {show(has)}, wanted {show(wants)}"


def differences(wanted: object, live: object, path: str, strict: bool = False) -> Iterator[tuple[str, object, object]]:
    """Path, live value and wanted value wherever they differ. Of maps only the wanted keys count."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key in [*wanted, *(key for key in live if strict and key not in wanted)]:
            yield from differences(wanted.get(key), live.get(key), f"{path}.{key}".lstrip("."), strict)
    elif isinstance(wanted, list) and isinstance(live, list) and len(wanted) != len(live):
        yield path, [one for one in live if one not in wanted], [one for one in wanted if one not in live]
    elif isinstance(wanted, list) and isinstance(live, list):
        for position, (one, other) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(one, other, f"{path}[{position}]", strict)
    elif not same(wanted, live):
        yield path, live, wanted


def same(wanted: object, live: object) -> bool:
    """Whether two values mean the same: 1000m is 1, and nothing is an empty map or list."""
    if wanted == live or (wanted in ({}, []) and live is None):
        return True
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in (wanted, live)):
        return False
    try:
        return number(wanted) == number(live)
    except ValueError:
        return False


def surplus(wanted: dict, live: dict) -> dict:
    """A merge patch that takes away what a strict object has too much, as `egress` beside a wanted `ingress`."""
    more = set(live.get("spec") or {}) - set(wanted.get("spec") or {})
    return {"spec": dict.fromkeys(sorted(more))} if wanted["kind"] in STRICT and more else {}


def show(value: object) -> str:
    """A value in few words."""
    if value is None:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:159]}…"
