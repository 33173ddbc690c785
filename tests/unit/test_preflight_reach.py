"""No cluster, and clusters that are too old: what kubectl said, and the words that the preflight makes of it.

.venv/bin/python -m pytest tests/unit/test_preflight_reach.py
"""

import re
from pathlib import Path

import pytest
from preflight_cases import plan, refused, rendered

from scripts.cluster.checks import everything, reach
from scripts.cluster.checks import facts as cluster_facts
from scripts.cluster.kubectl import Cluster

DOCS = sorted((Path(__file__).resolve().parents[2] / "docs").rglob("*.md"))
NEW = {"gitVersion": "v1.34.4"}
# Recorded: what kubectl 1.34 says, and the answer.
TROUBLES = {
    "no kubeconfig": (
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
        "kubectl knows no cluster: no kubeconfig was found",
        "set KUBECONFIG, or put the file at ~/.kube/config",
    ),
    "no such context": (
        'error: context "prod" does not exist',
        "there is no such context",
        "`kubectl config get-contexts` lists them: CONTEXT=…",
    ),
    "nothing listens": (
        "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
        "nothing listens at the API server's address",
        "start the cluster, or correct the address in the kubeconfig",
    ),
    "wrong certificate": (
        "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown "
        "authority",
        "the server's certificate is not that of the kubeconfig's cluster",
        "fetch the kubeconfig again, or correct its server address",
    ),
    "expired login": (
        "error: You must be logged in to the server (Unauthorized)",
        "the cluster does not know this login, or it has expired",
        "log in again, or fetch a new kubeconfig",
    ),
    "login program failed": (
        "Unable to connect to the server: getting credentials: exec: executable cloud-login failed with exit code 1",
        "the kubeconfig's login program failed",
        "log in again, or fetch a new kubeconfig",
    ),
    "unknown name": (
        "Unable to connect to the server: dial tcp: lookup api.example on 10.0.0.2:53: no such host",
        "the API server's name is not known here",
        "check the network (VPN, firewall) and the address in the kubeconfig",
    ),
    "no answer": (
        "kubectl get: no answer within 20 s",
        "the API server does not answer in time",
        "check the network (VPN, firewall) and the address in the kubeconfig",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_cluster_that_does_not_answer_is_told_apart_by_why(name: str):
    said, what, fix = TROUBLES[name]
    answer = reach.judge_reach({"version": refused(said), "client": NEW})[0]
    expected = f"failed   is the cluster reachable: {what} (kubectl says: {said})\n         fix: {fix}"
    assert str(answer) == expected


def test_an_old_cluster_and_an_old_kubectl_are_told():
    said = [
        str(one)
        for one in reach.judge_reach({"version": {"gitVersion": "v1.26.3"}, "client": {"gitVersion": "v1.20.2"}})
    ]
    assert said[1] == (
        "failed   is kubectl new enough: it is v1.20.2, and 1.31 or later is needed\n"
        "         fix: install kubectl 1.31 or later"
    )
    assert said[2] == (
        "failed   is Kubernetes new enough: it is v1.26.3, and 1.30 or later is needed\n"
        "         fix: have the cluster upgraded: what is used here needs Kubernetes 1.30 or later"
    )


def test_a_cluster_that_does_not_answer_is_asked_nothing_more(monkeypatch):
    monkeypatch.setattr(cluster_facts, "client_version", lambda cluster: NEW)
    asked = []

    def raw(self, path, seconds=0):
        asked.append(path)
        raise refused("connection refused")

    monkeypatch.setattr(Cluster, "raw", raw)
    said = everything.check(plan(), rendered())
    assert asked == ["version"]
    assert [answer.status for answer in said] == ["failed", "passed", "passed"]


def test_the_docs_name_the_least_kubernetes_that_the_preflight_asks_for():
    said = re.findall(r"Kubernetes (\d+)\.(\d+) or later", "".join(path.read_text() for path in DOCS))
    assert said and {(int(major), int(minor)) for major, minor in said} == {reach.SERVER}
