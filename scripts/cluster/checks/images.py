"""Question: is the image on the nodes it may land on, or will a registry give it?"""

import json
import time
from pathlib import Path

from scripts.chain import ROOT
from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, not_told
from scripts.cluster.checks.scheduling import node_objection
from scripts.cluster.checks.shapes import PodSet, containers
from scripts.cluster.kubectl import Refused
from train.errors import see

QUESTION = "is the image on the nodes"
LISTED = 50  # images a kubelet lists by default, largest first (nodeStatusMaxImages); more are there and not told
PUSH = "make image push"
MORE = see("image-not-on-node")
SECONDS_UNTIL_TOLD = 360.0  # a kubelet reports its node every five minutes, unless something else has changed


def judge_images(sets: list[PodSet], facts: dict) -> list[Answer]:
    """One answer for each image of the run."""
    uses: dict[str, list[tuple[PodSet, dict]]] = {}
    for one in sets:
        for container in containers(one.spec):
            uses.setdefault(container["image"], []).append((one, container))
    fresh = facts.get("pushed", "")
    return [judge_image(image, used, facts["nodes"], image == fresh) for image, used in uses.items()]


def just_pushed(record: Path = ROOT / "build" / "push.json", now: float | None = None) -> str:
    """The image that make push has just brought to nodes, empty if none: kubelets tell of it only minutes later."""
    try:
        age = (now or time.time()) - record.stat().st_mtime
        pushed = json.loads(record.read_text())
    except (OSError, ValueError):
        return ""
    return pushed.get("name", "") if age < SECONDS_UNTIL_TOLD and pushed.get("nodes") else ""


def judge_image(image: str, used: list[tuple[PodSet, dict]], nodes: list[dict] | Refused, fresh: bool) -> Answer:
    """Whether the nodes that may take a pod with this image hold it; `fresh`: it was brought there minutes ago."""
    tag = image.rpartition(":")[2] if "@" not in image else ""
    if tag.endswith("000000000000"):
        what = f"{image} is the placeholder of an image that was not built yet"
        return Answer(FAILED, QUESTION, what, f"build it and bring it to the nodes: {PUSH}{MORE}")
    if isinstance(nodes, Refused):
        return not_told(QUESTION, "the nodes", nodes)
    candidates = [node for node in nodes if any(not node_objection(node, one.spec) for one, _ in used)]
    if not candidates:
        return Answer(UNKNOWN, QUESTION, f"{image}: no node may take its pods", "see what is said of the nodes")
    candidates = [node for node in candidates if not is_simulated(node)] or candidates
    absent = [node for node in candidates if not holds(node, image)]
    there = len(candidates) - len(absent)
    pulled = can_be_pulled(image)
    never = any(container.get("imagePullPolicy") == "Never" for _, container in used)
    if not absent:
        return Answer(PASSED, QUESTION, f"{image} is on {count_words(len(candidates))} that may take it")
    names = ", ".join(node["metadata"]["name"] for node in absent[:5])
    names += f" and {len(absent) - 5} more" if len(absent) > 5 else ""
    if pulled and not never:
        what = f"{image} is on {there} of {len(candidates)} nodes; a registry has to give it to {names}"
        fix = f"nothing, if the nodes reach that registry; else bring it there: {PUSH}"
        return Answer(UNKNOWN, QUESTION, what, fix)
    full = [node for node in absent if len(node["status"].get("images") or []) >= LISTED]
    if len(full) == len(absent):
        what = f"{image} is not among the {LISTED} largest images listed by {names}; it may be there all the same"
        return Answer(UNKNOWN, QUESTION, what, f"bring it there, which is quick where it is: {PUSH}")
    what = f"{image} is missing on {names} ({there} of {len(candidates)} nodes have it)"
    if fresh:
        what += "; make push has just run, and a kubelet tells of an image after minutes"
        return Answer(UNKNOWN, QUESTION, what, "make image-check asks the nodes themselves")
    keep = "or keep to nodes that have it: WITH=node-selection PLACE=nodeSelector=…"
    return Answer(FAILED, QUESTION, what, f"bring it to all nodes: {PUSH}; {keep}{MORE}")


def count_words(count: int) -> str:
    """A number of nodes in words."""
    return "the one node" if count == 1 else f"all {count} nodes"


def is_simulated(node: dict) -> bool:
    """Whether a node exists in the API only (kwok): its pods never start a container, so no image is needed there."""
    return "kwok.x-k8s.io/node" in (node["metadata"].get("annotations") or {})


def holds(node: dict, image: str) -> bool:
    """Whether the kubelet lists the image, by tag or by digest."""
    wanted = spellings(image)
    return is_simulated(node) or any(
        wanted & spellings(name) for entry in node["status"].get("images") or [] for name in entry.get("names") or []
    )


def spellings(image: str) -> set[str]:
    """The names the same image is listed under: short names are Docker Hub's, and no tag counts beside a digest."""
    if "@" in image:
        name, digest = image.split("@", 1)
        head, colon, tail = name.rpartition(":")
        name = head if colon and "/" not in tail else name
        image = f"{name}@{digest}"
    first = image.split("/")[0]
    if "/" not in image:
        return {image, f"docker.io/library/{image}"}
    return {image} if "." in first or ":" in first or first == "localhost" else {image, f"docker.io/{image}"}


def can_be_pulled(image: str) -> bool:
    """Whether the name is one that a registry could answer; localhost/ is how an image is called that came by push."""
    return not image.startswith("localhost/")
