"""A sweep on a cluster, followed: what is deployed when, what the view says, what is given up. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_sweep_follow.py
"""

import io
from types import SimpleNamespace

import pytest
from sweep_cases import Team, job, one_ends

from scripts.cluster import sweep_follow
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.watch_view import View

STUCK_POD = {
    "metadata": {"name": "p", "labels": {}},
    "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
}


def points(names: str = "abcd") -> list[sweep_follow.Point]:
    plans = [SimpleNamespace(run=name, overlay="demo", runtime="job") for name in names]
    return [sweep_follow.Point(f"lora_r={plan.run}", plan.run, plan) for plan in plans]


def follow(some: list[sweep_follow.Point], places: int | None) -> str:
    """Follow to the end; what was said."""
    out = io.StringIO()
    sweep_follow.Follow(Cluster(), "demo-sweep-1", some, places, View(out, live=True)).follow()
    return out.getvalue()


@pytest.fixture
def team(monkeypatch) -> Team:
    return Team(monkeypatch)


def test_without_a_queue_never_more_than_at_once_are_there_and_the_next_follows_one_that_ends(team):
    team.then = one_ends
    some = points()
    said = follow(some, 2)
    assert team.calls == [f"deploy {name}" for name in "abcd"]
    assert max(team.at_once) == 2 and [point.state for point in some] == ["complete"] * 4
    assert "lora_r=b: running  (b)" in said and "lora_r=a: complete  (a)" in said
    assert "step 3/4 (75%)  loss 1.5000" in said and "1 of 4 done" in said


def test_with_a_queue_all_are_deployed_at_the_first_look(team):
    team.then = one_ends
    follow(points(), None)
    assert team.at_once == [1, 2, 3, 4]


def test_what_is_complete_or_there_is_not_deployed_again_and_what_failed_before_is(team):
    team.jobs = {"a": job("a", "complete"), "b": job("b", "running"), "c": job("c", "failed", "out of memory")}
    team.then = one_ends
    some = points()
    follow(some, None)
    assert team.calls == ["deploy c", "deploy d"] and all(point.state == "complete" for point in some)


def test_one_that_fails_meanwhile_is_not_deployed_again_and_the_others_go_on(team):
    def then(team):
        if team.jobs["a"].state == "running":
            team.jobs["a"] = job("a", "failed", "out of memory")
        else:
            one_ends(team)

    team.then = then
    some = points()
    said = follow(some, 1)
    assert [point.state for point in some] == ["failed", "complete", "complete", "complete"]
    assert "lora_r=a: failed: out of memory" in said and team.calls.count("deploy a") == 1


def test_one_that_is_being_deleted_is_waited_for_and_one_taken_away_meanwhile_is_told(team):
    team.jobs = {"a": job("a", "deleting")}

    def then(team):
        if team.looks <= 2:
            del team.jobs["a"]
        else:
            one_ends(team)

    team.then = then
    some = points("ab")
    follow(some, 1)
    assert team.calls == ["deploy a", "deploy b"]
    assert [point.state for point in some] == ["taken away", "complete"]


def test_a_cluster_that_does_not_answer_for_a_while_is_said_once_and_asked_again(team, monkeypatch):
    answers = [Refused("no route to host", 1)] * 2

    def find(cluster, **_):
        if team.looks > 1 and answers:
            raise answers.pop()
        return list(team.jobs.values())

    monkeypatch.setattr(sweep_follow, "find_runs", find)
    team.then = lambda team: one_ends(team) if not answers else None
    said = follow(points("ab"), None)
    lines = [line for line in said.splitlines() if ":" in line and "  the cluster" in line]
    assert [line[line.index("the cluster") :] for line in lines] == [
        "the cluster does not answer, trying again: no route to host",
        "the cluster answers again",
    ]


def test_a_point_that_the_cluster_refuses_is_tried_again_and_then_given_up(team):
    team.then, team.refuse = one_ends, [Refused("etcd is busy", 1)]
    some = points("a")
    follow(some, None)
    assert some[0].state == "complete"
    team.jobs, team.refuse = {}, [Refused("forbidden", 1)] * 3
    some = points("a")
    follow(some, None)
    assert (some[0].state, some[0].reason) == ("refused", "forbidden")


def test_pods_that_cannot_start_end_the_view_when_nothing_else_is_left(team):
    team.jobs = {"a": job("a", "pending", "no image", (STUCK_POD,)), "b": job("b", "queued")}
    some = points("ab")
    said = follow(some, None)
    assert [point.state for point in some] == ["cannot start", "queued"]
    assert "lora_r=a: cannot start: no image" in said and team.now >= sweep_follow.SECONDS_STUCK


def test_a_low_terminal_shows_the_points_that_run(team, monkeypatch):
    monkeypatch.setattr(sweep_follow.shutil, "get_terminal_size", lambda: SimpleNamespace(lines=8, columns=80))
    some = points("abcdefgh")
    some[7].state = "running"
    lines = sweep_follow.Follow(Cluster(), "s", some, 1, View(io.StringIO(), live=True)).lines()
    assert lines[1:] == ["  lora_r=h  running", "  and 7 more"]
