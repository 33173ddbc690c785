"""What the tests of a sweep on a cluster share: a cluster in words, whose runs end when the test says so."""

import json
from pathlib import Path
from types import SimpleNamespace

from scripts.cluster import sweep, sweep_follow
from scripts.cluster.jobs import Job
from scripts.cluster.progress import Progress

TIME = "2026-11-28T12:00:00Z"


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
