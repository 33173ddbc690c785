"""Links that break, crawl or lie in the middle of a push: nobody else waits, and no wrong byte is imported.

Needs the testbed: make test-nodes.
"""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ansible.cluster import until
from tests.ansible.images import SAYS
from tests.ansible.pushes import Playbook, push

pytestmark = pytest.mark.nodes

MB = 1_000_000


def middle(run: Playbook, counted: dict[str, int], megabytes: int) -> str:
    """Wait until a node has got so much; its name: that of the first in the row, which the others take from."""
    cluster = run.cluster

    def got(name: str) -> int:
        return cluster.bytes_to(name) - counted[name]

    run.wait_until(lambda: any(got(name) > megabytes * MB for name in counted))
    return max(counted, key=got)


def test_a_node_that_dies_in_the_middle_holds_up_nobody_and_gets_the_rest_from_the_next_push(cluster, new_image):
    nodes, image = cluster.containerd_nodes(5), new_image(40)
    with cluster.slow(dict.fromkeys(nodes, 60)):
        counted = {name: cluster.bytes_to(name) for name in nodes}
        run = Playbook(cluster, "push-image", image, limit=nodes, tunefleet_image_patience=12)
        dead = middle(run, counted, 15)
        with cluster.cut(dead):
            done = run.wait()
    healthy = [name for name in nodes if name != dead]
    assert done.code != 0
    assert done.healthy(healthy)
    assert max(done.rows[name]["seconds"] for name in healthy) < 30
    assert done.rows[dead]["result"] == "failed"
    assert f"{dead}: " in done.said.split("Report")[0].rsplit("result\n", 1)[1]
    assert cluster.run_on(healthy, image) == dict.fromkeys(healthy, SAYS)
    # Its programs there learn that the workstation hung up when the line is back, and clean up after themselves.
    until(lambda: cluster.names_on([dead]) == {dead: set()}, 90)

    counted = cluster.bytes_to(dead)
    assert push(cluster, image, limit=nodes).healthy(nodes)
    assert cluster.bytes_to(dead) - counted < 30 * MB
    assert cluster.run_on([dead], image) == {dead: SAYS}


def test_a_link_that_is_cut_for_ten_seconds_fails_nobody(cluster, new_image):
    nodes, image = cluster.containerd_nodes(4), new_image(40)
    with cluster.slow(dict.fromkeys(nodes, 60)):
        counted = {name: cluster.bytes_to(name) for name in nodes}
        run = Playbook(cluster, "push-image", image, limit=nodes)
        middle(run, counted, 15)
        unlucky = min(nodes, key=lambda name: cluster.bytes_to(name) - counted[name])
        with cluster.cut(unlucky):
            time.sleep(10)
        done = run.wait()
    assert done.code == 0
    assert done.healthy(nodes)
    assert cluster.bytes_to(unlucky) - counted[unlucky] < 60 * MB
    assert cluster.digest_on(nodes, image) == dict.fromkeys(nodes, image.digest)


@pytest.mark.parametrize("place", [0, 1])
def test_a_slow_node_holds_up_nobody_wherever_it_stands(cluster, new_image, place):
    nodes, image = cluster.containerd_nodes(4), new_image(20)
    slow = nodes[place]
    others = [name for name in nodes if name != slow]
    with cluster.slow({**dict.fromkeys(others, 100), slow: 1}):
        run = Playbook(cluster, "push-image", image, limit=nodes)
        run.wait_until(lambda: all(image.names <= there for there in cluster.names_on(others).values()), 80)
        took = time.monotonic() - run.began
        run.interrupt()
        assert run.wait().code != 0
    assert took < 70  # the slow one would need 160 s, and so would all who waited for it
    assert cluster.run_on(others, image) == dict.fromkeys(others, SAYS)
    until(lambda: cluster.names_on([slow]) == {slow: set()})


PROXY = Path(__file__).with_name("lying_proxy.py")


@contextmanager
def liar(cluster, name: str):
    """What this node takes from other nodes passes through a proxy that changes bytes."""
    pick = ["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", "10.77.0.0/24", "!", "--dport", "22"]
    pick += ["--syn", "-m", "mark", "!", "--mark", "1", "-j", "REDIRECT", "--to-ports", "9"]
    proxy = subprocess.Popen(cluster.inside(name, sys.executable, str(PROXY), "9"), stdout=subprocess.PIPE)
    assert proxy.stdout.readline() == b"ready\n"
    subprocess.run(cluster.inside(name, *pick), check=True)
    try:
        yield proxy
    finally:
        pick[pick.index("-A")] = "-D"
        subprocess.run(cluster.inside(name, *pick), check=True)
        proxy.kill()
        proxy.wait()


def test_bytes_that_are_changed_on_the_way_are_refused_and_fetched_elsewhere(cluster, new_image):
    nodes, image = cluster.containerd_nodes(4), new_image(20)
    deceived = nodes[3]
    with cluster.slow(dict.fromkeys(nodes, 60)), liar(cluster, deceived) as proxy:
        done = push(cluster, image, limit=nodes)
        proxy.kill()
        lies = proxy.stdout.read().count(b"lied")
    assert lies > 0
    assert "sent bytes that are not the image's" in done.said
    assert done.code == 0
    assert done.healthy(nodes)
    assert cluster.digest_on(nodes, image) == dict.fromkeys(nodes, image.digest)
    assert cluster.run_on(nodes, image) == dict.fromkeys(nodes, SAYS)
