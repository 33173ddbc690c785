"""Everything the preflight asks the cluster, several questions at a time, read-only; a refusal is kept as an answer."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from scripts.cluster.kubectl import Cluster, Refused

AT_ONCE = 6  # questions at a time
CHUNK = 1000  # pods of one answer


def ask(function: Callable, *words: object) -> object:
    """The function's result, or the cluster's refusal."""
    try:
        return function(*words)
    except Refused as refused:
        return refused


def items(cluster: Cluster, path: str) -> list[dict]:
    """A whole list by its API path, in chunks, so that neither side holds up the other."""
    found, more = [], ""
    while True:
        mark = "&" if "?" in path else "?"
        answer = cluster.raw(f"{path}{mark}limit={CHUNK}{more}")
        found += answer.get("items") or []
        token = (answer.get("metadata") or {}).get("continue")
        if not token:
            return found
        more = f"&continue={quote(token)}"


def named(path: str, *names: str) -> str:
    """A list's path with a field selector for one name, for kinds that may be in any namespace."""
    return f"{path}?fieldSelector=" + quote(",".join(f"metadata.name={name}" for name in names))


def gather(questions: dict[object, tuple]) -> dict[object, object]:
    """The answers to all questions, each (function, arguments…), under the same keys."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {key: pool.submit(ask, function, *words) for key, (function, *words) in questions.items()}
        return {key: future.result() for key, future in running.items()}


def access(cluster: Cluster, wanted: list[dict]) -> list[dict]:
    """SelfSubjectAccessReviews for these attributes, all in one call."""
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": one},
        }
        for one in wanted
    ]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    text = cluster.run("create", "--filename", "-", "--output", "json", "--validate=false", given=given)
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        review, at = decoder.raw_decode(text, at)
        found.append(review)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found[0]["items"] if found and found[0]["kind"] == "List" else found
