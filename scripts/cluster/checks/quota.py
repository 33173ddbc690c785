"""Question: do all pods together stay within the namespace's quota? One pod's dry run cannot tell."""

from fractions import Fraction

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, not_told
from scripts.cluster.checks.quantity import Resources, bare, numbers, words
from scripts.cluster.checks.scheduling import shortage
from scripts.cluster.checks.shapes import PodSet, limits, requests
from scripts.cluster.kubectl import Refused
from train.errors import see


def judge_quota(sets: list[PodSet], facts: dict) -> list[Answer]:
    """Whether all pods together stay within the namespace's quota; one pod's dry run cannot tell."""
    question = "does it fit in the namespace's quota"
    quotas = facts["quotas"]
    if isinstance(quotas, Refused):
        return [not_told(question, "the namespace's quota", quotas)]
    if not quotas:
        return [Answer(PASSED, question, "the namespace has none")]
    wanted = quota_use(sets)
    answers = []
    for quota in quotas:
        status = quota.get("status", {})
        hard, used = numbers(status.get("hard") or quota["spec"].get("hard")), numbers(status.get("used"))
        gaps = shortage({name: bound - used.get(name, Fraction(0)) for name, bound in hard.items()},
                        {name: amount for name, amount in wanted.items() if name in hard})  # fmt: skip
        name = quota["metadata"]["name"]
        if not gaps:
            left = {key: bound - used.get(key, Fraction(0)) for key, bound in hard.items()}
            told = ", ".join(f"{words(key, wanted[key])} of {bare(key, left)}" for key in hard if key in wanted)
            answers.append(Answer(PASSED, question, f"{name} has room: {told or 'nothing it bounds is asked for'}"))
            continue
        lack = ", ".join(
            f"{words(key, gap)} short (asked {bare(key, wanted)}, {bare(key, used)} of {bare(key, hard)} used)"
            for key, gap in gaps.items()
        )
        scoped = "scopes" in quota["spec"] or "scopeSelector" in quota["spec"]
        said = f"{name}: {lack}" + ("; it holds for some pods only, perhaps not for these" if scoped else "")
        fix = f"wait for other work, ask for less (PLACE=…), or have the quota {name} raised{see('job-pending')}"
        answers.append(Answer(UNKNOWN if scoped else FAILED, question, said, fix))
    return answers


def quota_use(sets: list[PodSet]) -> Resources:
    """What all pods count for in a quota, under every name a quota knows it by."""
    used: Resources = {}
    for one in sets:
        for name, amount in requests(one.spec).items():
            for key in (name, f"requests.{name}") if name != "pods" else ("pods", "count/pods"):
                used[key] = used.get(key, Fraction(0)) + amount * one.count
        for name, amount in limits(one.spec).items():
            used[f"limits.{name}"] = used.get(f"limits.{name}", Fraction(0)) + amount * one.count
    return used
