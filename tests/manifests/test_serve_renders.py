"""What serves a model renders by either server and from either store, and keeps every rule of a pod.

.venv/bin/python -m pytest tests/manifests/test_serve_renders.py
"""

import re
import shutil
from pathlib import Path

import pytest

from scripts.cluster import serve_plan
from scripts.cluster.kubectl import Cluster
from scripts.cluster.serve_plan import AWS, ENGINES, VLLM_IMAGE, Plan, check, resources
from tests.manifests import rules
from tests.manifests.matrix import kustomize

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
OWN = "registry.example.com/team/tunefleet:cpu-0123456789ab"
BUCKET = AWS | {"url": "s3://team/store"}
VERSIONED = re.compile(r".+:(cpu-[0-9a-f]{12}|v[0-9]+\.[0-9]+\.[0-9]+)")  # vLLM's tags are its releases'
RULES = [rule for rule in rules.SINGLE if rule not in (rules.images, rules.job_labels)]  # it is no run
VARIANTS = [(engine, store) for engine in ENGINES for store in ("claim", "bucket")]


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    """A function that renders what serves a run or a model."""
    build = serve_plan.BUILD.with_name(f"cluster-{tmp_path.name}")
    monkeypatch.setattr(serve_plan, "BUILD", build)

    def render(engine: str, store: str = "claim", run: str = "medical-1a2b3c4d", **more) -> dict[str, dict]:
        values = {"run": run, "image": OWN, "serverImage": VLLM_IMAGE, "resources": resources(13 << 30, engine)}
        values |= ({"s3": BUCKET} if store == "bucket" else {}) | more
        assert check(values, engine) == []
        path = f"runs/{run}" if not run.startswith("m-") else "models/owner/name/main"
        name = run if not run.startswith("m-") else "owner/name"
        plan = Plan(run, name, path, False, values, engine, build / f"serve-{run}", {})
        serve_plan.write(Cluster("", "team"), plan, "merged", f"make serve ON=cluster RUN={run}")
        objects = kustomize(plan.directory)
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}

    yield render
    shutil.rmtree(build, ignore_errors=True)


def pod_of(objects: dict[str, dict]) -> dict:
    return next(one for one in objects.values() if one["kind"] == "Deployment")["spec"]["template"]


@pytest.mark.parametrize(("engine", "store"), VARIANTS)
def test_it_keeps_every_rule_by_either_server_from_either_store(rendered, engine, store):
    objects = rendered(engine, store)
    assert sorted(objects) == ["Deployment/serve-medical-1a2b3c4d", "NetworkPolicy/serve-clients-medical-1a2b3c4d",
                               "NetworkPolicy/serve-medical-1a2b3c4d", "Service/serve-medical-1a2b3c4d"]  # fmt: skip
    every = list(objects.values())
    assert [problem for one in every for rule in RULES for problem in rule(one)] == []
    assert list(rules.references(every)) == []
    found = [what for one in every for what in rules.images(one)]
    assert all(VLLM_IMAGE in what for what in found), found  # a release's tag, which is no build of ours
    for container in [*pod_of(objects)["spec"].get("initContainers", []), *pod_of(objects)["spec"]["containers"]]:
        assert VERSIONED.fullmatch(container["image"])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {one["metadata"]["namespace"] for one in every} == {"team"}


@pytest.mark.parametrize("engine", ENGINES)
def test_one_pod_at_a_time_which_counts_only_when_the_model_is_loaded(rendered, engine):
    deployment = rendered(engine)["Deployment/serve-medical-1a2b3c4d"]
    assert deployment["spec"]["replicas"] == 1 and deployment["spec"]["strategy"] == {"type": "Recreate"}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] == 3600
    assert {"name": "store", "mountPath": "/store", "readOnly": True} in container["volumeMounts"]


def test_pods_with_the_label_reach_it_on_its_port_and_nothing_goes_out(rendered):
    objects = rendered("serve-transformers")
    name = {"tunefleet.io/serve": "medical-1a2b3c4d"}
    policy = objects["NetworkPolicy/serve-medical-1a2b3c4d"]["spec"]
    assert policy["podSelector"]["matchLabels"] == name and policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    allowed = {"podSelector": {"matchLabels": {"tunefleet.io/chat": "allowed"}}}
    ports = [{"protocol": "TCP", "port": 8000}]
    assert policy["ingress"] == [{"from": [allowed], "ports": ports}]
    clients = objects["NetworkPolicy/serve-clients-medical-1a2b3c4d"]["spec"]
    assert clients["podSelector"] == allowed["podSelector"] and clients["policyTypes"] == ["Egress"]
    assert clients["egress"] == [{"to": [{"podSelector": {"matchLabels": name}}], "ports": ports}]
    assert objects["Service/serve-medical-1a2b3c4d"]["spec"]["selector"] == name
    labels = pod_of(objects)["metadata"]["labels"]
    assert labels.items() >= name.items() and "tunefleet.io/run" not in labels, "or a run's policy would open it"


def test_the_keys_of_a_bucket_reach_the_container_that_brings_and_not_the_one_that_serves(rendered):
    pod = pod_of(rendered("serve-vllm", "bucket"))
    (bring,), (server,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert bring["image"] == OWN and bring["args"][-2:] == ["scripts.serve.bring", "runs/medical-1a2b3c4d"]
    assert {"name": "S3_URL", "value": "s3://team/store"} in bring["env"]
    assert not [one for one in server["env"] if one["name"].startswith(("AWS", "S3"))]
    assert pod["metadata"]["labels"]["tunefleet.io/role"] == "serve-s3"
    assert {"name": "store", "emptyDir": {"sizeLimit": "50Gi"}} in pod["spec"]["volumes"]


def test_what_is_served_is_told_to_either_server_in_its_own_words(rendered):
    def words(engine: str, run: str) -> list[str]:
        return pod_of(rendered(engine, run=run))["spec"]["containers"][0]["args"]

    assert words("serve-transformers", "demo-1")[-1] == "--run=demo-1"
    assert words("serve-transformers", "m-owner-name")[-2:] == [
        "--model=/store/models/owner/name/main",
        "--name=owner/name",
    ]
    assert words("serve-vllm", "demo-1")[-2:] == ["/store/runs/demo-1/merged", "--served-model-name=demo-1"]
    assert words("serve-vllm", "m-owner-name")[-2:] == [
        "/store/models/owner/name/main",
        "--served-model-name=owner/name",
    ]


def test_nodes_and_gpus_are_as_told(rendered):
    pod = pod_of(rendered("serve-vllm", nodeTaint="example.com/gpus", nodeSelector={"gpu": "h100"}))["spec"]
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert {"key": "example.com/gpus", "operator": "Exists"} in pod["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    asked = pod["containers"][0]["resources"]
    assert asked["limits"]["nvidia.com/gpu"] == asked["requests"]["nvidia.com/gpu"] == "1"
    assert asked["limits"]["memory"] == "25Gi"


def test_the_python_that_a_pod_is_told_to_run_is_there():
    root = Path(__file__).resolve().parents[2]
    for name in ("serve", "bring"):
        assert (root / "scripts" / "serve" / f"{name}.py").is_file()
