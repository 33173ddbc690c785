"""Follow a run from pending to done in one view: `make watch`. Leaves with 0 when it is complete and 1 when it failed.

python -m scripts.cluster.watch [--overlay NAME] [--run NAME] [--context NAME] [--namespace NAME]
"""

import argparse
import json
import queue
import sys
import time
from collections import Counter

from scripts.cluster.bucket import files_of
from scripts.cluster.checks.reach import tell_refused
from scripts.cluster.follow import Listener, Looker
from scripts.cluster.jobs import Job, add_follow_options, choose, cluster_of, find_runs, no_such_run
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.pods import endings, first_dead, is_over, is_stuck, last_lines
from scripts.cluster.progress import Progress, read_event, replay, same, since_last_start, take
from scripts.cluster.store_client import Store, is_complete, overlay_of, tell_refusal
from scripts.cluster.watch_view import View
from train.errors import InputError, run_program

SECONDS_FOR_THE_LAST_WORDS = 15.0
SECONDS_UNENDED = 60.0  # after which a job whose pods have all ended must have ended too
SECONDS_STUCK = 30.0  # after which a pod that cannot start is told as a failure, although Kubernetes tries on


class Watch:
    """One run being followed: what is known of it, and what was said about it."""

    def __init__(self, cluster: Cluster, run: str, view: View):
        self.cluster, self.run, self.view = cluster, run, view
        self.told: queue.Queue = queue.Queue()
        self.listener = Listener(cluster, self.told)
        self.looker = Looker(cluster, run, self.told)
        self.progress, self.job, self.trouble = Progress(), None, ""
        self.heard = time.monotonic()
        self.said: Counter = Counter()  # events that came from the store already
        self.state, self.endings, self.stuck_since = "", set(), None
        self.done_since, self.said_unended = None, False

    # ---- what was before ----
    def remember(self) -> None:
        """Say what the run told before this view began, from the store; without a store the log has to do."""
        try:
            text = Store(self.cluster).text(f"runs/{self.run}", "log.jsonl")
        except (Refused, InputError, OSError):
            return
        self.progress, lines, events = replay(text)
        self.said = Counter(map(same, since_last_start(events)))
        self.view.say_all(lines)

    # ---- what is now ----
    def follow(self) -> Job | None:
        """Show what comes until the run is over; returns the run, None where it was taken away."""
        self.looker.start()
        while True:
            job_seen = False
            for kind, value in self.news():
                if kind == "line":
                    self.hear(value)
                elif kind == "trouble":
                    self.stumble(value)
                elif kind == "silence":
                    self.looker.now.set()
                elif value is None:
                    return None
                else:
                    self.see(value)
                    job_seen = True
            if job_seen and self.job.ended:
                self.last_words()
                return self.job
            if self.is_stuck():
                return self.job
            self.view.show(self.job, self.progress, self.trouble, time.monotonic() - self.heard)

    def news(self):
        """All that has come, after at most half a second."""
        deadline = time.monotonic() + 0.5
        try:
            yield self.told.get(timeout=0.5)
            while time.monotonic() < deadline:
                yield self.told.get_nowait()
        except queue.Empty:
            return

    def hear(self, line: str) -> None:
        """A line of the leader's log."""
        event = read_event(line)
        if event is None:
            return
        self.heard = time.monotonic()
        if self.said[same(event)] > 0:
            self.said[same(event)] -= 1
            return
        if event["event"] == "start":
            self.said.clear()  # another pod leads now, and tells the same things anew
        if text := take(self.progress, event):
            self.view.say(text)

    def see(self, job: Job) -> None:
        """A look at the job and its pods."""
        if self.trouble:
            self.view.say("the cluster answers again")
            self.trouble = ""
        now = f"{job.state}: {job.reason}" if job.reason else job.state
        if now != self.state and not job.ended:
            self.view.say(now)
        self.state = now
        self.see_endings(job)
        self.see_nobody_end_it(job)
        self.job = job
        self.listener.attend(job)

    def see_endings(self, job: Job) -> None:
        """Say once of every pod that it ended badly or went; what was so before the first look is counted, not told."""
        found = {(ending.pod, ending.when, ending.code): ending for ending in endings(job.pods)}
        for key, ending in found.items():
            if self.job is not None and key not in self.endings and not job.ended:
                self.view.say(ending.sentence())
        there = {pod["metadata"]["uid"] for pod in job.pods}
        for pod in self.job.pods if self.job else []:
            if pod["metadata"]["uid"] not in there and not is_over(pod) and not job.ended:
                self.view.say(f"pod {pod['metadata']['name']} was deleted")
        self.endings = set(found) | self.endings

    def see_nobody_end_it(self, job: Job) -> None:
        """Say once that all pods have done their work and the job still has not ended: its controller must say that."""
        if job.ended or not job.pods or any(pod["status"].get("phase") != "Succeeded" for pod in job.pods):
            self.done_since = None
            return
        self.done_since = self.done_since or time.monotonic()
        if not self.said_unended and time.monotonic() - self.done_since > SECONDS_UNENDED:
            self.said_unended = True
            kind = job.object.get("kind") or job.runtime
            self.view.say(f"every pod is done, but nothing ends the {kind}: is its controller down? make cluster-check")

    def is_stuck(self) -> bool:
        """Whether no pod runs, and for a while one has been unable to start without somebody's help."""
        job = self.job
        if job is None or job.state != "pending" or not any(map(is_stuck, job.pods)):
            self.stuck_since = None
            return False
        self.stuck_since = self.stuck_since or time.monotonic()
        return time.monotonic() - self.stuck_since > SECONDS_STUCK

    def stumble(self, what: str) -> None:
        """The cluster did not answer; said once."""
        if not self.trouble:
            self.view.say(f"the cluster does not answer, trying again: {what}")
        self.trouble = what

    def last_words(self) -> None:
        """What the leader's log still holds when the job is over."""
        deadline = time.monotonic() + SECONDS_FOR_THE_LAST_WORDS
        while time.monotonic() < deadline and (self.listener.listening() or not self.told.empty()):
            for kind, value in self.news():
                if kind == "line":
                    self.hear(value)

    def close(self) -> None:
        """End the threads and clear the view."""
        self.looker.over.set()
        self.looker.now.set()
        self.listener.stop()
        self.view.clear()


# ---- how it ended ----


def tell_end(cluster: Cluster, run: str, job: Job | None, progress: Progress, view: View, files: str) -> int:
    """Say how the run ended, where its files lie and what comes next; the exit status."""
    ended = progress.end or {}
    if (job and job.state == "complete") or (not job and ended.get("status") == "complete"):
        view.say(f"{run} is complete{final_loss(cluster, run, progress)}")
        print(f"result: {files}\nnext:   make results RUN={run}")
        return 0
    if job is None:
        why = ended.get("reason") or "it was taken away before it was done"
        print(f"failed: {run}: {why}\nkept:   {files}; make deploy again goes on from there")
        return 1
    dead = first_dead(endings(job.pods))
    why = job.reason if dead or not job.ended else ended.get("reason") or job.reason  # the pods may be gone
    print(f"failed: {run}: {why}")
    if not job.ended:
        print(f"next:   mend that and it starts by itself, or take it back: make undeploy RUN={run}")
        return 1
    if dead and (lines := last_lines(cluster, dead)):
        print(f"last lines of pod {dead.pod}:")
        print("\n".join(f"  {line}" for line in lines))
    print(f"next:   make logs RUN={run}")
    return 1


def final_loss(cluster: Cluster, run: str, progress: Progress) -> str:
    """The best validation loss in words, by the run's own record: the view may have missed the end of the log."""
    try:
        loss = json.loads(Store(cluster).text(f"runs/{run}", "run.json"))["training"]["best_eval_loss"]
    except (Refused, InputError, OSError, ValueError, KeyError):
        loss = progress.eval_loss
    return f", validation loss {loss:.4f}" if loss is not None else ""


def watch_store(cluster: Cluster, arguments: argparse.Namespace, view: View) -> int:
    """A run that the cluster holds no more: what the store tells of it."""
    try:
        records = Store(cluster).ask("runs")
    except Refused as refused:
        asked = arguments.run or arguments.overlay or "any run"
        print(f"{asked}: has no job on the cluster, and what the store knows cannot be told", file=sys.stderr)
        return tell_refusal(cluster, refused)
    fits = [one for one in records if arguments.run in ("", one["name"])]
    fits = [one for one in fits if arguments.overlay in ("", overlay_of(one))]
    if not fits:
        raise no_such_run(arguments, [one["name"] for one in records])
    newest = max(fits, key=lambda one: one["changed"])
    progress, lines, _ = replay(Store(cluster).text(f"runs/{newest['name']}", "log.jsonl"))
    print(f"{newest['name']} has no job on the cluster any more; the store tells:")
    view.say_all(lines)
    if is_complete(newest):
        progress.end = {"status": "complete"}
    return tell_end(cluster, newest["name"], None, progress, view, files_of(newest["name"], []))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_follow_options(parser)
    arguments = parser.parse_args()
    cluster, view = cluster_of(arguments), View()
    try:
        job = choose(find_runs(cluster, arguments.overlay, arguments.run))
    except Refused as refused:
        return tell_refused(refused)
    if job is None:
        return watch_store(cluster, arguments, view)
    watch = Watch(cluster, job.name, view)
    print(f"{job.name} ({job.runtime}, namespace {cluster.namespace}); Ctrl-C ends the view, not the run")
    try:
        watch.remember()
        ended = watch.follow()
    except KeyboardInterrupt:
        watch.close()
        print(f"the view is closed, the run goes on: make watch RUN={job.name} shows it again")
        return 130
    watch.close()
    seen = [job.object, *job.pods, *(watch.job.pods if watch.job else [])]
    files = files_of(job.name, seen)
    return tell_end(cluster, job.name, ended, watch.progress, view, files)


if __name__ == "__main__":
    run_program(main)
