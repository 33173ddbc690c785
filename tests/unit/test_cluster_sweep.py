"""A sweep on a cluster: what is deployed when, what the view says, what is taken away. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_sweep.py
"""

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from preflight_cases import good_facts, plan, recipe, rendered, running

from scripts.cluster import overlay, sweep, sweep_follow
from scripts.cluster.checks import everything
from scripts.cluster.checks.answers import FAILED, Answer
from scripts.cluster.jobs import Job
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.progress import Progress
from scripts.cluster.watch_view import View
from scripts.s3 import manifest
from scripts.s3.address import parse
from scripts.sweep.record import CLUSTER, load_record
from train.errors import InputError

TIME = "2026-11-28T12:00:00Z"
STUCK_POD = {
    "metadata": {"name": "p", "labels": {}},
    "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
}


def job(run: str, state: str, reason: str = "", pods: tuple = ()) -> Job:
    return Job("job", run, "demo", {"metadata": {"creationTimestamp": TIME}}, state, reason, list(pods))


class Team:
    """A cluster in words: the jobs that are there; what happens at each look; what was deployed and taken away."""

    def __init__(self, monkeypatch):
        self.jobs: dict[str, Job] = {}
        self.looks, self.calls, self.at_once = 0, [], []
        self.then = lambda team: None  # what happens between two looks
        self.refuse: list[Exception] = []
        self.done: set[str] = set()  # on the store
        self.answers = lambda plan: []
        for module in (sweep, sweep_follow):
            monkeypatch.setattr(module, "find_runs", lambda cluster, **_: list(self.jobs.values()))
        monkeypatch.setattr(sweep_follow, "deploy", self.deploy)
        monkeypatch.setattr(sweep_follow, "progress_of", lambda cluster, job: Progress(step=3, total=4, loss=1.5))
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(sweep_follow, "time", clock)
        monkeypatch.setattr(sweep, "take_away", lambda cluster, run: self.calls.append(f"take {run}"))
        monkeypatch.setattr(sweep, "complete_runs", lambda cluster, record: self.done)
        monkeypatch.setattr(sweep, "check", lambda plan, objects, known: self.answers(plan))
        monkeypatch.setattr(sweep, "render", lambda plan: [])
        monkeypatch.setattr(sweep, "bring_results", self.bring)

    def deploy(self, plan, force: bool) -> int:
        assert force, "the checks were asked before"
        if self.refuse:
            raise self.refuse.pop(0)
        self.calls.append(f"deploy {plan.run}")
        self.jobs[plan.run] = job(plan.run, "running")
        self.at_once.append(sum(not one.ended for one in self.jobs.values()))
        return 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.looks += 1
        assert self.looks < 100, "it would go on for ever"
        self.then(self)

    def bring(self, arguments, bucket) -> int:
        self.calls.append(f"bring {arguments.run} {arguments.what}")
        run = Path(arguments.to)
        run.mkdir(parents=True)
        (run / "report.html").write_text("")
        (run / "after.json").write_text(json.dumps({"eval_loss": 1.0, "exact_match": None}))
        return 0


def one_ends(team: Team) -> None:
    """The run that has been there longest is complete."""
    for found in team.jobs.values():
        if found.state == "running":
            found.state = "complete"
            return


def points(names: str = "abcd") -> list[sweep_follow.Point]:
    return [sweep_follow.Point(f"lora_r={name}", name, SimpleNamespace(run=name, overlay="demo")) for name in names]


def follow(some: list[sweep_follow.Point], places: int | None) -> str:
    """Follow to the end; what was said."""
    out = io.StringIO()
    sweep_follow.Follow(Cluster(), "demo-sweep-1", some, places, View(out, live=True)).follow()
    return out.getvalue()


@pytest.fixture
def team(monkeypatch) -> Team:
    return Team(monkeypatch)


# ---- one after the other, and all at once ----


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


# ---- the command ----


@pytest.fixture
def place(tmp_path, monkeypatch, team) -> Path:
    """A directory with a sweep of two ranks, and the command's own build directory; scripts.compare is a stand-in."""
    monkeypatch.setattr(overlay, "BUILD", tmp_path / "build")
    (tmp_path / "build").mkdir()
    (tmp_path / "sweep.yaml").write_text("grid: {lora_r: [4, 8]}\nat_once: 1\n")
    module = ModuleType("scripts.compare")
    module.write_comparison = lambda runs, page: page.write_text(" ".join(run.name for run in runs))
    module.print_comparison = lambda runs: print("compared", len(runs))
    monkeypatch.setitem(sys.modules, "scripts.compare", module)
    return tmp_path


def command(place: Path, monkeypatch, what: str, *more: str) -> int:
    words = ["--overlay", "demo", "--sweep", str(place / "sweep.yaml"), "--runs-dir", str(place / "runs"), *more]
    monkeypatch.setattr(sys, "argv", ["sweep", what, *words])
    return sweep.main()


def test_a_sweep_is_deployed_followed_copied_and_compared(team, place, monkeypatch, capsys):
    team.then = one_ends
    assert command(place, monkeypatch, "run") == 0
    said = capsys.readouterr().out
    record = load_record(place / "runs", "demo", CLUSTER, "finetune")
    names = [point["run"] for point in record["points"]]
    assert team.calls == [*(f"deploy {name}" for name in names), *(f"bring {name} {sweep.WHAT}" for name in names)]
    assert "deployed at most 1 at once (at_once)" in said and "2 of 2 done" in said and "compared 2" in said
    assert (place / "runs" / f"{record['name']}.html").read_text() == " ".join(names)
    # ---- the same again, now that the jobs are gone and the store remembers ----
    team.calls, team.jobs, team.done = [], {}, set(names)
    assert command(place, monkeypatch, "run") == 0
    assert team.calls == [], "neither deployed nor copied again"
    assert command(place, monkeypatch, "status") == 0 and team.calls == []
    assert "2 of 2 done" in capsys.readouterr().out


def test_a_point_is_the_run_that_make_deploy_makes_with_set(team, place, monkeypatch):
    team.then = one_ends
    command(place, monkeypatch, "run", "--place", "threads=1")
    names = [point["run"] for point in load_record(place / "runs", "demo", CLUSTER, "finetune")["points"]]
    told = (place / "build" / names[1] / "kustomization.yaml").read_text()
    assert "make deploy OVERLAY=demo SET=lora_r=8 PLACE=threads=1" in told
    assert "lora_r: 8" in (place / "build" / names[1] / "train.yaml").read_text()
    assert not (place / "build" / names[1] / "sweep.yaml").exists()


def test_a_queue_in_the_overlay_decides_and_that_is_said(team, place, monkeypatch, capsys):
    team.then = one_ends
    assert command(place, monkeypatch, "run", "--with", "queue-kueue", "--place", "queue=finetune") == 0
    assert team.at_once == [1, 2]
    assert "deployed all at once; the queue finetune decides how many run" in capsys.readouterr().out


def test_checks_are_asked_before_anything_is_deployed_and_told_once(team, place, monkeypatch, capsys):
    team.answers = lambda plan: [Answer(FAILED, "is the cluster new enough", "it is old", "have it upgraded")]
    assert command(place, monkeypatch, "run") == 1
    said = capsys.readouterr().err
    assert said.count("it is old") == 1 and "points 1 (lora_r=4) and 2 (lora_r=8):" in said
    assert team.calls == [] and not (place / "runs").exists()
    team.then = one_ends
    assert command(place, monkeypatch, "run", "--force") == 0


def test_ctrl_c_ends_the_view_and_says_what_was_not_deployed(team, place, monkeypatch, capsys):
    def then(team):
        raise KeyboardInterrupt

    team.then = then
    assert command(place, monkeypatch, "run") == 130
    said = capsys.readouterr().out
    assert "not deployed: lora_r=8" in said and "the same command goes on" in said
    assert len(team.calls) == 1 and not team.calls[0].startswith("take")


def test_a_failed_point_is_told_at_the_end_with_what_helps(team, place, monkeypatch, capsys):
    def then(team):
        for found in team.jobs.values():
            found.state, found.reason = "failed", "out of memory"

    team.then = then
    assert command(place, monkeypatch, "run") == 1
    said = capsys.readouterr().err
    assert "failed: lora_r=4: failed: out of memory\n  next: make logs RUN=demo-" in said


@pytest.mark.parametrize(("done", "status"), [(True, 0), (False, 1)])
def test_a_job_that_is_gone_was_done_if_the_store_says_so(team, place, monkeypatch, capsys, done, status):
    def then(team):
        team.done = {name for name in team.jobs if done} | team.done
        team.jobs = {}

    team.then = then
    assert command(place, monkeypatch, "run") == status
    assert ("2 of 2 done" if done else "0 of 2 done") in capsys.readouterr().out


def test_stop_takes_away_what_waits_before_what_runs_and_nothing_that_is_complete(team, place, monkeypatch, capsys):
    (place / "sweep.yaml").write_text("grid: {lora_r: [2, 4, 8, 32]}\n")
    with pytest.raises(InputError, match="no sweep of it was started"):
        command(place, monkeypatch, "stop")
    team.then = one_ends
    command(place, monkeypatch, "run")
    a, b, c, d = (point["run"] for point in load_record(place / "runs", "demo", CLUSTER, "finetune")["points"])
    team.calls = []
    team.jobs = {a: job(a, "complete"), b: job(b, "running", pods=({},)), c: job(c, "queued"), d: job(d, "failed")}
    team.jobs["other"] = job("other", "running")
    assert command(place, monkeypatch, "stop") == 0
    assert sorted(team.calls[:2]) == sorted([f"take {c}", f"take {d}"]) and team.calls[2:] == [f"take {b}"]
    assert "their files stay" in capsys.readouterr().out


def test_a_name_of_one_run_is_refused(place, monkeypatch):
    with pytest.raises(InputError, match="names one run, and a sweep has many"):
        command(place, monkeypatch, "run", "--run", "mine")


# ---- what is asked of the cluster ----


def test_the_cluster_is_asked_once_for_all_points_and_each_is_judged_by_its_own_recipe(monkeypatch):
    objects, asked = rendered(), []
    others = [running(name, "4", "1Gi", "other-point") for name in ("n1", "n2")]
    facts = good_facts(objects, pods=others, inside=Refused("not asked here", 1))
    first = {key: facts[key] for key in ("version", "client", "groups", "now")}

    def estimates(recipe, *_):
        found = {"per_rank": recipe.lora_r * 10**9, "weights": 1, "activations": 1, "process": 1}
        return {2: found, 4: found}

    monkeypatch.setattr(everything.cluster_facts, "reach", lambda cluster: first)
    monkeypatch.setattr(everything.cluster_facts, "collect", lambda *_: asked.append(1) or dict(facts))
    monkeypatch.setattr(everything.memory, "estimates", estimates)
    known, failed = everything.Known({"other-point"}), {}
    for rank in (1, 8, 64):
        one = plan()
        one.recipe = recipe(lora_r=rank)
        failed[rank] = [answer.question for answer in everything.check(one, objects, known) if answer.status == FAILED]
    assert asked == [1] and failed == {1: [], 8: ["is the memory enough"], 64: ["is the memory enough"]}
    one.recipe = recipe(model_name_or_path="models/other")
    everything.check(one, objects, known)
    assert asked == [1, 1], "another model has to be looked for"


def test_the_store_says_which_runs_are_complete_and_where_it_does_not_answer_that_is_said(monkeypatch, capsys):
    record = {"points": [{"run": "a"}, {"run": "b"}], "bucket": None}
    entries = [{"name": "a", "record": {"status": "complete"}, "has": []}, {"name": "b", "record": {}, "has": ["data"]}]
    monkeypatch.setattr(sweep.Store, "ask", lambda self, *words: entries)
    assert sweep.complete_runs(Cluster(), record) == {"a"}

    def refuse(self, *words):
        raise Refused("no pods", 1)

    monkeypatch.setattr(sweep.Store, "ask", refuse)
    assert sweep.complete_runs(Cluster(), record) == set()
    assert "only by their jobs is it known which points are done: no pods" in capsys.readouterr().err


def test_a_bucket_says_it_by_the_records_in_it(monkeypatch):
    told = {"a": '{"status": "complete"}', "b": '{"status": "running"}', "c": None}
    monkeypatch.setattr(sweep, "reach", lambda bucket: (None, parse(bucket["url"])))
    monkeypatch.setattr(manifest, "read_text", lambda client, run, name: told[str(run).rpartition("/")[2]])
    record = {"points": [{"run": name} for name in told], "bucket": {"url": "s3://team/prefix"}}
    assert sweep.complete_runs(Cluster(), record) == {"a"}
