"""A push brings the image whole, a second one brings nothing, a changed layer travels alone; check and remove.

Needs nodes: make test-nodes.
"""

import shutil

import pytest

from tests.ansible.images import SAYS
from tests.ansible.pushes import Playbook, push

pytestmark = pytest.mark.nodes


@pytest.mark.parametrize("number", [3, 7])
def test_every_node_gets_the_image_runs_it_and_a_second_push_changes_nothing(cluster, new_image, number):
    nodes = cluster.containerd_nodes(number)
    image = new_image(20)
    before = cluster.left_on(nodes)
    first = push(cluster, image, limit=nodes)
    assert first.code == 0
    assert first.healthy(nodes)
    assert cluster.digest_on(nodes, image) == dict.fromkeys(nodes, image.digest)
    assert cluster.run_on(nodes, image) == dict.fromkeys(nodes, SAYS)
    assert cluster.left_on(nodes) == before
    assert cluster.names_on(nodes) == dict.fromkeys(nodes, image.names)

    counted = cluster.bytes_on_links(nodes)
    second = push(cluster, image, limit=nodes)
    assert second.code == 0
    assert second.changed == dict.fromkeys(nodes, 0)
    assert {row["result"] for row in second.rows.values()} == {"had it"}
    assert {name: n for name, n in cluster.bytes_on_links(nodes).items() if n - counted[name] >= 100_000} == {}


def test_docker_and_containerd_nodes_get_the_image_in_one_push_and_then_only_what_changed(cluster, new_image):
    docker, containerd = cluster.docker_nodes()[0], cluster.containerd_nodes(1)[0]
    nodes = [containerd, docker]
    first, image = new_image(20, base="both", last="one"), new_image(20, base="both", last="two")
    assert push(cluster, first, limit=nodes).healthy(nodes)
    assert push(cluster, first, limit=nodes).changed == dict.fromkeys(nodes, 0)
    counted = cluster.bytes_on_links(nodes)
    done = push(cluster, image, limit=nodes)
    assert done.code == 0
    assert {name: n for name, n in cluster.bytes_on_links(nodes).items() if n - counted[name] >= 300_000} == {}
    identity = cluster.on(docker, f"docker image inspect --format '{{{{.Id}}}}' {image.name}").strip()
    assert identity == image.config
    assert cluster.on(docker, f"docker run --rm --network none {image.name}").strip() == SAYS
    assert "docker" in done.rows[docker]["runtime"]
    assert "containerd" in done.rows[containerd]["runtime"]
    assert cluster.on(docker, "docker image ls --all --quiet --filter reference='tunefleet*'") == ""


def test_a_change_of_the_last_layer_moves_that_layer_alone(cluster, new_image):
    nodes = cluster.containerd_nodes(3)
    assert push(cluster, new_image(20, base="delta", last="one"), limit=nodes).code == 0
    image = new_image(20, base="delta", last="two")
    counted = cluster.bytes_on_links(nodes)
    done = push(cluster, image, limit=nodes)
    assert done.code == 0
    assert {row["to_bring"] for row in done.rows.values()} == {image.layers[-1]["size"]}
    assert {name: n for name, n in cluster.bytes_on_links(nodes).items() if n - counted[name] >= 300_000} == {}
    assert cluster.digest_on(nodes, image) == dict.fromkeys(nodes, image.digest)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd")
def test_layers_in_zstd_arrive_as_well(cluster, new_image):
    nodes = [*cluster.containerd_nodes(1), *cluster.docker_nodes()]
    image = new_image(4, zstd=True)
    assert push(cluster, image, limit=nodes).healthy(nodes)
    assert cluster.run_on(nodes[:1], image) == {nodes[0]: SAYS}
    assert cluster.on(nodes[1], f"docker run --rm --network none {image.name}").strip() == SAYS


def test_check_changes_nothing_and_says_what_would_travel(cluster, new_image):
    nodes = cluster.containerd_nodes(2)
    image = new_image(8)
    before = cluster.left_on(nodes), cluster.names_on(nodes)
    done = push(cluster, image, "--check", limit=nodes)
    assert done.code == 0
    assert done.said.count("8.0 MB    will get it") == 2
    assert done.said.count("would get it") == 2
    assert (cluster.left_on(nodes), cluster.names_on(nodes)) == before


def test_limit_pushes_to_those_nodes_alone_and_image_check_names_the_others(cluster, new_image):
    has, lacks = cluster.containerd_nodes(2)
    image = new_image(4)
    assert push(cluster, image, limit=[has]).code == 0
    assert cluster.names_on([lacks]) == {lacks: set()}
    done = Playbook(cluster, "check-image", image, limit=[has, lacks]).wait()
    assert done.code != 0
    assert (done.rows[has]["result"], done.rows[lacks]["result"]) == ("has it", "lacks it")
    assert done.changed == {has: 0, lacks: 0}
    assert Playbook(cluster, "check-image", image, limit=[has]).wait().code == 0


def test_remove_refuses_while_a_container_uses_the_image_and_is_done_but_once(cluster, new_image):
    used, free = nodes = cluster.containerd_nodes(2)
    image = new_image(4)
    assert push(cluster, image, limit=nodes).code == 0
    cluster.on(used, f"ctr -n k8s.io run -d {image.by_digest} tunefleet-test-busy /program stay")
    try:
        done = Playbook(cluster, "remove-image", image, limit=nodes).wait()
        assert done.code != 0
        assert "tunefleet-test-busy" in done.said
        assert cluster.names_on(nodes) == {used: image.names, free: set()}
        assert Playbook(cluster, "remove-image", image, limit=[used], tunefleet_image_force=True).wait().code == 0
        assert cluster.names_on([used]) == {used: set()}
    finally:
        cluster.on(used, "ctr -n k8s.io task rm -f tunefleet-test-busy; ctr -n k8s.io c rm tunefleet-test-busy")
    again = Playbook(cluster, "remove-image", image, limit=nodes).wait()
    assert again.code == 0
    assert again.changed == {used: 0, free: 0}
