"""The way by a registry: a push, and a pull by digest on a node.

Needs nodes, skopeo and docker-registry: make test-nodes.
"""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from scripts import push
from tests.ansible.cluster import until
from tests.ansible.images import SAYS

pytestmark = pytest.mark.nodes

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{folder}"}}}}
http: {{addr: "{address}"}}
log: {{level: error}}
"""


@pytest.fixture
def registry(cluster, tmp_path):
    """A registry of this test's own, at the workstation's address on the way to the nodes."""
    if not (shutil.which("docker-registry") and shutil.which("skopeo")):
        pytest.skip("there is no docker-registry or no skopeo")
    name = cluster.names[0]
    host = cluster.on(name, "echo ${SSH_CONNECTION%% *}").strip()
    with socket.create_server((host, 0)) as probe:
        address = f"{host}:{probe.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "registry", address=address))
    with (tmp_path / "registry.log").open("w") as log:
        server = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    until(lambda: answers(address))
    yield address
    server.terminate()
    server.wait()


def answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_what_was_pushed_is_pulled_by_its_digest_on_a_node_and_runs(
    cluster, registry, new_image, monkeypatch, tmp_path
):
    image = new_image(8)
    told = json.loads(image.record.read_text())
    repository, tag = told["name"].rsplit(":", 1)
    image.record.write_text(json.dumps({**told, "repository": repository, "tag": tag, "size": image.size}))
    monkeypatch.setattr(push, "RECORD", image.record)
    monkeypatch.setattr(push, "RESULT", tmp_path / "push.json")
    monkeypatch.setattr(push, "ROOT", image.record.parent)
    monkeypatch.setattr(sys, "argv", ["push", "push", "--registry", f"{registry}/team", "--registry-insecure"])
    assert push.main() == 0
    reference = json.loads((tmp_path / "push.json").read_text())["reference"]
    assert reference == f"{registry}/team/tunefleet-test@{image.digest}"
    name = cluster.containerd_nodes(1)[0]
    try:
        cluster.on(name, f"ctr -n k8s.io images pull --plain-http {reference}")
        assert cluster.on(name, f"ctr -n k8s.io run --rm {reference} tunefleet-test-pulled").strip() == SAYS
        assert push.main() == 0  # once more: nothing to do, and nothing wrong
    finally:
        cluster.on(name, f"ctr -n k8s.io images rm --sync {reference}")
