"""k8s/ and what the options of a setup lay over it, rendered by kubectl and held against strict schemas; no cluster.

.venv/bin/python -m pytest tests/manifests/test_k8s.py
"""

import argparse
import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.cluster.cluster_runs import WITH_A_RUN
from scripts.cluster.deploy import BESIDE
from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import NAMESPACE, RUNTIMES
from scripts.cluster.placement_rules import RESERVED
from scripts.cluster.setup_options import COMPONENTS, IMPLIED, KEPT, OPTIONS, components, merge
from scripts.cluster.setup_render import render, render_source
from scripts.cluster.setup_state import deviations, surplus
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
NO_OBJECTS = ("kustomization.yaml", "versions.yaml", "rules.yaml")
FILES = sorted(path for path in K8S.rglob("*.yaml") if path.name not in NO_OBJECTS)
OBJECTS = [path for path in FILES if isinstance(yaml.safe_load(path.read_text()), dict)]
WHOLE_CLUSTER = {
    "Namespace", "ClusterRole", "ClusterRoleBinding", "StorageClass", "ClusterQueue", "ResourceFlavor",
    "WorkloadPriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}  # fmt: skip
EVERYTHING = {
    "storage_size": "2Ti", "components": "usage kueue ipv6 deployer-secrets",
    "deployers": "group:ml user:anna serviceaccount:ci/deploy",
    "quota": "requests.cpu=512 requests.nvidia.com/gpu=32", "default_requests": "cpu=200m", "cluster_queue": "ml",
    "queue_quota": "cpu=512 memory=4Ti pods=1000 nvidia.com/gpu=32", "nfs": "nfs.example.org:/models",
    "dns": "10.96.0.10", "s3": "10.1.2.3:9000", "fetch_proxy": "10.1.2.4:3128", "fetch_mirror": "10.1.2.5:443",
    "webhook": "10.1.2.6:8443",
    "pull_secret": "image-pull", "token_from": "vault/hub/token", "token_server": "https://api.example.org:6443",
}  # fmt: skip


def given(**values: str) -> argparse.Namespace:
    """A command line with these options."""
    return argparse.Namespace(**(dict.fromkeys(OPTIONS, ()) | {name: value.split() for name, value in values.items()}))


def rendered(namespace: str, **values: str) -> dict[tuple[str, str], dict]:
    """What a setup with these options would apply, by kind and name."""
    options = merge(given(**values), None)
    things = render(Cluster("", namespace), options, options, "registry.example.org/tunefleet:cpu-1")
    assert len({(thing["kind"], thing["metadata"]["name"]) for thing in things}) == len(things)
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in things}


@pytest.fixture(scope="module")
def plain():
    """What `kubectl apply -k k8s` applies."""
    done = subprocess.run(["kubectl", "kustomize", K8S], capture_output=True, text=True, check=True)
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def full():
    """A setup that is told everything there is to tell."""
    assert set(EVERYTHING) == set(OPTIONS) - {"storage_class"}
    return rendered("team-b", **EVERYTHING)


# ---- files ----


def test_there_are_manifests_to_check():
    assert len(OBJECTS) > 25


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: str(path.relative_to(K8S)))
def test_a_file_holds_one_object_and_is_named_for_it(path):
    thing = yaml.safe_load(path.read_text())
    patch = "apiVersion" in thing and path.parent.parent.name == "nfs" and path.parent.name == "namespace"
    assert patch or path.stem == f"{thing['kind'].lower()}-{thing['metadata']['name']}"


def test_every_component_is_for_the_cluster_or_for_a_namespace_and_renders():
    for path in COMPONENTS.iterdir():
        halves = {half.name for half in path.iterdir()}
        assert halves <= {"cluster", "namespace", "source"}
        if path.name not in IMPLIED.values():
            values = {"queue_quota": "cpu=1"} if path.name == "kueue" else {}
            assert rendered("finetune", components=path.name, **values)


# ---- what is rendered ----


def check_schema(thing: dict) -> None:
    """The object is one that the API server takes, without a field that it does not know."""
    name = f"{thing['apiVersion'].replace('/', '_')}_{thing['kind']}.json"
    schema = json.loads((ROOT / "schemas" / "kubernetes" / name).read_text())
    jsonschema.Draft202012Validator(schema).validate(thing)


def test_everything_is_valid(plain, full):
    for thing in [*plain.values(), *full.values()]:
        check_schema(thing)


def test_only_what_is_of_a_namespace_names_one(plain, full):
    for namespace, things in ((NAMESPACE, plain), ("team-b", full)):
        for (kind, _), thing in things.items():
            assert thing["metadata"].get("namespace") == (None if kind in WHOLE_CLUSTER else namespace)
        assert ("Namespace", namespace) in things


def test_everything_can_be_told_from_a_runs_objects(plain, full):
    for thing in [*plain.values(), *full.values()]:
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "tunefleet"
        assert labels["app.kubernetes.io/component"] == "setup"


def test_the_namespace_enforces_restricted_in_a_pinned_version(plain):
    labels = plain["Namespace", "finetune"]["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert re.fullmatch(r"v1\.\d+", labels[f"pod-security.kubernetes.io/{mode}-version"])


def test_no_example_value_survives_the_options(full):
    text = json.dumps(list(full.values()))
    for example in ("nfs.invalid", "192.0.2.1", "cpu-000000000000", "tunefleet-deployers", "-finetune"):
        assert example not in text.replace("workloadpriorityclass", "").replace('"finetune-', ""), example


def test_each_option_reaches_its_object(full):
    assert full["PersistentVolumeClaim", "store"]["spec"]["storageClassName"] == "tunefleet-nfs"
    assert full["StorageClass", "tunefleet-nfs"]["parameters"]["server"] == "nfs.example.org"
    assert full["StorageClass", "tunefleet-nfs"]["parameters"]["share"] == "/models"
    assert full["ResourceQuota", "finetune"]["spec"]["hard"]["requests.nvidia.com/gpu"] == "32"
    assert full["LimitRange", "finetune"]["spec"]["limits"][0]["defaultRequest"] == {"cpu": "200m", "memory": "128Mi"}
    assert full["LocalQueue", "finetune"]["spec"]["clusterQueue"] == "ml"
    group = full["ClusterQueue", "ml"]["spec"]["resourceGroups"][0]
    assert group["coveredResources"] == ["cpu", "memory", "pods", "nvidia.com/gpu"]
    assert full["ServiceAccount", "trainer"]["imagePullSecrets"] == [{"name": "image-pull"}]
    for binding in (("RoleBinding", "deployer"), ("ClusterRoleBinding", "tunefleet-preflight-team-b")):
        assert [one["name"] for one in full[binding]["subjects"]] == ["ml", "anna", "deploy"]
    (rule,) = full["NetworkPolicy", "webhook"]["spec"]["egress"]
    assert (rule["to"][0]["ipBlock"]["cidr"], rule["ports"][0]["port"]) == ("10.1.2.6/32", 8443)
    kubernetes = full["SecretStore", "hub-token"]["spec"]["provider"]["kubernetes"]
    assert (kubernetes["remoteNamespace"], kubernetes["server"]["url"]) == ("vault", "https://api.example.org:6443")
    assert full["ExternalSecret", "hub-token"]["spec"]["data"][0]["remoteRef"] == {"key": "hub", "property": "token"}
    assert full["Deployment", "data-access"]["spec"]["template"]["spec"]["containers"][0]["image"].endswith("cpu-1")
    kept = json.loads(full["Namespace", "team-b"]["metadata"]["annotations"][KEPT])
    assert kept == EVERYTHING


def test_a_proxy_takes_the_place_of_the_open_world_and_a_mirror_comes_beside_it(full):
    ports = [rule["ports"][0]["port"] for rule in full["NetworkPolicy", "fetch"]["spec"]["egress"]]
    blocks = [one["ipBlock"]["cidr"] for rule in full["NetworkPolicy", "fetch"]["spec"]["egress"] for one in rule["to"]]
    assert ports == [3128, 443]
    assert blocks == ["10.1.2.4/32", "10.1.2.5/32"]


def test_the_consent_of_the_tokens_namespace_names_one_secret_and_one_reader():
    options = merge(given(token_from="vault/hub-ro/token"), None)
    things = {thing["kind"]: thing for thing in render_source(Cluster("", "team-b"), options)}
    assert {thing["metadata"]["namespace"] for thing in things.values()} == {"vault"}
    assert things["Role"]["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["hub-ro"],
                                       "verbs": ["get"]}]  # fmt: skip
    assert things["RoleBinding"]["roleRef"]["name"] == things["Role"]["metadata"]["name"] == "hub-token-team-b"
    assert things["RoleBinding"]["subjects"][0]["namespace"] == "team-b"


def test_priorities_and_queues_have_the_names_that_overlays_use():
    things = rendered("finetune", queue_quota="cpu=1")
    values = [things["WorkloadPriorityClass", f"finetune-{name}"]["value"] for name in ("high", "normal", "low")]
    assert values == sorted(values, reverse=True)
    assert {("ClusterQueue", "finetune"), ("LocalQueue", "finetune"), ("ResourceFlavor", "default-flavor")} <= set(
        things
    )


def kinds_of_runs() -> set[tuple[str, str]]:
    """API group and plural of every kind that kustomize/ brings into a cluster."""
    found = set()
    for path in sorted((ROOT / "kustomize").rglob("*.yaml")):
        thing = yaml.safe_load(path.read_text())
        if isinstance(thing, dict) and "apiVersion" in thing and path.stem.startswith(f"{thing['kind'].lower()}-"):
            word = thing["kind"].lower()
            plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
            found.add((thing["apiVersion"].rpartition("/")[0], plural))
    return found - {("", "podtemplates")}  # local: read by Kustomize and dropped


def test_whoever_deploys_may_write_every_kind_that_a_run_has(plain, full):
    kinds = kinds_of_runs()
    assert len(kinds) > 5
    for things, secrets in ((plain, False), (full, True)):
        rules = things["Role", "deployer"]["rules"]
        may = {(group, kind) for rule in rules if {"create", "patch", "delete"} <= set(rule["verbs"])
               for group in rule["apiGroups"] for kind in rule["resources"]}  # fmt: skip
        assert {("", "configmaps"), *kinds} - may == set()
        assert (("external-secrets.io", "externalsecrets") in may) == secrets


def test_no_run_may_take_the_name_of_what_a_setup_makes(full):
    taken = {name for kind, name in full if kind in ("NetworkPolicy", "Service", "ConfigMap", "Deployment")}
    assert taken > {"dns", "default-deny"}
    assert taken <= set(RESERVED)


def test_whoever_deploys_may_list_and_delete_all_that_undeploy_and_delete_run_take(plain):
    of_jobs = [f"{plural}.{path.split('/')[1]}" for _, _, plural, path in RUNTIMES.values()]
    may = {kind if group in ("", "networking.k8s.io") else f"{kind}.{group}"
           for rule in plain["Role", "deployer"]["rules"] if {"list", "delete"} <= set(rule["verbs"])
           for group in rule["apiGroups"] for kind in rule["resources"]}  # fmt: skip
    taken = {name.removesuffix(".networking.k8s.io") for name in (*WITH_A_RUN, *BESIDE, *of_jobs)}
    assert len(taken) > 7 and taken <= may


# ---- options ----


def test_all_that_is_wrong_with_the_options_is_said_at_once():
    wrong = given(quota="cpu=lots gpu", deployers="joe", s3="minio:9000", token_from="hub", nfs="server",
                  dns="kube-dns", webhook="hooks:443", components="kueu secret-external",
                  storage_size="big")  # fmt: skip
    with pytest.raises(InputError) as error:
        merge(wrong, None)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 11
    for words in ("--quota: cpu=lots: is no quantity", "--quota: gpu: has no amount", "--deployers: joe: names nobody",
                  "--s3: minio:9000: is no address with a port",
                  "--webhook: hooks:443: is no address with a port", "--token-from: hub: is no place of a token",
                  "--nfs: server: is no NFS share", "--dns: kube-dns: is no address",
                  "--components: kueu: is no component",
                  "--components: secret-external: needs its value", "--storage-size: big: is no size"):  # fmt: skip
        assert words in text


def test_what_was_told_once_is_kept_until_it_is_told_otherwise():
    namespace = {"metadata": {"annotations": {KEPT: json.dumps({"s3": "10.0.0.1:9000", "quota": "requests.cpu=4"})}}}
    assert merge(given(), namespace) == {"s3": "10.0.0.1:9000", "quota": "requests.cpu=4"}
    assert merge(given(s3="none", quota="requests.cpu=8"), namespace) == {"quota": "requests.cpu=8"}
    assert merge(given(), {"metadata": {}}) == {}


def test_components_follow_from_options():
    assert components({}) == ["usage", "kueue"]
    assert components({"components": "none", "s3": "10.0.0.1:9000"}) == ["s3"]


# ---- comparing ----


def test_quantities_are_compared_by_what_they_mean_and_defaults_of_the_server_are_welcome():
    wanted = {"kind": "Thing", "metadata": {}, "spec": {"cpu": "1000m", "memory": "1024Mi", "none": {}}}
    live = {"kind": "Thing", "metadata": {}, "spec": {"cpu": "1", "memory": "1Gi", "added": True}}
    assert deviations(wanted, live) == []
    live["spec"]["cpu"] = "2"
    assert deviations(wanted, live) == ["spec.cpu is 2, wanted 1000m"]
    live["spec"]["cpu"] = ["2"]
    assert deviations(wanted, live) == ['spec.cpu is ["2"], wanted 1000m']


def test_a_policy_with_more_than_is_wanted_differs_and_what_is_too_much_is_named():
    wanted = {"kind": "NetworkPolicy", "metadata": {}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    live = {"kind": "NetworkPolicy", "metadata": {}, "spec": {**wanted["spec"], "ingress": [{}]}}
    assert deviations(wanted, live) == ["spec.ingress is [{}], wanted not there"]
    assert surplus(wanted, live) == {"spec": {"ingress": None}}
    rule = {"ports": [{"port": 53}]}
    more = {"kind": "NetworkPolicy", "metadata": {}, "spec": {"egress": [rule, {}]}}
    assert deviations({**more, "spec": {"egress": [rule]}}, more) == ["spec.egress has [{}] too much"]
