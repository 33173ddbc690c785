"""Every use case x runtime x placement component renders by kubectl alone, and what comes out is as the house wants it.

.venv/bin/python -m pytest tests/manifests/test_matrix_renders.py
"""

import shutil

import pytest
import yaml

from scripts.cluster.names import RUNTIMES
from scripts.cluster.placement import check_placement, read_placement
from scripts.pod_place import read_place
from tests.manifests.matrix import (
    OVERLAYS,
    PLACEMENT,
    ROOT,
    kustomize,
    placement_of,
    problems_of_placement,
    render,
    variants,
)
from tests.manifests.pod_security import pod_specs
from tests.manifests.rules import problems_of, template_labels
from train.processes import check_batch
from train.recipe import load_recipe

FOR_TESTS = {"LEADER", "PORT", "STORE"}  # what only tests set, who have no cluster and another store
EACH = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render(variants(), tmp_path_factory.mktemp("matrix"))


def test_the_matrix_is_of_eight_overlays_four_runtimes_and_all_components():
    chosen = variants()
    assert len(OVERLAYS) == 8
    assert {variant.overlay for variant in chosen} == {path.name for path in OVERLAYS}
    assert {variant.runtime for variant in chosen} == set(RUNTIMES)
    assert {name for variant in chosen for name in variant.components} == set(PLACEMENT)
    assert len(PLACEMENT) >= 15
    assert len(chosen) > 550


@EACH
def test_an_overlay_renders_as_it_stands(overlay):
    objects = kustomize(overlay)
    assert problems_of(objects) == []
    assert {one["metadata"]["namespace"] for one in objects} == {"finetune"}


@EACH
def test_an_overlays_placement_is_a_right_one_for_its_components(overlay):
    spec, lines = read_placement(overlay / "cluster.yaml")
    names = [path.split("/")[-1] for path in yaml.safe_load((overlay / "kustomization.yaml").read_text())["components"]]
    runtime = names[-1].removeprefix("runtime-")
    assert runtime in RUNTIMES
    assert check_placement(spec, names, runtime, overlay, lines) == []


@EACH
def test_the_rows_of_a_step_are_shared_out_evenly_over_any_number_of_nodes_that_is_allowed(overlay):
    spec, _ = read_placement(overlay / "cluster.yaml")
    recipe = load_recipe(overlay / "train.yaml")
    for nodes in range(spec["minNodes"], spec["nodes"] + 1):
        check_batch(recipe, nodes * spec["processesPerNode"], overlay)


@EACH
def test_a_placement_says_on_its_first_line_where_it_runs(overlay):
    first = (overlay / "cluster.yaml").read_text().split("\n")[0]
    assert first.startswith("# ")
    assert len(first) > 25


def test_every_placement_of_the_matrix_is_a_right_one():
    assert [problem for variant in variants() for problem in problems_of_placement(variant)] == []


def test_every_variant_renders_its_own_job(rendered):
    assert len(rendered) == len(variants())
    for variant, objects in rendered.items():
        assert RUNTIMES[variant.runtime][0] in {one["kind"] for one in objects}, str(variant)


def test_no_object_of_the_matrix_breaks_a_rule(rendered):
    broken = {str(variant): problems_of(objects) for variant, objects in rendered.items()}
    assert {variant: problems for variant, problems in broken.items() if problems} == {}


# ---- what each component does, whatever the runtime ----


def pods(objects):
    """The trainers' PodSpec of a run, and its job's labels."""
    for one in objects:
        roles = [labels["tunefleet.io/role"] for _, labels in template_labels(one)]
        for role, (_, pod) in zip(roles, pod_specs(one), strict=True):
            yield role, pod


def job_of(variant, objects):
    return next(one for one in objects if one["kind"] == RUNTIMES[variant.runtime][0])


def those_with(rendered, component):
    found = [(variant, objects) for variant, objects in rendered.items() if component in variant.components]
    assert {variant.runtime for variant, _ in found} == set(RUNTIMES)
    return found


def test_a_queue_and_a_priority_are_labels_of_the_job_itself(rendered):
    for variant, objects in those_with(rendered, "priority"):
        labels = job_of(variant, objects)["metadata"]["labels"]
        wanted = "finetune-normal" if variant.overlay == "argilla" else "finetune-high"
        assert labels["kueue.x-k8s.io/priority-class"] == wanted, str(variant)
        assert labels["kueue.x-k8s.io/queue-name"] == "finetune", str(variant)


@pytest.mark.parametrize(
    ("component", "holds"),
    [
        ("pull-secret", lambda pod: {"name": "image-pull"} in pod["imagePullSecrets"]),
        ("node-selection", lambda pod: pod["nodeSelector"] == {"example.com/zone": "north", "disk": "true"}),
        ("node-taint", lambda pod: {"key": "example.com/training", "operator": "Exists"} in pod["tolerations"]),
        ("node-amx", lambda pod: "cpu-cpuid.AMXBF16" in str(pod["affinity"])),
        ("node-avx512", lambda pod: "cpu-cpuid.AVX512BF16" in str(pod["affinity"])),
        ("gpu-nvidia", lambda pod: "nvidia.com/gpu" in {one["key"] for one in pod["tolerations"]}),
        ("gpu-amd", lambda pod: pod["securityContext"]["supplementalGroups"] == [44, 109]),
        ("proxy", lambda pod: {"name": "https_proxy", "value": "http://proxy:3128"} in pod["containers"][0]["env"]),
        ("metrics", lambda pod: {"name": "metrics", "containerPort": 9464} in pod["containers"][0]["ports"]),
        ("metrics", lambda pod: {"name": "METRICS_PORT", "value": "9464"} in pod["containers"][0]["env"]),
        ("image-intel", lambda pod: {"name": "CCL_WORKER_COUNT", "value": "1"} in pod["containers"][0]["env"]),
    ],
)
def test_a_component_reaches_every_pod_of_every_runtime(rendered, component, holds):
    for variant, objects in those_with(rendered, component):
        found = list(pods(objects))
        assert found
        assert all(holds(pod) for _, pod in found), str(variant)


def annotations(value, found):
    """The annotations of every pod template inside, into `found`."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}) and "kind" not in value:
            found.append(value["metadata"].get("annotations", {}))
        for inside in value.values():
            annotations(inside, found)
    elif isinstance(value, list):
        for inside in value:
            annotations(inside, found)
    return found


def test_prometheus_is_told_where_a_run_serves_its_metrics_and_otherwise_not_to_ask(rendered):
    for variant, objects in rendered.items():
        found = [one for one in annotations(objects, []) if one]  # an MPIJob's workers have none: nothing serves there
        scraped = "true" if {"metrics", "podmonitor"} & set(variant.components) else "false"
        assert [one["prometheus.io/scrape"] for one in found] == [scraped], str(variant)
        assert [one.get("prometheus.io/port") for one in found] == ["9464" if scraped == "true" else None]


def test_prometheus_may_reach_the_metrics_port_and_no_other(rendered):
    for variant, objects in those_with(rendered, "metrics"):
        (policy,) = [one for one in objects if one["kind"] == "NetworkPolicy"]
        among, scrape = policy["spec"]["ingress"]
        assert "ports" not in among and among["from"][0]["podSelector"]["matchLabels"] == {
            "tunefleet.io/run": variant.name
        }
        assert scrape["ports"] == [{"protocol": "TCP", "port": 9464}], str(variant)
        (namespace,) = scrape["from"]
        assert namespace == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def test_a_webhooks_address_comes_from_a_secret_and_the_run_may_reach_https_outside_the_house(rendered):
    for variant, objects in those_with(rendered, "webhook"):
        for _, pod in pods(objects):
            (variable,) = [one for one in pod["containers"][0]["env"] if one["name"] == "TUNEFLEET_WEBHOOK"]
            assert variable["valueFrom"] == {"secretKeyRef": {"name": "webhook", "key": "url"}}, str(variant)
        (policy,) = [one for one in objects if one["kind"] == "NetworkPolicy"]
        among, outside = policy["spec"]["egress"]
        assert "ports" not in among and outside["ports"] == [{"protocol": "TCP", "port": 443}]
        fetch = yaml.safe_load((ROOT / "k8s/namespace/networkpolicy-fetch.yaml").read_text())
        assert outside["to"] == fetch["spec"]["egress"][0]["to"], "the same places as a fetch reaches"


def test_a_podmonitor_selects_the_runs_pods_by_the_name_of_their_port(rendered):
    for variant, objects in those_with(rendered, "podmonitor"):
        (monitor,) = [one for one in objects if one["kind"] == "PodMonitor"]
        assert monitor["spec"]["selector"]["matchLabels"] == {"tunefleet.io/run": variant.name}
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        names = {port["name"] for _, pod in pods(objects) for port in pod["containers"][0]["ports"]}
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in names


def test_what_components_add_to_one_list_adds_up(rendered):
    for variant, objects in those_with(rendered, "node-taint"):
        for _, pod in pods(objects):
            keys = [one["key"] for one in pod["tolerations"]]
            assert keys[:2] == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"], str(variant)
            terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            names = [one["key"] for one in terms["nodeSelectorTerms"][0]["matchExpressions"]]
            assert len(names) == 1 + sum(name in variant.components for name in ("node-amx", "node-avx512"))


class Recorder(dict):
    """An environment that remembers which of its variables were asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


def test_every_variable_that_a_pods_program_reads_is_rendered_and_the_grace_is_the_pods_own(rendered):
    for variant, objects in rendered.items():
        for role, pod in pods(objects):
            variables = {one["name"]: one.get("value", "0") for one in pod["containers"][0]["env"]}
            environment = Recorder(variables)
            place = read_place(environment)
            missing = environment.asked - variables.keys() - FOR_TESTS
            assert "GRACE_SECONDS" in environment.asked and not missing, f"{variant} {role}: {missing}"
            assert place.grace == pod["terminationGracePeriodSeconds"] > place.seconds_to_save, str(variant)


def test_devices_are_for_trainers_and_not_for_the_launcher(rendered):
    for variant, objects in those_with(rendered, "gpu-nvidia"):
        if variant.runtime == "trainjob":
            assert "nvidia.com/gpu" in job_of(variant, objects)["spec"]["trainer"]["resourcesPerNode"]["limits"]
        for role, pod in pods(objects):
            assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == (role == "trainer"), str(
                variant
            )


def test_spread_pods_are_as_many_as_nodes_and_only_trainers_count(rendered):
    for variant, objects in those_with(rendered, "spread"):
        nodes = placement_of(variant)["nodes"]
        for _, pod in pods(objects):
            (constraint,) = pod["topologySpreadConstraints"]
            assert constraint["minDomains"] == nodes
            labels = constraint["labelSelector"]["matchLabels"]
            assert labels == {"tunefleet.io/run": variant.name, "tunefleet.io/role": "trainer"}


def test_the_intel_image_is_started_by_intel_mpi_and_no_other_is(rendered):
    for variant, objects in rendered.items():
        if variant.runtime == "mpijob":
            intel = "image-intel" in variant.components
            assert job_of(variant, objects)["spec"]["mpiImplementation"] == ("Intel" if intel else "OpenMPI")


def test_no_pod_of_a_run_gets_the_hubs_token(rendered):
    for variant, objects in those_with(rendered, "hub-token"):
        text = str([pod for _, pod in pods(objects)])
        assert "HF_TOKEN" not in text, str(variant)
        assert "hub-token" not in text, str(variant)
