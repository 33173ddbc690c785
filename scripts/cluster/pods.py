"""A run's pods: which leads, why one waits, how each ended, and which died first."""

import datetime
from dataclasses import dataclass

from scripts.cluster import words
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import EVENT, ROLE, RUN
from train.errors import see

INDICES = ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index")
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
NO_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
STOPPED = 143  # ended by SIGTERM, or because a peer went: not the one that began it


@dataclass(frozen=True)
class Ending:
    """How a container of a pod ended."""

    pod: str
    index: int | None
    node: str
    when: str
    code: int
    cause: str  # a clause: "was killed: it went over its memory limit of 64Gi"
    previous: bool  # the container has been started again since

    def sentence(self) -> str:
        """Who and how, in one sentence."""
        return f"pod {self.pod} on {self.node or 'no node'} {self.cause}"


def pods_of(cluster: Cluster, run: str) -> list[dict]:
    """The run's pods, the leader first, then by index."""
    return in_order(cluster.list("pods", f"{RUN}={run}"))


def in_order(pods: list[dict]) -> list[dict]:
    """The leading kind first, then by index, the older before the newer."""
    return sorted(
        pods, key=lambda pod: (not is_launcher(pod), index_of(pod) or 0, pod["metadata"]["creationTimestamp"])
    )


def is_launcher(pod: dict) -> bool:
    """Whether it is an MPIJob's launcher."""
    return pod["metadata"]["labels"].get(ROLE) == "launcher"


def index_of(pod: dict) -> int | None:
    """Its number among the run's pods; a launcher has none."""
    labels = pod["metadata"]["labels"]
    return next((int(labels[key]) for key in INDICES if key in labels), None)


def short_name(pod: dict) -> str:
    """What a reader knows the pod by: launcher, or its number."""
    return "launcher" if is_launcher(pod) else str(index_of(pod) if index_of(pod) is not None else "?")


def leader_of(pods: list[dict]) -> dict | None:
    """The pod that speaks for the run: the launcher, else index 0; of several the newest."""
    launchers = [pod for pod in pods if is_launcher(pod)]
    leading = launchers or [pod for pod in pods if index_of(pod) == 0]
    return max(leading, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)


def containers(pod: dict) -> list[dict]:
    """The states of its containers, those of the start first."""
    status = pod.get("status", {})
    return status.get("initContainerStatuses", []) + status.get("containerStatuses", [])


def is_running(pod: dict) -> bool:
    """Whether its container runs and nobody has asked it to leave."""
    gone = "deletionTimestamp" in pod["metadata"]
    return not gone and any("running" in one["state"] for one in pod["status"].get("containerStatuses", []))


def is_over(pod: dict) -> bool:
    """Whether it has ended for good."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def restarts_of(pod: dict) -> int:
    """How often its containers were started again."""
    return sum(one.get("restartCount", 0) for one in containers(pod))


def state_of(pod: dict) -> str:
    """One word or two for a table."""
    if "deletionTimestamp" in pod["metadata"]:
        return "leaving"
    if is_running(pod):
        return "running"
    if is_over(pod):
        return "done" if pod["status"]["phase"] == "Succeeded" else "failed"
    return "waiting"


# ---- why one waits ----


def is_stuck(pod: dict) -> bool:
    """Whether it does not start until somebody does something: its image or a secret it names is missing."""
    return any(one["state"].get("waiting", {}).get("reason") in NO_IMAGE + NO_START for one in containers(pod))


def why_waits(pod: dict, events: list[dict]) -> str:
    """Why the pod does not run yet, in one sentence; empty where nothing is in its way."""
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if condition.get("reason") == "SchedulingGated":
                return f"pod {name} is held back by a scheduling gate"
            requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
            return f"pod {name} waits: {words.from_scheduler(condition.get('message', ''), requests)}"
    if not node:
        return f"pod {name} waits for the scheduler"
    for one in containers(pod):
        waiting = one["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in NO_IMAGE and one["image"].startswith("localhost/"):
            lacks = f"{node} lacks the image {one['image']}, which no registry has: make push brings it to the nodes"
            return lacks + see("image-not-on-node")
        if reason in NO_IMAGE:
            said = [text for kind, text in told_of(events, name) if kind == "Failed" and not text.startswith("Error:")]
            told = words.from_image(said[0] if said else message)
            return f"{node} cannot get the image {one['image']}: {told}"
        if reason in NO_START:
            return f"pod {name} cannot start on {node}: {words.one_line(message)}"
        if reason == "CrashLoopBackOff":
            last = ending_of(pod, one, one.get("lastState", {}).get("terminated"), previous=True)
            return f"pod {name} is started again in a moment: it {last.cause}" if last else f"pod {name} starts again"
    for kind, said in told_of(events, name):
        if kind in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
            return f"pod {name} cannot start on {node}: {words.one_line(said)}"
    return f"pod {name} is being started on {node}"


def told_of(events: list[dict], name: str) -> list[tuple[str, str]]:
    """Reason and message of the warnings about an object, the latest first."""
    about = [event for event in events if event["involvedObject"].get("name") == name]
    about.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", reverse=True)
    return [(event.get("reason", ""), event.get("message", "")) for event in about]


# ---- how one ended ----


def endings(pods: list[dict]) -> list[Ending]:
    """Every end of a container that was no success, and of pods that were taken away, the earliest first."""
    found = []
    for pod in pods:
        before = len(found)
        for one in containers(pod):
            runs_again = "terminated" not in one["state"]
            for state, previous in ((one.get("lastState", {}), runs_again), (one["state"], False)):
                if ending := ending_of(pod, one, state.get("terminated"), previous):
                    found.append(ending)
        if len(found) == before and pod["status"].get("phase") == "Failed":
            found.append(Ending(*whose(pod), last_change(pod), -1, taken_away(pod) or "failed", False))
    return sorted(found, key=lambda ending: ending.when)


def ending_of(pod: dict, one: dict, terminated: dict | None, previous: bool) -> Ending | None:
    """How this container ended, None where it did not or ended well."""
    if not terminated or terminated["exitCode"] == 0:
        return None
    code, message = terminated["exitCode"], terminated.get("message", "").strip()
    said = words.after_colon(message)
    if terminated.get("reason") == "OOMKilled":
        limits = next(c for c in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
                      if c["name"] == one["name"]).get("resources", {}).get("limits", {})  # fmt: skip
        cause = f"was killed because it needed more memory than its limit of {limits.get('memory', 'the node')}"
    elif away := taken_away(pod):
        cause = away
    elif terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        cause = f"could not be started{said}"
    else:
        cause = f"ended with exit code {code}{said or meaning(code)}"
    return Ending(*whose(pod), terminated.get("finishedAt") or "", code, cause, previous)


def whose(pod: dict) -> tuple[str, int | None, str]:
    """Name, index and node."""
    return pod["metadata"]["name"], index_of(pod), pod["spec"].get("nodeName", "")


def taken_away(pod: dict) -> str:
    """Who took the pod from its node, and why; empty where nobody did."""
    status = pod["status"]
    if status.get("reason") == "Evicted":
        return f"was evicted: {words.one_line(status.get('message', ''))}"
    if status.get("reason") == "DeadlineExceeded":
        return "was stopped at its deadline"
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            who = {
                "PreemptionByScheduler": "had to leave for a pod of higher priority",
                "DeletionByTaintManager": "was removed because its node stopped answering" + see("node-lost"),
                "EvictionByEvictionAPI": "was evicted (a drained node, or a person)",
                "DeletionByPodGC": "was lost with its node" + see("node-lost"),
                "TerminationByKubelet": f"was stopped by its node: {words.one_line(condition.get('message', ''))}",
            }
            return who.get(condition.get("reason", ""), words.one_line(condition.get("message", "")))
    return words.one_line(f"was ended: {status['reason']}: {status.get('message', '')}") if status.get("reason") else ""


def meaning(code: int) -> str:
    """What an exit code alone tells."""
    signals = {137: " (killed)", 139: " (crashed: invalid memory access)", 143: " (stopped)", 134: " (aborted)"}
    return signals.get(code, "")


def last_change(pod: dict) -> str:
    """When something about the pod last changed."""
    times = [one.get("lastTransitionTime") or "" for one in pod["status"].get("conditions", [])]
    return max(times, default=pod["metadata"]["creationTimestamp"])


def first_dead(found: list[Ending]) -> Ending | None:
    """The one that began the last failure: the earliest of the last attempt that was not stopped because of another."""
    begun = [ending for ending in found if ending.code != STOPPED] or found
    attempt: list[Ending] = []
    for ending in reversed(begun):
        if any(ending.index == later.index for later in attempt):
            break  # the same place has died since: this was an earlier attempt
        attempt.append(ending)
    return attempt[-1] if attempt else None


def last_lines(cluster: Cluster, ending: Ending, count: int = 12) -> list[str]:
    """The last lines for people in the log of what ended, none where it is gone."""
    words_ = ["logs", ending.pod, "--tail=200", *(["--previous"] if ending.previous else [])]
    try:
        text = cluster.run(*words_)
    except Refused:
        return []
    return [line for line in text.splitlines() if line.strip() and not line.startswith(EVENT)][-count:]


def age(timestamp: str, now: datetime.datetime | None = None) -> float:
    """Seconds since a time as the API writes it."""
    then = datetime.datetime.fromisoformat(timestamp)
    return ((now or datetime.datetime.now(datetime.UTC)) - then).total_seconds()
