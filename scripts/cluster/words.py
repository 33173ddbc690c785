"""What schedulers, kubelets and admission say, in a sentence for a person: short, with the number that matters."""

import re

SCHEDULER = (  # what the scheduler says of some nodes, and what that means
    (r"Insufficient (\S+)", r"too little {0} free"),
    (r"node\(s\) had untolerated taint\(?s?\)? \{node.kubernetes.io/(?:unreachable|not-ready)\b.*", "do not answer"),
    (r"node\(s\) had untolerated taint\(?s?\)? \{([^:}]*).*", "a taint ({0}) that the pod does not tolerate"),
    (r"node\(s\) had untolerated taint.*", "a taint that the pod does not tolerate"),
    (r"node\(s\) didn't match Pod's node affinity/selector", "not the labels that are asked for"),
    (
        r"node\(s\) didn't match pod topology spread constraints.*",
        "already the pods that the spread allows",
    ),
    (r"node\(s\) didn't (?:match|satisfy) (?:existing )?pods? anti-affinity.*", "already a pod of the run"),
    (r"node\(s\) were unschedulable", "been cordoned"),
    (r"node\(s\) had volume node affinity conflict", "no way to the volume"),
    (r"Too many pods", "as many pods as they may"),
)
LONGEST = 300


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text as one line of at most this many characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def after_colon(text: str) -> str:
    """The last line of what was said, to follow a clause; nothing for nothing."""
    return f": {one_line(text.strip().splitlines()[-1])}" if text.strip() else ""


def from_scheduler(message: str, requests: dict) -> str:
    """Why no node takes a pod, from the condition PodScheduled."""
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return f"the volume claim {found[1]} is missing: make cluster-setup makes it"
    if "unbound immediate PersistentVolumeClaims" in message:
        return "its volume claim has no volume yet: kubectl get pvc tells why"
    head = re.match(r"0/(\d+) nodes are available: (.*)", message, re.DOTALL)
    if not head:
        return one_line(message)
    said = re.split(r"\.? ?(?:preemption:|no new claims)", head[2])[0].rstrip(". ")
    parts = [plain(count, what) for count, what in re.findall(r"(\d+) (.+?)(?:, (?=\d+ )|$)", said)]
    asks = ", ".join(f"{key} {value}" for key, value in sorted(requests.items()))
    asked = f" (a pod asks {asks})" if asks and "Insufficient" in said else ""
    return f"no node of {head[1]} can take it{asked}: {', '.join(parts) or one_line(said)}"


def plain(count: str, what: str) -> str:
    """One part of the scheduler's sum: so many nodes, and what is wrong with them."""
    for pattern, words in SCHEDULER:
        if found := re.fullmatch(pattern, what.strip()):
            words = words.format(*found.groups())
            verb = "" if words.startswith("do ") else "have " if count != "1" else "has "
            return f"{count} {verb}{words if count != '1' or verb else words.replace('do ', 'does ', 1)}"
    return f"{count} {what}"


def from_admission(message: str) -> str:
    """Why pods of a job are not even made, from its event FailedCreate."""
    if found := re.search(r"exceeded quota: (\S+), requested: (.*?), used: (.*?), limited: (.*)", message, re.DOTALL):
        return f"the quota {found[1]} is used up: it asks {found[2]}, used are {found[3]} of {one_line(found[4])}"
    if found := re.search(r'violates PodSecurity "([^"]+)": (.*)', message, re.DOTALL):
        return f"the namespace's pod security ({found[1]}) refuses its pods: {one_line(found[2])}"
    if found := re.search(r"is forbidden: (.*)", message, re.DOTALL):
        return f"its pods are refused: {one_line(found[1])}"
    if found := re.search(r'serviceaccount "?(\S+?)"? not found', message):
        return f"the service account {found[1]} is missing: make cluster-setup makes it"
    return f"its pods cannot be made: {one_line(message)}"


def from_kueue(message: str) -> str:
    """Why a queue holds a job back, from its Workload; that it never fits before that it does not fit now."""
    if found := re.search(
        r"insufficient quota for (\S+) in flavor (\S+), previously considered podsets requests \((\S+)\) \+ "
        r"current podset request \((\S+)\) > maximum capacity \((\S+)\)",
        message,
    ):
        kind, flavor, others, this, most = found.groups()
        asked = this if others == "0" else f"{others} + {this}"
        return f"it never fits: asks {asked} {kind}, the whole queue has {most} (flavor {flavor})"
    if found := re.search(r"insufficient unused quota for (\S+) in flavor (\S+), (\S+) more needed", message):
        return f"the queue is full: {found[3]} more {found[1]} needed (flavor {found[2]})"
    return one_line(re.sub(r"^couldn't assign flavors to pod set \S+: ", "", message))


def from_image(message: str) -> str:
    """Why a node does not get an image: the last, telling part of what the kubelet repeats."""
    for sign, words in (
        ("not found", "the registry has no such image"),
        ("no such host", "the registry's name is not known there"),
        ("connection refused", "the registry does not answer"),
        ("i/o timeout", "the registry does not answer"),
        ("unauthorized", "the registry asks for a login: the pull secret is missing or wrong"),
        ("denied", "the registry asks for a login: the pull secret is missing or wrong"),
        ("is not present with pull policy of Never", "it is not on the node"),
        ("certificate", "the registry's certificate is not trusted there"),
    ):
        if sign in message:
            return words
    return one_line(message, 160) or "the pull failed"
