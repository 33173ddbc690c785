"""All questions of the preflight, in the order in which a person would ask; `check` asks, `judge` only thinks."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from scripts.cluster.bucket import COMPONENT
from scripts.cluster.checks import (
    admission,
    bucket,
    duration,
    fit,
    images,
    kueue,
    memory,
    operators,
    quota,
    reach,
    references,
    rights,
    store,
)
from scripts.cluster.checks import facts as cluster_facts
from scripts.cluster.checks.answers import Answer, is_missing
from scripts.cluster.checks.shapes import find_job, pod_sets
from scripts.cluster.kubectl import Refused, connected


@dataclass
class Known:
    """What the cluster told of the first runs of a sweep, for the others; none of them takes room from another."""

    runs: set[str]
    facts: dict[str, dict] = field(default_factory=dict)  # by what was asked for one run's sake


def check(plan: SimpleNamespace, objects: list[dict], known: Known | None = None) -> list[Answer]:
    """Every answer, in the order in which a person would ask; the cluster is asked for what is not `known`."""
    known = known or Known(set())
    named = references.references(pod_sets(objects), objects)
    asked = json.dumps([store.question(plan.recipe), named], sort_keys=True)
    if asked not in known.facts:
        known.facts[asked] = ask(plan, objects, known.runs)
    facts = known.facts[asked]
    batch = memory.judge_batch(plan.recipe, plan.placement)
    if isinstance(facts["version"], Refused):
        return [*reach.judge_reach(facts), *batch]
    config = memory.model_config(plan.recipe, facts["inside"])
    estimates = memory.estimates(plan.recipe, plan.placement, pod_sets(objects)[0], config, remembered_in(plan))
    return [*reach.judge_reach(facts), *judge(plan, objects, facts | {"estimates": estimates}), *batch]


def ask(plan: SimpleNamespace, objects: list[dict], beside_it: set[str]) -> dict:
    """What the cluster tells, without the pods of these runs; only that it does not answer, where it does not."""
    first = cluster_facts.reach(plan.cluster)
    if isinstance(first["version"], Refused):
        return first
    with ThreadPoolExecutor(1) as beside:  # counting a model takes as long as asking the cluster, and needs no answer
        config = memory.model_config(plan.recipe, Refused("not asked yet", 1))
        if config:  # what is counted is remembered
            asked = (plan.recipe, plan.placement, pod_sets(objects)[0])
            beside.submit(memory.estimates, *asked, config, remembered_in(plan))
        with connected(plan.cluster) as cluster:
            facts = cluster_facts.collect(cluster, objects, plan, first)
    facts["pushed"] = images.just_pushed()
    if not isinstance(facts["pods"], Refused):
        facts["pods"] = [pod for pod in facts["pods"] if fit.run_of(pod) not in beside_it]
    return facts | first


def remembered_in(plan: SimpleNamespace) -> Path:
    """The directory that remembers what models were counted to take."""
    return Path(plan.directory).parent / ".memory"


def judge(plan: SimpleNamespace, objects: list[dict], facts: dict) -> list[Answer]:
    """All answers of a cluster that is reachable, from what was gathered."""
    sets, namespace = pod_sets(objects), plan.cluster.namespace
    # Where the namespace is not there, nothing in it is, and that is said once.
    named = [] if is_missing(facts["namespace"]) else references.references(sets, objects)
    nodes = sets[0].count
    return [
        *rights.judge_rights(namespace, facts),
        *reach.judge_namespace(namespace, facts),
        *operators.judge_operators(plan.runtime, facts),
        *kueue.judge_kueue(find_job(objects), sets, namespace, facts),
        *admission.judge_admission(objects, sets, facts),
        *fit.judge_fit(sets, plan.run, facts, kueue.queue_of(find_job(objects))),
        *quota.judge_quota(sets, facts),
        *images.judge_images(sets, facts),
        *references.judge_references(named, namespace, facts),
        *references.judge_claims(named, nodes, facts),
        *references.judge_external(objects, facts),
        *judge_files(plan, facts),
        *memory.judge_memory(plan.recipe, plan.placement, sets[0], facts),
        *duration.judge_duration(plan.recipe, plan.placement, facts),
    ]


def judge_files(plan: SimpleNamespace, facts: dict) -> list[Answer]:
    """Where model and data are to come from: the bucket, or the store of the namespace."""
    if COMPONENT in plan.components:
        return bucket.judge_bucket(plan.placement, facts)
    return store.judge_store(plan.recipe, plan.cluster.namespace, facts)
