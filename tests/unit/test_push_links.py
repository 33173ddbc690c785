"""Who takes from whom while an image spreads: plugin_utils/links.py, on simulated nodes.

.venv/bin/python -m pytest tests/unit/test_push_links.py
"""

import pytest

from tests.unit.simulated_nodes import Machine, Network

ALONE = 1000 / 50  # seconds in which one node could have the image


def network(number: int = 8, chunks: int = 1000, **special: Machine) -> Network:
    names = [f"node{n}" for n in range(1, number + 1)]
    found = Network({name: special.get(name, Machine()) for name in names}, chunks)
    found.run(400)
    return found


def last_of(found: Network, *but: str) -> float:
    """When the last of the others had everything."""
    return max(machine.done_at or 1e9 for name, machine in found.machines.items() if name not in but)


@pytest.mark.parametrize("number", [1, 3, 8, 30])
def test_all_nodes_have_the_image_in_little_more_than_the_time_of_one_and_it_is_sent_once(number):
    found = network(number)
    assert last_of(found) <= 1.1 * ALONE + 0.05 * number
    assert found.sent == 1000


@pytest.mark.parametrize("chunks", [20, 80, 1000])
@pytest.mark.parametrize("place", [1, 2, 5, 8])
def test_a_slow_node_holds_up_nobody_wherever_it_stands_and_however_small_the_image(place, chunks):
    slow = f"node{place}"
    found = network(8, chunks, **{slow: Machine(down=0.5)})
    assert last_of(found, slow) <= 1.1 * chunks / 50 + 8


def test_several_slow_nodes_hold_up_nobody():
    slow = {name: Machine(down=1.0) for name in ("node1", "node2", "node5")}
    assert last_of(network(8, **slow), *slow) <= 1.1 * ALONE + 20


@pytest.mark.parametrize("place", [1, 2, 5, 8])
def test_a_node_that_dies_holds_up_nobody(place):
    dead = f"node{place}"
    found = network(8, **{dead: Machine(away=(8.0, 1e9))})
    assert found.machines[dead].done_at is None
    assert last_of(found, dead) <= 1.1 * ALONE + 8


@pytest.mark.parametrize("place", [1, 4, 8])
def test_a_node_that_returns_goes_on_from_where_it_was(place):
    back = f"node{place}"
    found = network(8, **{back: Machine(away=(8.0, 18.0))})
    assert last_of(found, back) <= 1.1 * ALONE + 8
    assert found.machines[back].done_at <= 18 + ALONE


def test_half_the_nodes_dying_at_once_does_not_stop_the_others():
    dead = {f"node{n}": Machine(away=(5.0, 1e9)) for n in (1, 2, 4, 6)}
    assert last_of(network(8, **dead), *dead) <= 2 * ALONE + 10


@pytest.mark.parametrize("number", [4, 20])
def test_nodes_that_a_firewall_parts_are_all_fed_by_the_workstation(number):
    walled = {f"node{n}": Machine(walled=True) for n in range(1, number + 1)}
    found = network(number, 200, **walled)
    assert last_of(found) <= 200 * number / 50 + 40


@pytest.mark.parametrize("place", [1, 3])
def test_a_node_with_a_slow_way_out_ends_where_nobody_takes_from_it(place):
    leaf = f"node{place}"
    found = network(8, **{leaf: Machine(up=2.0)})
    assert last_of(found) <= 1.1 * ALONE + 20
    assert not found.links.nodes[leaf].gives


def test_a_slow_workstation_turns_the_row_but_a_few_times():
    found = Network({f"node{n}": Machine() for n in range(1, 9)}, 1000, workstation=10.0)
    found.run(400)
    assert last_of(found) <= 1.1 * 100
    assert found.sent <= 1300


def test_nodes_that_need_less_take_from_those_that_need_more():
    found = Network({"few": Machine(), "all": Machine()}, 100)
    found.links.nodes["few"].need = bytes(50) + bytes([1]) * 50
    row = sorted(found.links.row, key=lambda name: -sum(found.links.nodes[name].need))
    found.links.row = row
    assert found.links.step(0.0) == {"all": None, "few": "all"}


def test_a_source_that_sent_wrong_bytes_is_never_asked_again():
    found = Network({"one": Machine(), "two": Machine()}, 10)
    assert found.links.step(0.0)["two"] == "one"
    found.links.failed("two", "one", 0.0, forever=True)
    found.links.nodes["one"].heard = found.links.nodes["two"].heard = 1e6
    assert found.links.step(1e6)["two"] is None
