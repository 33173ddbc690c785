"""Nodes as clusters have them: no login for root, sudo instead, and a jump host before them.

Needs nodes: make test-nodes.
"""

import copy
import json

import pytest

from tests.ansible.images import SAYS
from tests.ansible.pushes import Playbook, push

pytestmark = pytest.mark.nodes

USER = "tunefleet-test"
# `*`: no password fits, yet the account is not locked, which sshd would refuse without PAM.
MAKE_USER = f"""
command -v sudo >/dev/null || exit 9
id {USER} >/dev/null 2>&1 || useradd --create-home --password '*' {USER}
install -d -o {USER} -m 700 /home/{USER}/.ssh
install -o {USER} -m 600 ~/.ssh/authorized_keys /home/{USER}/.ssh/authorized_keys
echo '{USER} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/{USER}
grep -q "$(hostname)" /etc/hosts || echo "127.0.1.1 $(hostname)" >> /etc/hosts"""
REMOVE_USER = f"userdel --remove {USER} 2>/dev/null; rm -f /etc/sudoers.d/{USER}"


@pytest.fixture
def behind_a_jump_host(cluster, tmp_path):
    """The same nodes, reached as that user through the last of them."""
    jump, *_, first, second = reversed(cluster.containerd_nodes(4))
    nodes = [first, second]
    if any(cluster.try_on(name, MAKE_USER).returncode == 9 for name in nodes):
        pytest.skip("there is no sudo on the nodes")
    proxy = " ".join([*cluster.ssh_command(jump)[:-1], "-W", "%h:%p", cluster.ssh_command(jump)[-1]])
    hosts = {}
    for name in nodes:
        common = cluster.hosts[name].get("ansible_ssh_common_args", "")
        way = {"ansible_user": USER, "ansible_ssh_common_args": f'{common} -o ProxyCommand="{proxy}"'}
        hosts[name] = {**cluster.hosts[name], **way}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    there = copy.copy(cluster)
    there.inventory, there.hosts, there.names = inventory, hosts, nodes
    yield there
    cluster.on_all(nodes, REMOVE_USER)


def test_a_user_with_sudo_behind_a_jump_host_brings_checks_and_removes_the_image(
    cluster, behind_a_jump_host, new_image
):
    there = behind_a_jump_host
    image = new_image(20)
    done = push(there, image)
    assert done.code == 0
    assert done.healthy(there.names)
    assert cluster.run_on(there.names, image) == dict.fromkeys(there.names, SAYS)
    assert cluster.on_all(there.names, "ls /var/lib/tunefleet 2>&1 | grep -c 'No such file'") == dict.fromkeys(
        there.names, "1\n"
    )
    assert push(there, image).changed == dict.fromkeys(there.names, 0)
    assert Playbook(there, "check-image", image).wait().code == 0
    assert Playbook(there, "remove-image", image).wait().code == 0
    assert cluster.names_on(there.names) == {name: set() for name in there.names}


def test_a_user_without_sudo_is_told_so_before_anything_travels(cluster, behind_a_jump_host, new_image):
    there = behind_a_jump_host
    refused, other = there.names
    cluster.on(refused, f"rm /etc/sudoers.d/{USER}")
    done = push(there, new_image(4))
    assert done.code != 0
    assert done.healthy([other])
    assert done.rows[refused]["received"] == 0
    assert "sudo" in done.rows[refused]["problem"]
