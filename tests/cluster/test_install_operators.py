"""`make operators` on a real cluster: the published manifests by dry runs from a folder, a small stand-in for real."""

import json
import lzma
import os
import subprocess
import sys

import pytest

from tests.cluster.teams import ROOT, image, kubectl, tried

pytestmark = pytest.mark.cluster

MANIFESTS = ROOT / os.environ.get("SHARED", "../shared") / "testbed" / "manifests"
SCRATCH = "ft-kops"


@pytest.fixture(scope="module")
def folder(cluster, tmp_path_factory):
    """The operators' manifests as a closed house has them."""
    packed = sorted(MANIFESTS.glob("*.json.xz"))
    if not packed:
        pytest.skip("the test equipment under SHARED is not here")
    place = tmp_path_factory.mktemp("operators")
    for path in packed:
        (place / path.name.removesuffix(".xz")).write_bytes(lzma.decompress(path.read_bytes()))
    return place


def operators(what: str, *words: str) -> subprocess.CompletedProcess:
    """A finished `python -m scripts.cluster.operators`."""
    command = [sys.executable, "-m", "scripts.cluster.operators", what, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_the_api_server_takes_the_manifests_as_they_are_arranged(folder):
    names = ["training", "mpi", "trainer", "kueue", "secrets"]
    done = operators("install", "--with", *names, "--operators-dir", folder, "--dry-run")
    assert done.returncode == 0, done.stderr
    told = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("checked")]
    assert told == [["checked", name] for name in ("jobset", *names)]


def test_an_operator_that_comes_later_mends_who_was_there(folder):
    configuration = tried("get", "configmap", "kueue-manager-config", "--namespace", "kueue-system").returncode == 0
    done = operators("install", "--with", "training", "--operators-dir", folder, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert ("changed   kueue: looks after PyTorchJobs" in done.stdout) == configuration


def test_a_check_tells_what_is_there_and_what_is_missing(cluster):
    done = operators("check")
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if not line.startswith("clash")}
    assert list(lines) == ["training", "mpi", "trainer", "jobset", "kueue", "secrets", "nfs"]
    there = tried("get", "crd", "mpijobs.kubeflow.org").returncode == 0
    assert lines["mpi"].startswith("there" if there else "missing")


def test_what_is_used_or_needed_is_not_removed(folder):
    job = {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "kept", "namespace": SCRATCH},
        "spec": {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": {"Worker": {
            "replicas": 1, "template": {"spec": {"containers": [{"name": "pytorch", "image": image()}]}}}}},
    }  # fmt: skip
    kubectl("create", "namespace", SCRATCH)
    try:
        kubectl("create", "--filename", "-", given=json.dumps(job))
        done = operators("remove", "--with", "training", "jobset", "--operators-dir", folder, "--dry-run")
        assert done.returncode == 2
        assert "objects of its kind exist and would be deleted" in done.stderr
        assert "jobset: trainer needs it" in done.stderr
    finally:
        kubectl("delete", "namespace", SCRATCH)


def stand_in(version: str) -> dict:
    """A Deployment that passes for csi-driver-nfs's controller and does nothing."""
    labels = {"app": "csi-nfs-controller"}
    container = {"name": "nfs", "image": image(), "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
                 "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}  # fmt: skip
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    metadata = {"name": "csi-nfs-controller", "namespace": "kube-system",
                "labels": {"app.kubernetes.io/version": version}}  # fmt: skip
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def test_an_operator_is_installed_found_left_alone_when_newer_and_removed(cluster, tmp_path):
    if tried("get", "deployment", "csi-nfs-controller", "--namespace", "kube-system").returncode == 0:
        pytest.skip("the cluster has csi-driver-nfs")
    words = ["--with", "nfs", "--operators-dir", tmp_path]
    assert operators("check", "--with", "nfs").returncode == 1
    try:
        (tmp_path / "nfs.json").write_text(json.dumps(stand_in("3.1.0")))
        done = operators("install", *words)
        assert (done.returncode, "ready     nfs" in done.stdout) == (0, True), done.stderr
        old = operators("check", "--with", "nfs")
        assert (old.returncode, old.stdout.split()[:3]) == (1, ["too", "old", "nfs"])
        (tmp_path / "nfs.json").write_text(json.dumps(stand_in("4.14.0")))
        assert operators("install", *words).returncode == 0
        assert "newer" in operators("check", "--with", "nfs").stdout
        assert "left      nfs: 4.14.0 is newer than v4.13.4" in operators("install", *words).stdout
    finally:
        done = operators("remove", *words)
    assert done.returncode == 0, done.stderr
    assert tried("get", "deployment", "csi-nfs-controller", "--namespace", "kube-system").returncode == 1
