"""Questions: is the API server reachable, is it and kubectl new enough, and is the namespace there?"""

import re
import sys

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, not_told
from scripts.cluster.kubectl import Refused

# Before 1.31 kubectl's Kustomize makes ConfigMaps after components, which then cannot rename them.
SERVER, CLIENT = (1, 30), (1, 31)
LEVEL = "pod-security.kubernetes.io/enforce"
REACH = "is the cluster reachable"

# What kubectl says when it gets no answer, what that means, and what helps; the first that occurs counts.
TROUBLES = (
    ("localhost:8080", "kubectl knows no cluster: no kubeconfig was found", "SET"),
    ("no configuration has been provided", "kubectl knows no cluster: no kubeconfig was found", "SET"),
    ("invalid configuration", "the kubeconfig is broken", "BROKEN"),
    ("error loading config", "the kubeconfig is broken", "BROKEN"),
    ("does not exist", "there is no such context", "CONTEXT"),
    ("x509", "the server's certificate is not that of the kubeconfig's cluster", "ADDRESS"),
    ("unauthorized", "the cluster does not know this login, or it has expired", "LOGIN"),
    ("provide credentials", "the cluster does not know this login, or it has expired", "LOGIN"),
    ("getting credentials", "the kubeconfig's login program failed", "LOGIN"),
    ("is forbidden", "this login may not do that", "RIGHTS"),
    ("proxyconnect", "the proxy did not let it through", "PROXY"),
    ("refused", "nothing listens at the API server's address", "START"),
    ("no such host", "the API server's name is not known here", "NETWORK"),
    ("no route to host", "no way leads to the API server", "NETWORK"),
    ("timeout", "the API server does not answer in time", "NETWORK"),
    ("deadline exceeded", "the API server does not answer in time", "NETWORK"),
    ("no answer within", "the API server does not answer in time", "NETWORK"),
)
FIXES = {
    "SET": "set KUBECONFIG, or put the file at ~/.kube/config",
    "BROKEN": "look at `kubectl config view`, or fetch the kubeconfig again",
    "CONTEXT": "`kubectl config get-contexts` lists them: CONTEXT=…",
    "ADDRESS": "fetch the kubeconfig again, or correct its server address",
    "LOGIN": "log in again, or fetch a new kubeconfig",
    "RIGHTS": "ask the namespace's administrator to bind you to its role deployer (make cluster-setup --deployers)",
    "PROXY": "add the API server to NO_PROXY",
    "START": "start the cluster, or correct the address in the kubeconfig",
    "NETWORK": "check the network (VPN, firewall) and the address in the kubeconfig",
}


def judge_reach(facts: dict) -> list[Answer]:
    """Whether there is an answer at all, and whether both sides are new enough."""
    version, client = facts["version"], facts["client"]
    answers = [judge_version("is kubectl new enough", client, CLIENT, "install kubectl 1.31 or later")]
    if isinstance(version, Refused):
        return [unreachable(version), *answers]
    told = version.get("gitVersion", "")
    answers.insert(0, Answer(PASSED, REACH, f"Kubernetes {told} answers"))
    least = f"{SERVER[0]}.{SERVER[1]}"
    upgrade = f"have the cluster upgraded: what is used here needs Kubernetes {least} or later"
    return [*answers, judge_version("is Kubernetes new enough", version, SERVER, upgrade)]


def unreachable(refused: Refused) -> Answer:
    """Why no answer came, in words, with kubectl's own behind them."""
    what, fix = in_words(refused, "look at `kubectl version`")
    return Answer(FAILED, REACH, what, fix)


def in_words(refused: Refused, otherwise: str) -> tuple[str, str]:
    """What a refusal means, with kubectl's own words behind, and what helps; `otherwise`: where it is none of those."""
    for sign, what, fix in TROUBLES:
        if sign in str(refused).lower():
            return f"{what} (kubectl says: {last_line(refused)})", FIXES[fix]
    return f"kubectl says: {last_line(refused)}", otherwise


def tell_refused(refused: Refused, otherwise: str = "make preflight asks the cluster everything, one by one") -> int:
    """Say on stderr why a command did not come to an end, and what helps; the exit status."""
    what, fix = in_words(refused, otherwise)
    print(f"failed: {what}\n  fix: {fix}", file=sys.stderr)
    return 1


def last_line(refused: Refused) -> str:
    """The last line of what kubectl said; those before repeat it."""
    return str(refused).strip().splitlines()[-1][:300]


def judge_version(question: str, version: dict | Refused, least: tuple[int, int], fix: str) -> Answer:
    """Whether a version is at least the one that was tried."""
    found = re.match(r"v?(\d+)\.(\d+)", version.get("gitVersion", "") if isinstance(version, dict) else "")
    if not found:
        return Answer(UNKNOWN, question, "the version could not be told", "look at `kubectl version`")
    numbers = (int(found[1]), int(found[2]))
    wanted = f"{least[0]}.{least[1]}"
    if numbers < least:
        return Answer(FAILED, question, f"it is {version['gitVersion']}, and {wanted} or later is needed", fix)
    return Answer(PASSED, question, f"{version['gitVersion']} (at least {wanted})")


def judge_namespace(name: str, facts: dict) -> list[Answer]:
    """Whether the namespace is there and may be used, and what it demands of pods."""
    question, namespace = "is the namespace there", facts["namespace"]
    if is_missing(namespace):
        return [Answer(FAILED, question, f"there is no namespace {name}", f"make cluster-setup NAMESPACE={name}")]
    if isinstance(namespace, Refused):
        return [not_told(question, f"namespace {name}", namespace)]
    if namespace["status"].get("phase") == "Terminating":
        fix = f"wait until it is gone, then make cluster-setup NAMESPACE={name}"
        return [Answer(FAILED, question, f"{name} is being deleted", fix)]
    level = (namespace["metadata"].get("labels") or {}).get(LEVEL)
    said = f"enforces PodSecurity {level}" if level else "enforces no PodSecurity level"
    return [Answer(PASSED, question, f"{name} {said}")]
