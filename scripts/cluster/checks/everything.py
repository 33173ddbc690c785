"""All questions of the preflight, in the order in which a person would ask; `check` asks, `judge` only thinks."""

from concurrent.futures import ThreadPoolExecutor
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
from scripts.cluster.kubectl import Refused


def check(plan: SimpleNamespace, objects: list[dict]) -> list[Answer]:
    """Every answer, in the order in which a person would ask."""
    first = cluster_facts.reach(plan.cluster)
    batch = memory.judge_batch(plan.recipe, plan.placement)
    if isinstance(first["version"], Refused):
        return [*reach.judge_reach(first), *batch]
    cache = Path(plan.directory).parent / ".memory"
    trainer = pod_sets(objects)[0]
    with ThreadPoolExecutor(1) as beside:  # counting a model takes as long as asking the cluster, and needs no answer
        config = memory.model_config(plan.recipe, Refused("not asked yet", 1))
        asked = (plan.recipe, plan.placement, trainer)
        counting = beside.submit(memory.estimates, *asked, config, cache) if config else None
        facts = cluster_facts.collect(plan.cluster, objects, plan, first)
        facts["pushed"] = images.just_pushed()
        config = memory.model_config(plan.recipe, facts["inside"])
        facts["estimates"] = counting.result() if counting else memory.estimates(*asked, config, cache)
    return [*reach.judge_reach(first), *judge(plan, objects, facts), *batch]


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
