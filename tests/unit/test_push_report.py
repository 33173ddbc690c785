"""What is said of nodes after a push, what a node is found to be, and how ssh is called: no node, no ssh.

.venv/bin/python -m pytest tests/unit/test_push_report.py
"""

import base64
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.tunefleet.nodes.plugins.module_utils import archive, runtimes
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import NodeError
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.outcome import outcome
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.table import table

ROOT = Path(__file__).resolve().parents[2]
LOOK = {"runtime": "containerd", "version": "2.1", "bytes": 10**7, "pins": True, "has": False}
CUT = {"done": False, "received": 1, "seconds": 1.0, "problem": "cut"}


def result(stage: str, check: bool = False, **steps: dict) -> dict:
    return outcome("node1", steps, list(steps), stage, check)


def test_a_node_that_got_the_image_has_it():
    travelled = {"nodes": {"node1": {"done": True, "received": 5, "seconds": 2.0, "problem": ""}}}
    row = result("push", look=LOOK, spread=travelled, imported={"has": True, "seconds": 1.0})
    assert (row["result"], row["received"], row["seconds"], row["runtime"]) == ("has it", 5, 3.0, "containerd 2.1")


def test_a_node_that_had_the_image_says_so_and_a_check_says_what_would_be():
    assert result("push", look={**LOOK, "has": True})["result"] == "had it"
    assert result("push", check=True, look=LOOK)["result"] == "would get it"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({}, "never reached"),
        ({"look": {"unreachable": True, "msg": "Permission denied"}}, "ssh does not reach it: Permission denied"),
        ({"look": {"problem": "full\n  fix: free it"}}, "full\n  fix: free it"),
        ({"look": LOOK, "spread": {"nodes": {"node1": CUT}}}, "cut"),
        ({"look": LOOK, "spread": {"nodes": {}}}, "push again"),
    ],
)  # fmt: skip
def test_a_node_without_the_image_has_failed_and_a_reason(steps, words):
    row = result("push", **steps)
    assert row["result"] == "failed"
    assert words in row["problem"]


def test_a_row_of_the_table_names_the_digest_only_where_it_was_seen():
    digest = "sha256:" + "a" * 64
    rows = {"node1": result("push", look={**LOOK, "has": True}), "longer": result("push")}
    heading, one, longer = table(rows, "push", digest)
    assert heading.split()[:2] == ["node", "runtime"]
    assert digest[:19] in one
    assert "none" in longer
    assert heading.index("result") == one.index("had it") == longer.index("failed")


# ---- the runtime ----


@pytest.mark.parametrize(
    ("words", "endpoint"),
    [
        (["kubelet", "--container-runtime-endpoint=unix:///run/x.sock"], "unix:///run/x.sock"),
        (["kubelet", "--container-runtime-endpoint", "unix:///run/x.sock"], "unix:///run/x.sock"),
        (["kubelet"], "unix:///run/containerd/containerd.sock"),
        (["kubelet", "--config=/there/is/none"], "unix:///run/containerd/containerd.sock"),
    ],
)
def test_the_kubelets_line_says_its_runtime(words, endpoint):
    assert runtimes.endpoint_in(words) == endpoint


@pytest.mark.parametrize("flag", ["--config={}", "--config {}"])
def test_the_kubelets_file_says_its_runtime(tmp_path, flag):
    config = tmp_path / "kubelet.yaml"
    config.write_text('kind: KubeletConfiguration\ncontainerRuntimeEndpoint: "unix:///var/run/crio/crio.sock"\n')
    assert runtimes.endpoint_in(["kubelet", *flag.format(config).split()]) == "unix:///var/run/crio/crio.sock"


@pytest.fixture
def node(monkeypatch, tmp_path):
    """A node with some programs, some of whose sockets answer."""

    def make(*programs: str, answering=(), kubelet="") -> str:
        sockets = {kind: str(tmp_path / f"{kind}.sock") for kind in ("k3s", "rke2", "containerd", "crio", "docker")}
        for kind in answering:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(sockets[kind])
            listener.listen()
            monkeypatch.setattr(runtimes, f"kept_{kind}", listener, raising=False)
        monkeypatch.setattr(runtimes, "SOCKETS", sockets)
        monkeypatch.setattr(runtimes, "find", lambda program: f"/bin/{program}" if program in programs else None)
        monkeypatch.setattr(runtimes, "kubelet_endpoint", lambda: kubelet)
        return runtimes.detect()

    return make


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("unix:///run/containerd/containerd.sock", "containerd"),  # the end of this one is also the end of k3s's
        ("/var/run/containerd/containerd.sock", "containerd"),
        ("unix:///run/k3s/containerd/containerd.sock", "k3s"),
        ("unix:///var/run/crio/crio.sock", "crio"),
        ("unix:///run/crio/crio.sock", "crio"),
        ("unix:///run/cri-dockerd.sock", "docker"),
    ],
)
def test_what_the_kubelet_uses_decides(monkeypatch, endpoint, kind):
    monkeypatch.setattr(runtimes, "kubelet_endpoint", lambda: endpoint)
    monkeypatch.setattr(runtimes.os.path, "isdir", lambda path: False)
    assert runtimes.detect() == kind


def test_a_kubelet_with_a_runtime_nobody_knows_is_named(monkeypatch):
    monkeypatch.setattr(runtimes, "kubelet_endpoint", lambda: "unix:///run/other.sock")
    with pytest.raises(NodeError, match=r"the kubelet talks to a runtime at unix:///run/other\.sock"):
        runtimes.detect()


def test_docker_goes_before_the_containerd_it_brings_and_containerd_before_a_silent_docker(node):
    assert node("docker", "ctr", answering=["containerd", "docker"]) == "docker"


def test_a_docker_client_beside_containerd_means_nothing(node):
    assert node("docker", "ctr", "podman", answering=["containerd"]) == "containerd"


def test_podman_is_used_where_there_is_nothing_else(node):
    assert node("podman") == "podman"


def test_runtimes_that_are_there_and_silent_are_all_named(node):
    with pytest.raises(NodeError, match=r"no container runtime answers \(tried docker at .* and containerd at"):
        node("docker", "ctr", "containerd", "podman")


def test_a_node_without_any_runtime_is_told_so(node):
    with pytest.raises(NodeError, match="there is no container runtime"):
        node()


# ---- the archive ----


def image_of(*layers: bytes) -> dict:
    config, manifest = b"{}", b"{ }"
    told = [{"digest": archive.sha256(data), "size": len(data), "media_type": "tar+gzip"} for data in layers]
    packed = {"manifest_bytes": base64.b64encode(manifest).decode(), "config_bytes": base64.b64encode(config).decode()}
    return {
        "name": "x:1",
        "digest": archive.sha256(manifest),
        "config": archive.sha256(config),
        "layers": told,
        **packed,
    }


def test_the_archive_holds_what_arrived_once_and_nothing_of_what_is_there(tmp_path):
    image = image_of(b"one", b"two", b"two")
    (tmp_path / hashlib.sha256(b"two").hexdigest()).write_bytes(b"two")
    stream = io.BytesIO()
    archive.write_archive(stream, image, "x:incoming", str(tmp_path), [archive.sha256(b"two")], unpacked=False)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))
    blobs = {name.rsplit("/", 1)[1] for name in names if name.startswith("blobs/")}
    assert len(names) == len(set(names)) == 6
    assert blobs == {hashlib.sha256(data).hexdigest() for data in (b"two", b"{}", b"{ }")}
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "x:incoming"


def test_a_blob_that_changed_is_deleted_and_named(tmp_path):
    path = tmp_path / hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"0ne")
    for keep in (True, False):
        assert path.exists()
        with pytest.raises(NodeError, match="changed on this node's disk"):
            archive.verify(image_of(b"one"), str(tmp_path), [archive.sha256(b"one")], keep=keep)
    assert not path.exists()
    with pytest.raises(NodeError, match="did not arrive"):
        archive.verify(image_of(b"one"), str(tmp_path), [archive.sha256(b"one")])


# ---- ssh ----


ASK = """
import json, sys
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.settings import NotSsh, ssh_command
try:
    print(json.dumps(ssh_command(json.loads(sys.argv[1]))))
except NotSsh as error:
    print(json.dumps(str(error)))
"""


def ssh_command(**variables: object) -> list[str] | str:
    """In a process of its own: Ansible takes over how collections are imported."""
    pytest.importorskip("ansible.release", reason="there is no ansible-core")
    argv = [sys.executable, "-c", ASK, json.dumps({"inventory_hostname": "node1", **variables})]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "ansible" / "collections")}
    asked = subprocess.run(argv, env=environment, cwd=ROOT / "ansible", capture_output=True, text=True, check=True)
    return json.loads(asked.stdout)


def test_ssh_is_called_as_the_inventory_says_and_not_through_ansibles_shared_connection():
    settings = {
        "ansible_host": "10.0.0.7",
        "ansible_port": 2222,
        "ansible_user": "me",
        "ansible_private_key_file": "/k",
    }
    settings |= {"ansible_private_key_file": "/k", "ansible_ssh_common_args": "-o ProxyJump='a b'"}
    words = ssh_command(**settings)
    assert words[-1] == "10.0.0.7"
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "me"
    assert words[words.index("-i") + 1] == "/k"
    assert words.index("ControlPath=none") < words.index("ProxyJump=a b")
    assert "StrictHostKeyChecking=no" not in words


def test_a_node_that_is_not_reached_by_ssh_with_a_key_is_told_so():
    assert "needs ssh" in ssh_command(ansible_connection="local")
    assert "ansible_password is set" in ssh_command(ansible_password="x")
