"""Question: may this person do all that deploy, watch, logs, results and undeploy need?"""

from scripts.cluster.checks.answers import FAILED, PASSED, Answer, not_told
from scripts.cluster.kubectl import Refused

QUESTION = "may I"
OWN = ("create", "get", "list", "watch", "patch", "delete")  # what a run's own objects need
READ = (
    ("", "pods", ("get", "list", "watch", "delete")),
    ("", "pods/log", ("get",)),
    ("", "pods/exec", ("create",)),
    ("", "events", ("list", "watch")),
    ("", "persistentvolumeclaims", ("get",)),
    ("apps", "deployments", ("get",)),
)


def plural(kind: str) -> str:
    """A kind as the API's paths have it."""
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def split_version(api_version: str) -> tuple[str, str]:
    """Group and version of an object; the core group is empty."""
    group, _, version = api_version.rpartition("/")
    return group, version


def path_of(found: dict, namespace: str) -> str:
    """The API path of the list an object belongs to."""
    group, version = split_version(found["apiVersion"])
    root = f"apis/{group}/{version}" if group else f"api/{version}"
    return f"{root}/namespaces/{found['metadata'].get('namespace', namespace)}/{plural(found['kind'])}"


def wanted_rights(objects: list[dict], namespace: str) -> list[dict]:
    """What to ask the cluster for: one SelfSubjectAccessReview each."""
    kinds = dict.fromkeys((split_version(found["apiVersion"])[0], plural(found["kind"])) for found in objects)
    wanted = [(group, resource, verb) for group, resource in kinds for verb in OWN]
    wanted += [(group, resource, verb) for group, resource, verbs in READ for verb in verbs]
    return [right(group, resource, verb, namespace) for group, resource, verb in dict.fromkeys(wanted)]


def right(group: str, resource: str, verb: str, namespace: str) -> dict:
    """One right as the API's resource attributes."""
    name, _, sub = resource.partition("/")
    found = {"group": group, "resource": name, "verb": verb, "namespace": namespace}
    return {**found, "subresource": sub} if sub else found


def judge_rights(namespace: str, facts: dict) -> list[Answer]:
    """One answer with every right that is lacking."""
    reviews = facts["access"]
    if isinstance(reviews, Refused):
        return [not_told(QUESTION, "my rights", reviews)]
    denied: dict[str, list[str]] = {}
    for review in reviews:
        if not review["status"].get("allowed"):
            asked = review["spec"]["resourceAttributes"]
            name = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            denied.setdefault(f"{name}.{asked['group']}" if asked.get("group") else name, []).append(asked["verb"])
    if not denied:
        return [Answer(PASSED, QUESTION, f"all {len(reviews)} rights in {namespace} that a run needs")]
    said = "; ".join(f"{', '.join(verbs)} {name}" for name, verbs in denied.items())
    fix = f"ask the administrator of {namespace} to bind you to the role that make cluster-setup makes there"
    return [Answer(FAILED, QUESTION, f"not in namespace {namespace}: {said}", fix)]
