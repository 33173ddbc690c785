"""What the network of a team's namespace lets through, tried between real pods; and whom the hub's token reaches.

Needs a cluster whose network enforces NetworkPolicies.
"""

import base64
import json
import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import yaml

from tests.cluster.teams import (
    ROOT,
    end_team,
    eventually,
    image,
    kubectl,
    make_team,
    pod,
    reached,
    setup,
    tried,
)

pytestmark = pytest.mark.cluster

TEAM, OTHER, SOURCE = "ft-knet", "ft-knet-other", "ft-knet-token"
WORLD = "203.0.113.7"  # kept for documentation: nobody's address, and not a private one
# pod: namespace, labels
PODS = {
    "rank-0": (TEAM, {"tunefleet.io/run": "run-a", "tunefleet.io/role": "trainer"}),
    "rank-1": (TEAM, {"tunefleet.io/run": "run-a", "tunefleet.io/role": "trainer"}),
    "neighbour": (TEAM, {"tunefleet.io/run": "run-b", "tunefleet.io/role": "trainer"}),
    "stranger": (TEAM, {}),
    "fetch": (TEAM, {"tunefleet.io/role": "fetch"}),
    "foreigner": (OTHER, {}),
    "foreigner-2": (OTHER, {"tunefleet.io/run": "run-a"}),
}
INSIDE = ("rank-0", "rank-1", "neighbour", "stranger", "fetch")


def policy_of_run(run: str) -> dict:
    """The policy that every run brings, from kustomize/base, as deploy fills it in."""
    text = (ROOT / "kustomize/base/networkpolicy-run.yaml").read_text()
    return yaml.safe_load(text.replace("PARAM", run))


@pytest.fixture(scope="module")
def team(cluster):
    """A team's namespace, one without any policy beside it, and pods in both on two nodes; their addresses."""
    try:
        make_team(TEAM)
        labels = {"kubernetes.io/metadata.name": OTHER, "pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER, "labels": labels}}
        things = [namespace, *(policy_of_run(run) | {} for run in ("run-a", "run-b"))]
        for thing in things[1:]:
            thing["metadata"]["namespace"] = TEAM
        nodes = json.loads(kubectl("get", "pods", "-n", TEAM, "-l", "tunefleet.io/role=data-access", "-o", "json"))[
            "items"
        ]
        first = nodes[0]["spec"]["nodeName"]
        for name, (place, marks) in PODS.items():
            # rank-0 sits where it must, the others where the scheduler likes: both ways over the wire are tried
            things.append(pod(name, place, marks, first if name == "rank-0" else ""))
        kubectl("apply", "--filename", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))
        for place in (TEAM, OTHER):
            kubectl("wait", "--for=condition=Ready", "pods", "--all", "--namespace", place, "--timeout=120s")
        yield SimpleNamespace(address={name: address_of(name) for name in PODS})
    finally:
        end_team(TEAM)
        tried("delete", "namespace", OTHER, SOURCE, "--ignore-not-found", "--timeout=120s")


def address_of(name: str) -> str:
    return kubectl("get", "pod", name, "--namespace", PODS[name][0], "--output", "jsonpath={.status.podIP}")


def everything(team, *names: str) -> list[tuple[str, int]]:
    """All ports of these pods but that of names, which is open to any private address."""
    return [(team.address[name], port) for name in names for port in (8080, 29500, 443)]


def meets(team, name: str, *others: str) -> set[str]:
    """Those of the pods that answer on some port."""
    names = {team.address[other]: other for other in others}
    return {names[address] for address, _ in reached(PODS[name][0], name, everything(team, *others))}


def test_pods_of_one_run_meet_on_every_port_and_nobody_else(team):
    others = [name for name in PODS if name != "rank-0"]
    wanted = set(everything(team, "rank-1"))
    eventually(lambda: reached(TEAM, "rank-0", everything(team, *others)), wanted)
    eventually(lambda: meets(team, "rank-1", "rank-0", "neighbour", "stranger", "fetch", "foreigner"), {"rank-0"})


def test_another_run_and_a_stranger_of_the_same_namespace_reach_nobody(team):
    for name in ("neighbour", "stranger"):
        others = [other for other in PODS if other != name]
        eventually(lambda name=name, others=others: meets(team, name, *others), set())


def test_a_pod_of_another_namespace_reaches_nobody_even_with_the_labels_of_the_run(team):
    eventually(lambda: meets(team, "foreigner", *INSIDE), set())
    eventually(lambda: meets(team, "foreigner-2", *INSIDE), set())
    assert meets(team, "foreigner", "foreigner-2") == {"foreigner-2"}, "or nothing listens, and all this proves nothing"


def test_names_are_resolved_for_every_pod(team):
    look = "import socket; print(socket.gethostbyname('kubernetes.default.svc'))"
    for name in ("rank-0", "stranger", "fetch"):
        assert kubectl("exec", "--namespace", TEAM, name, "--", "/opt/venv/bin/python", "-c", look).strip()


def test_where_the_servers_of_names_are_told_port_53_leads_to_them_alone(team):
    target = (team.address["foreigner"], 53)
    assert reached(TEAM, "rank-0", [target]) == {target}
    text = kubectl("exec", "--namespace", TEAM, "rank-0", "--", "cat", "/etc/resolv.conf")
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver")]
    slices = kubectl("get", "endpointslices", "--namespace", "kube-system", "-l", "kubernetes.io/service-name=kube-dns",
                     "--output", "jsonpath={.items[*].endpoints[*].addresses[*]}").split()  # fmt: skip
    make_team(TEAM, "--dns", " ".join([*servers, *slices]))
    eventually(lambda: reached(TEAM, "rank-0", [target]), set())
    look = "import socket; socket.gethostbyname('kubernetes.default.svc')"
    kubectl("exec", "--namespace", TEAM, "rank-0", "--", "/opt/venv/bin/python", "-c", look)
    make_team(TEAM, "--dns", "none")


def outside() -> list[tuple[str, int]]:
    """Addresses that listen outside: the API server, by its service and by its own address."""
    service = kubectl("get", "service", "kubernetes", "--namespace", "default", "-o", "jsonpath={.spec.clusterIP}")
    slices = json.loads(kubectl("get", "endpointslices", "--namespace", "default", "-o", "json"))["items"]
    own = [(address, entry["port"]) for part in slices for entry in part["ports"]
           for one in part["endpoints"] for address in one["addresses"]]  # fmt: skip
    nodes = json.loads(kubectl("get", "nodes", "-l", "!testbed.local/simulated", "-o", "json"))["items"]
    addresses = [one["address"] for node in nodes for one in node["status"]["addresses"] if one["type"] == "InternalIP"]
    return [(service, 443), *own, *((address, 10250) for address in addresses)]


def test_nothing_but_names_leaves(team):
    targets = outside()
    assert reached(OTHER, "foreigner", targets), "or nothing listens there"
    for name in ("rank-0", "stranger", "fetch"):
        assert reached(TEAM, name, targets) == set()
    assert reached(TEAM, "deploy/data-access", [*targets, *everything(team, *PODS)]) == set()


def test_data_access_is_closed(team):
    selector = ["--namespace", TEAM, "--selector", "tunefleet.io/role=data-access"]
    address = kubectl("get", "pods", *selector, "--output", "jsonpath={.items[0].status.podIP}")
    listen = ["kubectl", "exec", "--namespace", TEAM, "deploy/data-access", "--", "timeout", "60", "python", "-c",
              "import http.server; http.server.test(port=8080)"]  # fmt: skip
    listener = subprocess.Popen(listen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        knock = "import socket; socket.create_connection(('127.0.0.1', 8080), 2)"
        inside = ["exec", "--namespace", TEAM, "deploy/data-access", "--", "python", "-c", knock]
        eventually(lambda: tried(*inside).returncode, 0)
        for name in ("rank-0", "stranger", "fetch"):
            assert reached(TEAM, name, [(address, 8080)]) == set()
        assert reached(OTHER, "foreigner", [(address, 8080)]) == set()
    finally:
        listener.kill()


@pytest.fixture(scope="module")
def outer_world():
    """This machine plays the world: WORLD on ports 80 and 443, and 443 at its own address, for pods that come here."""
    bridge = subprocess.run(["ip", "-j", "addr", "show", "testbed0"], capture_output=True, text=True)
    if bridge.returncode or os.geteuid():
        pytest.skip("the world is played by the testbed's machine, as root")
    own = next(one["local"] for one in json.loads(bridge.stdout)[0]["addr_info"] if one["family"] == "inet")
    subprocess.run(["ip", "addr", "replace", f"{WORLD}/32", "dev", "lo"], check=True)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["ip", "addr", "del", f"{WORLD}/32", "dev", "lo"], check=True)
        for address, port in ((WORLD, 80), (WORLD, 443), (own, 443), (own, 8443)):
            listener = stack.enter_context(socket.create_server((address, port), backlog=64))
            threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield own


def accept(listener: socket.socket) -> None:
    """Take connections until the listener is closed."""
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_a_fetch_reaches_https_outside_and_nothing_in_the_house(team, outer_world):
    targets = [
        (WORLD, 443),
        (WORLD, 80),
        (outer_world, 443),
        (outer_world, 8443),
        *everything(team, "stranger", "foreigner"),
    ]
    assert {(WORLD, 443), (WORLD, 80), (outer_world, 443), (outer_world, 8443)} <= reached(OTHER, "foreigner", targets)
    eventually(lambda: reached(TEAM, "fetch", targets), {(WORLD, 443)})
    assert reached(TEAM, "rank-0", targets) == set()


def test_a_proxy_a_mirror_and_s3_are_opened_one_by_one(team, outer_world):
    targets = [(WORLD, 443), (WORLD, 80), (outer_world, 443), (outer_world, 8443)]
    make_team(TEAM, "--fetch-mirror", f"{outer_world}:8443", "--s3", f"{WORLD}:80")
    eventually(lambda: reached(TEAM, "fetch", targets), {(WORLD, 443), (WORLD, 80), (outer_world, 8443)})
    eventually(lambda: reached(TEAM, "rank-0", targets), {(WORLD, 80)})
    make_team(TEAM, "--fetch-mirror", "none", "--s3", "none", "--fetch-proxy", f"{outer_world}:8443")
    eventually(lambda: reached(TEAM, "fetch", targets), {(outer_world, 8443)})
    eventually(lambda: reached(TEAM, "rank-0", targets), set())
    make_team(TEAM, "--fetch-proxy", "none")


def test_check_tells_whether_policies_are_enforced(team):
    done = setup("check", TEAM, "--image", image(), "--probe")
    assert (done.returncode, "as wanted NetworkPolicies are enforced" in done.stdout) == (0, True), done.stdout


# ---- the hub's token ----


@pytest.fixture(scope="module")
def token(team):
    """A token in a namespace of its own, brought by External Secrets."""
    if tried("get", "crd", "externalsecrets.external-secrets.io").returncode:
        pytest.skip("the cluster has no External Secrets")
    kubectl("create", "namespace", SOURCE)
    kubectl("create", "secret", "generic", "hub", "--from-literal=token=hf_secret", "--namespace", SOURCE)
    server = kubectl("config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}")
    make_team(TEAM, "--token-from", f"{SOURCE}/hub/token", "--token-server", server)


def test_a_token_comes_from_another_namespace(token):
    words = ["get", "secret", "hub-token", "--namespace", TEAM, "--output", "jsonpath={.data.HF_TOKEN}"]
    eventually(lambda: base64.b64decode(tried(*words).stdout), b"hf_secret", 60)


def test_the_reader_of_the_token_may_read_that_one_secret_and_nothing_else(token):
    reader = f"--as=system:serviceaccount:{TEAM}:hub-token-reader"
    assert tried("auth", "can-i", "get", "secret/hub", "--namespace", SOURCE, reader).returncode == 0
    for words in (["get", "secret/other"], ["list", "secrets"], ["update", "secret/hub"]):
        assert tried("auth", "can-i", *words, "--namespace", SOURCE, reader).returncode == 1
    assert tried("auth", "can-i", "get", "secret/hub-token", "--namespace", TEAM, reader).returncode == 1


def with_token(way: str, role: str) -> dict:
    """A pod that takes the Secret in one of the ways there are."""
    thing = pod("taker", TEAM, {"tunefleet.io/role": role})
    container = thing["spec"]["containers"][0]
    if way == "variable":
        reference = {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}
        container["env"] = [{"name": "HF_TOKEN", "valueFrom": reference}]
    elif way == "all variables":
        container["envFrom"] = [{"secretRef": {"name": "hub-token"}}]
    elif way == "first container":
        first = {**container, "name": "first", "envFrom": [{"secretRef": {"name": "hub-token"}}]}
        thing["spec"]["initContainers"] = [first]
    elif way == "volume":
        thing["spec"]["volumes"] = [{"name": "token", "secret": {"secretName": "hub-token"}}]
    elif way == "projected volume":
        source = {"secret": {"name": "hub-token"}}
        thing["spec"]["volumes"] = [{"name": "token", "projected": {"sources": [source]}}]
    return thing


@pytest.mark.parametrize("way", ["variable", "all variables", "first container", "volume", "projected volume"])
def test_the_token_reaches_a_fetch_and_no_other_pod(team, way):
    words = ["create", "--dry-run=server", "--filename", "-"]
    assert tried(*words, given=json.dumps(with_token(way, "fetch"))).returncode == 0
    for role in ("trainer", "data-access"):
        refused = tried(*words, given=json.dumps(with_token(way, role)))
        assert refused.returncode, role
        assert "is for pods with the label tunefleet.io/role=fetch only" in refused.stderr
