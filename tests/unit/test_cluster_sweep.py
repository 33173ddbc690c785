"""A sweep on a cluster: what its command says, deploys and takes away, and what it asks the cluster. No cluster.

.venv/bin/python -m pytest tests/unit/test_cluster_sweep.py
"""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from preflight_cases import good_facts, plan, recipe, rendered, running
from sweep_cases import Team, job, one_ends

from scripts.cluster import overlay, sweep
from scripts.cluster.checks import everything
from scripts.cluster.checks.answers import FAILED, Answer
from scripts.cluster.kubectl import Cluster, Refused
from scripts.s3 import manifest
from scripts.s3.address import parse
from scripts.sweep.record import CLUSTER, load_record
from train.errors import InputError


@pytest.fixture
def team(monkeypatch) -> Team:
    return Team(monkeypatch)


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
