"""Nodes that fail: closed, without runtime, full, spoilt, killed; and a workstation that is interrupted.

Needs the testbed: make test-nodes.
"""

import time

import pytest

from tests.ansible.cluster import until
from tests.ansible.images import SAYS
from tests.ansible.pushes import Playbook, push

pytestmark = pytest.mark.nodes

MB = 1_000_000
CONTAINERD = "(nohup containerd >/run/containerd.log 2>&1 </dev/null &)"


def restart_containerd(cluster, name: str) -> None:
    cluster.on(name, CONTAINERD)
    until(lambda: cluster.try_on(name, "ctr version").returncode == 0)


@pytest.fixture
def troubled(cluster):
    """Four nodes: one in order, one that refuses the key, one whose runtime is stopped, one whose disk is full."""
    _, closed, stopped, full = nodes = cluster.containerd_nodes(4)
    later = "mv .ssh/keys .ssh/authorized_keys"  # nobody could log in to put it back
    cluster.on(closed, f"cd; mv .ssh/authorized_keys .ssh/keys; (nohup sh -c 'sleep 25; {later}' >/dev/null 2>&1 &)")
    began = time.monotonic()
    cluster.on(stopped, "pkill -x containerd; while pgrep -x containerd; do sleep 0.1; done")
    cluster.on(full, "mkdir /var/lib/tunefleet && mount -t tmpfs -o size=8m tmpfs /var/lib/tunefleet")
    yield nodes
    cluster.on(full, "umount /var/lib/tunefleet; rmdir /var/lib/tunefleet")
    restart_containerd(cluster, stopped)
    time.sleep(max(0, 26 - (time.monotonic() - began)))
    until(lambda: cluster.try_on(closed, "true").returncode == 0)


def test_what_is_wrong_is_said_of_all_nodes_at_once_before_anything_travels_and_the_others_are_served(
    cluster, new_image, troubled
):
    fine, closed, stopped, full = troubled
    image = new_image(20)
    done = push(cluster, image, limit=troubled)
    plan = done.said.split("Say what will travel")[0]
    assert done.code != 0
    assert f"{closed}: ssh does not reach it" in plan
    assert "Permission denied" in plan
    assert f"{stopped}: no container runtime answers" in plan
    assert f"{full}: " in plan
    assert "MB free, the image needs" in plan
    assert {name: row["result"] for name, row in done.rows.items() if name != fine} == dict.fromkeys(
        (closed, stopped, full), "failed"
    )
    assert cluster.run_on([fine], image) == {fine: SAYS}
    assert cluster.names_on([full]) == {full: set()}


def test_a_disk_that_fills_up_in_the_middle_is_named_and_the_next_push_brings_nothing_twice(cluster, new_image):
    fine, full = nodes = cluster.containerd_nodes(2)
    image = new_image(40)
    root = "/var/lib/containerd"
    cluster.on(full, "pkill -x containerd; while pgrep -x containerd; do sleep 0.1; done")
    cluster.on(full, f"mount -t tmpfs -o size=450m tmpfs {root}")
    restart_containerd(cluster, full)
    try:
        with cluster.slow(dict.fromkeys(nodes, 60)):
            counted = cluster.bytes_to(full)
            run = Playbook(cluster, "push-image", image, limit=nodes)
            run.wait_until(lambda: cluster.bytes_to(full) - counted > 5 * MB)
            cluster.try_on(full, f"head -c 500M /dev/zero > {root}/filler")
            done = run.wait()
        assert done.code != 0
        assert done.rows[fine]["result"] == "has it"
        assert done.rows[full]["result"] == "failed"
        assert "disk is full" in done.rows[full]["problem"]
        assert not cluster.names_on([full])[full] & image.names
        cluster.on(full, f"rm {root}/filler")
        counted = cluster.bytes_to(full)
        assert push(cluster, image, limit=nodes).healthy(nodes)
        assert cluster.bytes_to(full) - counted < 1 * MB
        assert cluster.run_on([full], image) == {full: SAYS}
    finally:
        cluster.on(full, f"pkill -x containerd; while pgrep -x containerd; do sleep 0.1; done; umount -l {root}")
        restart_containerd(cluster, full)


SPOIL = "for f in tunefleet/*/*; do printf spoilt | dd of=$f bs=1 seek=1000 conv=notrunc status=none; done"


def test_a_blob_that_is_changed_on_a_nodes_disk_is_never_imported(cluster, new_image):
    nodes, image = cluster.containerd_nodes(3), new_image(40)
    with cluster.slow(dict.fromkeys(nodes, 60)):
        counted = {name: cluster.bytes_to(name) for name in nodes}
        run = Playbook(cluster, "push-image", image, limit=nodes)
        run.wait_until(lambda: all(cluster.bytes_to(name) - counted[name] > 12 * MB for name in nodes))
        cluster.on(nodes[2], SPOIL)
        done = run.wait()
    assert done.rows[nodes[0]]["result"] == done.rows[nodes[1]]["result"] == "has it"
    if done.code:  # found at the end, and not while it was passed on
        assert "changed on this node's disk" in done.rows[nodes[2]]["problem"]
        assert not cluster.names_on(nodes[2:])[nodes[2]] & image.names
        counted = cluster.bytes_to(nodes[2])
        assert push(cluster, image, limit=nodes).healthy(nodes)
        assert cluster.bytes_to(nodes[2]) - counted < 32 * MB
    assert cluster.digest_on(nodes, image) == dict.fromkeys(nodes, image.digest)
    assert cluster.run_on(nodes, image) == dict.fromkeys(nodes, SAYS)


def test_a_blob_that_is_changed_between_its_arrival_and_the_import_is_found_deleted_and_brought_again(
    cluster, new_image
):
    nodes, image = cluster.containerd_nodes(2), new_image(8)
    spoilt = nodes[1]
    # The import begins by asking ctr what is there: this one changes a layer then, once all have arrived.
    real = cluster.on(spoilt, "command -v ctr").strip()
    whole = '[ -e /run/whole ] && case "$*" in *check*) cd /var/lib; ' + SPOIL + "; rm /run/whole;; esac"
    watch = 'case "$*" in *check*) [ -d /var/lib/tunefleet ] && touch /run/whole;; esac'
    cluster.on(spoilt, f"cat > /usr/local/sbin/ctr <<'END'\n#!/bin/sh\n{watch}\n{whole}\nexec {real} \"$@\"\nEND")
    cluster.on(spoilt, "chmod +x /usr/local/sbin/ctr")
    try:
        done = push(cluster, image, limit=nodes)
    finally:
        cluster.on(spoilt, "rm -f /usr/local/sbin/ctr /run/whole")
    assert done.code != 0
    assert done.rows[nodes[0]]["result"] == "has it"
    assert "changed on this node's disk" in done.rows[spoilt]["problem"]
    assert not cluster.names_on([spoilt])[spoilt] & image.names
    assert push(cluster, image, limit=nodes).healthy(nodes)
    assert cluster.run_on(nodes, image) == dict.fromkeys(nodes, SAYS)


def test_a_node_whose_processes_are_all_killed_is_named_and_the_next_push_mends_it(cluster, new_image):
    nodes, image = cluster.containerd_nodes(3), new_image(40)
    killed = nodes[0]
    try:
        with cluster.slow(dict.fromkeys(nodes, 60)):
            counted = cluster.bytes_to(killed)
            run = Playbook(cluster, "push-image", image, limit=nodes)
            run.wait_until(lambda: cluster.bytes_to(killed) - counted > 15 * MB)
            cluster.try_on(killed, "kill -9 -1")  # all but the first process, sshd
            done = run.wait()
    finally:
        restart_containerd(cluster, killed)
    assert done.code != 0
    assert done.healthy(nodes[1:])
    assert "containerd does not answer" in done.rows[killed]["problem"]
    assert not cluster.names_on([killed])[killed] & image.names
    counted = cluster.bytes_to(killed)
    assert push(cluster, image, limit=nodes).healthy(nodes)
    assert cluster.bytes_to(killed) - counted < 30 * MB
    assert cluster.run_on([killed], image) == {killed: SAYS}
    assert cluster.names_on([killed])[killed] == image.names


def test_ctrl_c_leaves_nothing_running_and_the_next_push_goes_on_from_there(cluster, new_image):
    nodes, image = cluster.containerd_nodes(3), new_image(40)
    with cluster.slow(dict.fromkeys(nodes, 60)):
        counted = {name: cluster.bytes_to(name) for name in nodes}
        run = Playbook(cluster, "push-image", image, limit=nodes)
        run.wait_until(lambda: all(cluster.bytes_to(name) - counted[name] > 15 * MB for name in nodes))
        run.interrupt()
        assert run.wait().code != 0
        assert not any(there & image.names for there in cluster.names_on(nodes).values())
        counted = {name: cluster.bytes_to(name) for name in nodes}
        assert push(cluster, image, limit=nodes).healthy(nodes)
    for name in nodes:
        assert cluster.bytes_to(name) - counted[name] < 32 * MB
    assert cluster.run_on(nodes, image) == dict.fromkeys(nodes, SAYS)
    assert all(there == image.names for there in cluster.names_on(nodes).values())
