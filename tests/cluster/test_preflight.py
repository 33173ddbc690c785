"""Wrong situations made on a real cluster, in namespaces of their own, and what the preflight says of them.

.venv/bin/python -m pytest tests/cluster/test_preflight.py
"""

import json
import subprocess
import sys

import pytest

from scripts.cluster.checks.shapes import find_job, pod_sets
from tests.cluster.preflight_asks import BARE, TEAM, asked, login, said
from tests.cluster.teams import ROOT, end_team, image, kubectl, make_team, tried

pytestmark = pytest.mark.cluster

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
DENIED = "deploy-me-not"
MINE = f"serviceaccount:{TEAM}/deployer"


@pytest.fixture(scope="module", autouse=True)
def teams():
    """A namespace made ready as `make cluster-setup` makes it, and one with nothing in it."""
    make_team(TEAM, "--components", "usage kueue", "--deployers", MINE)
    kubectl("create", "namespace", BARE)
    kubectl("label", "namespace", BARE, RESTRICTED)
    for account in ("deployer", DENIED):
        tried("create", "serviceaccount", account, "--namespace", TEAM)
    yield
    kubectl("delete", "namespace", BARE, "--wait=false")
    end_team(TEAM)


def in_store(script: str) -> None:
    """Run a line of shell in the data-access pod, at the root of the store."""
    kubectl("exec", "--namespace", TEAM, "deploy/data-access", "--", "sh", "-c", script)


def bounded(kind: str, spec: dict) -> None:
    """Put a quota or a limit range called `tight` into the namespace."""
    found = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "tight", "namespace": TEAM}, "spec": spec}
    kubectl("apply", "--filename", "-", given=json.dumps(found))


@pytest.mark.parametrize("runtime", ["job", "pytorchjob", "mpijob", "trainjob"])
def test_nothing_fails_where_all_is_ready(runtime: str):
    answers = asked(TEAM, f"--runtime {runtime} --with spread queue-kueue --place nodes=1 queue=finetune")
    assert said(answers, "failed") == []
    assert len(said(answers, "passed")) >= 18


def test_the_program_says_it_as_json_and_by_its_exit_status():
    words = [
        sys.executable,
        "-m",
        "scripts.cluster.preflight",
        "--overlay",
        "demo",
        "--json",
        "--place",
        f"image={image()}",
        "resources.requests.cpu=100m",
    ]
    good = subprocess.run([*words, "--namespace", TEAM], capture_output=True, text=True, cwd=ROOT)
    assert good.returncode == 0, good.stdout
    statuses = {answer["status"] for answer in json.loads(good.stdout)}
    assert "passed" in statuses and statuses <= {"passed", "unknown"}
    bad = subprocess.run([*words, "--namespace", BARE], capture_output=True, text=True, cwd=ROOT)
    assert bad.returncode == 1
    wrong = subprocess.run([*words, "--set", "lora_rr=3"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2
    assert "lora_rr" in wrong.stderr


def test_a_namespace_with_nothing_in_it_is_told_all_that_lacks():
    answers = asked(BARE)
    assert said(answers, "failed") == [
        f'does admission let the pods in: trainer pods: pods "{pod_name(answers)}" is forbidden: error looking up '
        f'service account {BARE}/trainer: serviceaccount "trainer" not found',
        "is all there that the pods name: there is no ServiceAccount trainer",
        "is all there that the pods name: there is no PersistentVolumeClaim store",
    ]
    assert "what lies on the store: there is no Deployment data-access to look with" in said(answers, "unknown")


def pod_name(answers: list) -> str:
    """The name of the pod that was tried, as it stands in the refusal."""
    return next(answer.found for answer in answers if "trainer pods:" in answer.found).split('"')[1]


def test_a_namespace_that_is_not_there_is_told_once():
    answers = asked("ft-preflight-nowhere")
    assert said(answers, "failed") == [
        "is the namespace there: there is no namespace ft-preflight-nowhere",
    ]


def test_a_person_without_rights_is_told_which(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", login(tmp_path / "config", DENIED))
    answers = asked(TEAM)
    (lacking,) = said(answers, "failed")
    assert lacking.startswith(f"may I: not in namespace {TEAM}: create, get, list, watch, patch, delete ")
    for right in ("jobs.batch", "pods/log", "create pods/exec"):
        assert right in lacking
    assert any(
        line.startswith("does it fit on the nodes: the cluster's nodes may not be read")
        for line in said(answers, "unknown")
    )


def test_the_role_that_cluster_setup_makes_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", login(tmp_path / "config", "deployer"))
    for runtime in ("job", "trainjob"):
        answers = asked(TEAM, f"--runtime {runtime} --with queue-kueue --place queue=finetune")
        assert said(answers, "failed") == []
        assert [line for line in said(answers, "unknown") if "may not be read" in line] == []


def test_no_cluster_is_told_apart_by_why(tmp_path, monkeypatch):
    broken = {
        "kubectl knows no cluster: no kubeconfig was found": str(tmp_path / "not-there"),
        "nothing listens at the API server's address": login(tmp_path / "a", server="https://127.0.0.1:1"),
        "the server's certificate is not that of the kubeconfig's cluster": login(
            tmp_path / "b", **{"certificate-authority-data": None}
        ),
        "the API server's name is not known here": login(tmp_path / "c", server="https://nowhere.invalid:6443"),
    }
    expired = json.loads((tmp_path / "a").read_text())
    good = json.loads(kubectl("config", "view", "--raw", "--minify", "--output", "json"))
    expired["clusters"], expired["users"][0]["user"] = good["clusters"], {"token": "of-yesterday"}
    (tmp_path / "d").write_text(json.dumps(expired))
    broken["the cluster does not know this login, or it has expired"] = str(tmp_path / "d")
    for what, path in broken.items():
        monkeypatch.setenv("KUBECONFIG", path)
        (failed,) = said(asked(TEAM), "failed")
        assert failed.startswith(f"is the cluster reachable: {what} (kubectl says: ")


# What the make line says, and the answer that must come.
LINES = {
    "missing secret": ("--with pull-secret", "is all there that the pods name: there is no Secret image-pull"),
    "three nodes asked of two": (
        "--with spread --place nodes=3 minNodes=3 processesPerNode=1 resources.requests.cpu=100m --set "
        "per_device_train_batch_size=1 global_batch_size=24",
        "does it fit on the nodes: 2 of 3 trainer pods find a place (0.1 cpu, 256.0 MiB memory each)",
    ),
    "too large for any node": (
        "--place resources.requests.cpu=500 resources.limits.cpu=500",
        "does it fit on the nodes: 0 of 1 trainer pods find a place (500 cpu, 256.0 MiB memory each)",
    ),
    "too little memory": (
        "--place resources.requests.memory=512Mi resources.limits.memory=512Mi",
        "is the memory enough: a pod takes 2 x ",
    ),
    "image that no node has": (
        "--place image=localhost/tunefleet:cpu-aaaaaaaaaaaa",
        "is the image on the nodes: localhost/tunefleet:cpu-aaaaaaaaaaaa is missing on ",
    ),
    "no queue": (
        "--with queue-kueue --place queue=nowhere",
        f"is the queue there: there is no LocalQueue nowhere in {TEAM}",
    ),
    "no priority class": (
        "--with queue-kueue priority --place queue=finetune priority=nowhere",
        "is the queue's priority class there: there is no WorkloadPriorityClass nowhere",
    ),
    "more than the queue's quota": (
        "--with queue-kueue --place queue=finetune resources.requests.cpu=9000 resources.limits.cpu=9000",
        f"does the queue have the quota: ClusterQueue {TEAM}, flavour default-flavor: ",
    ),
    "missing model": (
        "--model models/bass",
        "is the model there: models/bass is not on the store (looked for models/bass); beside it lie ",
    ),
    "half a model": (
        "--model models/half",
        "is the model there: models/half has no *.safetensors; no tokenizer (it holds config.json)",
    ),
    "missing data": (
        "--data datasets/rows.jsonl",
        "is the data there: train_file datasets/rows.jsonl is not on the store (looked for datasets/rows.jsonl)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_asks_for_what_is_not_there_is_told(name: str):
    line, expected = LINES[name]
    in_store('mkdir -p models/half && echo \'{"model_type": "llama"}\' > models/half/config.json')
    failed = said(asked(TEAM, line), "failed")
    assert [answer for answer in failed if answer.startswith(expected)], failed


def test_a_quota_that_is_short_is_told_for_one_pod_and_for_all():
    bounded("ResourceQuota", {"hard": {"requests.cpu": "120m"}})
    try:
        failed = said(asked(TEAM), "failed")
    finally:
        kubectl("delete", "resourcequota", "tight", "--namespace", TEAM)
    assert [answer for answer in failed if "exceeded quota: tight" in answer], failed
    assert [answer for answer in failed if "tight: 0.03 requests.cpu short (asked 0.1, 0.05 of 0.12 used)" in answer], (
        failed
    )


def test_a_limit_range_is_told_in_its_own_words():
    bounded("LimitRange", {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]})
    try:
        failed = said(asked(TEAM), "failed")
    finally:
        kubectl("delete", "limitrange", "tight", "--namespace", TEAM)
    assert [answer for answer in failed if "maximum cpu usage per Container is 500m" in answer], failed


def test_a_pod_against_the_namespaces_pod_security_is_told_before_its_job_is_made():
    def outside(objects: list[dict]) -> None:
        pod_sets(objects)[0].spec["hostNetwork"] = True

    (failed,) = said(asked(TEAM, change=outside), "failed")
    assert failed.startswith("does admission let the pods in: trainer pods: pods ")
    assert 'violates PodSecurity "restricted:' in failed
    assert "host namespaces (hostNetwork=true)" in failed


def test_a_field_that_the_operator_does_not_know_is_told():
    def newer(objects: list[dict]) -> None:
        find_job(objects)["spec"]["elasticPolicy"]["fromTomorrow"] = 1

    (failed,) = said(asked(TEAM, "--runtime pytorchjob", newer), "failed")
    assert failed.startswith("does admission let the objects in: PyTorchJob demo-")
    assert failed.endswith('unknown field "spec.elasticPolicy.fromTomorrow"')


def test_a_measured_run_tells_how_long_the_next_will_take():
    record = {"name": "demo-before", "training": {"tokens_per_second": 1000.0, "processes": 2}, "layout": {}}
    check = {"tokens": {"train": {"total": 120_000}}, "rows": {"train": {"kept": 2000}}}
    from train.recipe import load_recipe

    record["recipe"] = vars(load_recipe(ROOT / "kustomize/overlays/demo/train.yaml"))
    in_store(f"mkdir -p runs/demo-before/data && echo '{json.dumps(check)}' > runs/demo-before/data/data_check.json")
    kubectl("exec", "--stdin", "--namespace", TEAM, "deploy/data-access", "--", "sh", "-c",
            "cat > runs/demo-before/run.json", given=json.dumps(record))  # fmt: skip
    passed = said(asked(TEAM), "passed")
    # A volume that was used before may hold other runs that are as near; they say the same in other figures.
    expected = "how long will it take: about "
    assert [answer for answer in passed if answer.startswith(expected)], passed


def test_a_store_that_nobody_can_look_at_is_unknown():
    kubectl("scale", "deployment", "data-access", "--replicas=0", "--namespace", TEAM)
    kubectl(
        "wait", "pod", "--selector=tunefleet.io/role=data-access", "--for=delete", "--namespace", TEAM, "--timeout=60s"
    )
    try:
        answers = asked(TEAM, "--model models/half")
    finally:
        kubectl("scale", "deployment", "data-access", "--replicas=1", "--namespace", TEAM)
        kubectl("rollout", "status", "deployment", "data-access", "--namespace", TEAM, "--timeout=90s")
    assert said(answers, "failed") == []
    assert "what lies on the store: data-access does not run, so nobody can look" in said(answers, "unknown")
