"""Where pods find a place: spread, zones, taints, affinity, GPUs, what runs already; and quantities.

.venv/bin/python -m pytest tests/unit/test_preflight_fit.py
"""

import time
from fractions import Fraction

import pytest
from preflight_cases import RUN, good_facts, node, rendered, running

from scripts.cluster.checks.fit import judge_fit
from scripts.cluster.checks.quantity import number, several, words
from scripts.cluster.checks.scheduling import expression_matches, label_objection, tolerates
from scripts.cluster.checks.shapes import pod_sets, requests


def fit(objects: list[dict], nodes: list[dict], pods: list[dict] = ()) -> str:
    """The one line that is said of these pods on these nodes."""
    (answer,) = judge_fit(pod_sets(objects), RUN, good_facts(objects, nodes=nodes, pods=list(pods)))
    return f"{answer.status}: {answer.found}"


def without_spread(objects: list[dict]) -> list[dict]:
    """The same pods, that may share a node."""
    del objects[0]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    return objects


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("500m", Fraction(1, 2)), ("64Gi", 64 * 2**30), ("1e3", 1000), ("1.5G", 1_500_000_000), ("0", 0),
     ("24673844Ki", 24673844 * 1024), ("100u", Fraction(1, 10000)), (".5", Fraction(1, 2)), ("2E", 2 * 10**18)],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, value: Fraction):
    assert number(text) == value


def test_an_amount_is_told_in_the_unit_a_person_expects():
    assert words("cpu", Fraction(1, 10)) == "0.1 cpu"
    assert several({"memory": Fraction(3 * 2**29), "nvidia.com/gpu": Fraction(8)}) == "1.5 GiB memory, 8 nvidia.com/gpu"


def test_a_pod_asks_for_its_containers_or_its_greatest_init_container():
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"limits": {"cpu": "2"}}}],
        "initContainers": [
            {"resources": {"requests": {"cpu": "5"}}},
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
        ],
        "overhead": {"cpu": "250m"},
    }
    assert requests(spec) == {"cpu": Fraction("5.25"), "pods": 1}


def test_pods_that_may_share_a_node_do_where_there_is_but_one():
    assert fit(without_spread(rendered()), [node("n1")]).endswith("2 on n1")


def test_pods_that_may_share_a_node_are_still_put_on_two():
    assert fit(without_spread(rendered()), [node("n1"), node("n2")]).endswith("1 on n1, 1 on n2")


def test_a_spread_counts_an_empty_node_that_may_not_be_used_unless_taints_are_honoured():
    objects, tainted = rendered(nodes=4), node("n3", taints=[{"key": "k", "effect": "NoSchedule"}])
    spread = objects[0]["spec"]["template"]["spec"]["topologySpreadConstraints"][0]
    spread["minDomains"] = 1
    nodes = [node("n1"), node("n2"), tainted]
    assert fit(objects, nodes).endswith("2 on n1, 2 on n2")
    spread["nodeTaintsPolicy"] = "Ignore"
    assert fit(objects, nodes).startswith("failed: 2 of 4 trainer pods find a place")


def test_a_spread_over_zones_is_kept():
    objects = rendered(nodes=3)
    spread = objects[0]["spec"]["template"]["spec"]["topologySpreadConstraints"][0]
    spread |= {"topologyKey": "zone", "minDomains": 1}
    nodes = [
        node("a1", labels={"zone": "a"}),
        node("a2", labels={"zone": "a"}),
        node("b1", cpu="1", labels={"zone": "b"}),
    ]
    assert fit(objects, nodes).endswith("1 on a1, 1 on a2, 1 on b1")
    spread["maxSkew"] = 1
    objects[0]["spec"]["parallelism"] = 4
    assert fit(objects, nodes[:1] + nodes[2:]).startswith("failed: 3 of 4 trainer pods find a place")


def test_a_required_anti_affinity_puts_one_pod_on_a_node():
    objects = without_spread(rendered(nodes=3))
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"tunefleet.io/run": RUN}}}
    anti = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    objects[0]["spec"]["template"]["spec"]["affinity"] = {"podAntiAffinity": anti}
    assert fit(objects, [node("n1"), node("n2")]).startswith("failed: 2 of 3 trainer pods find a place")


def test_the_runs_own_pods_are_no_reason_why_it_would_not_fit():
    taken = [running("n1", "4", "1Gi", run=RUN), running("n2", "4", "1Gi", run=RUN)]
    assert fit(rendered(), [node("n1"), node("n2")], taken).startswith("passed")


def test_what_runs_on_every_node_is_counted_in_an_empty_cluster_too():
    taken = [running("n1", "3500m", "1Gi", owner="DaemonSet"), running("n2", "3500m", "1Gi", owner="DaemonSet")]
    assert fit(rendered(), [node("n1"), node("n2")], taken).endswith("never fits this cluster as it is")
    taken = [running("n1", "3500m", "1Gi"), running("n2", "3500m", "1Gi")]
    assert fit(rendered(), [node("n1"), node("n2")], taken).endswith("would fit an empty cluster, but not now")


def test_an_elastic_job_passes_as_soon_as_its_least_fits():
    objects = rendered("pytorchjob", nodes=3, least=1)
    said = fit(objects, [node("n1"), node("n2")])
    assert said.startswith("passed: 2 of 3 worker pods find a place")
    assert said.endswith("it begins with 2 and takes the others when there is room")


def test_a_launcher_needs_a_place_beside_the_workers():
    objects = rendered("mpijob", cpu="4")
    assert fit(objects, [node("n1"), node("n2")]).startswith("failed: 0 of 1 launcher pods find a place")
    assert fit(objects, [node("n1"), node("n2", cpu="5")]).startswith("passed")


def test_gpus_are_a_resource_like_others():
    objects = rendered(nodes=4)
    container = objects[0]["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = "8"
    nodes = [node(f"g{number}", allocatable={"nvidia.com/gpu": "8"}) for number in range(4)]
    assert fit(objects, nodes).endswith("1 on g0, 1 on g1, 1 on g2, 1 on g3")
    assert "is short of 4 nvidia.com/gpu (4 free of 4)" in fit(
        objects, [*nodes[:3], node("g3", allocatable={"nvidia.com/gpu": "4"})]
    )


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [({"operator": "Exists"}, True), ({"key": "k", "operator": "Exists"}, True), ({"key": "k", "value": "v"}, True),
     ({"key": "k", "value": "other"}, False), ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
     ({"key": "other", "operator": "Exists"}, False), ({}, False)],
)  # fmt: skip
def test_a_toleration_covers_a_taint_as_the_scheduler_says(toleration: dict, tolerated: bool):
    assert tolerates(toleration, {"key": "k", "value": "v", "effect": "NoSchedule"}) is tolerated


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [("In", ["a", "4"], True), ("NotIn", ["4"], False), ("NotIn", ["5"], True), ("Exists", [], True),
     ("DoesNotExist", [], False), ("Gt", ["3"], True), ("Lt", ["3"], False), ("Gt", ["x"], False)],
)  # fmt: skip
def test_an_expression_matches_labels_as_the_scheduler_says(operator: str, values: list[str], matches: bool):
    assert expression_matches({"key": "cores", "operator": operator, "values": values}, {"cores": "4"}) is matches


def test_a_node_selector_names_the_labels_that_are_lacking():
    spec = {"nodeSelector": {"pool": "training", "kubernetes.io/hostname": "n1"}, "containers": []}
    assert label_objection(node("n1"), spec) == "has no label pool=training"


def test_five_hundred_nodes_with_five_thousand_pods_are_judged_in_two_seconds():
    nodes = [node(f"n{number}", cpu="96", memory="512Gi") for number in range(500)]
    pods = [running(f"n{number % 500}", "4", "8Gi") for number in range(5000)]
    begun = time.process_time()
    assert fit(rendered(nodes=32, cpu="56"), nodes, pods).startswith("passed")
    said = fit(rendered(nodes=32, cpu="60"), nodes, pods)
    assert "n0 is short of 4 cpu (56 free of 96)" in said
    assert "497 nodes short too" in said
    assert time.process_time() - begun < 2
