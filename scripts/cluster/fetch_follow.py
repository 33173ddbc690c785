"""Follow the job of a fetch as if it ran here: its lines, its transfer as a bar, why it waits, how it ended."""

import queue
import re
import time

from scripts.cluster.follow import SECONDS_BETWEEN_LOOKS, Listener
from scripts.cluster.jobs import Job, explain, own_state
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.pods import age, endings, in_order, is_over, is_stuck
from scripts.cluster.progress import read_event
from scripts.transfer_view import View
from train.errors import EXIT_BAD_INPUT

SECONDS_FOR_THE_LAST_WORDS = 15.0
SECONDS_STUCK = 30.0
SECONDS_FOR_A_POD = 5.0  # only then a refusal counts: webhooks may for a moment not know the job
PROGRESS = re.compile(
    r".+: \S+ \S+ of \S+ \S+ \(\d+%\), .+/s(, .+ left)?"
)  # the pod's own view, in words; here it is a bar
ABOUT_TOKEN = re.compile(r"HF_TOKEN|gated|token", re.IGNORECASE)


class Follower:
    """One fetch being followed."""

    def __init__(self, cluster: Cluster, name: str):
        self.cluster, self.name = cluster, name
        self.told: queue.Queue = queue.Queue()
        self.listener = Listener(cluster, self.told)
        self.view: View | None = None
        self.state = self.trouble = ""
        self.asks_for_token = self.heard = False
        self.stuck_since: float | None = None

    def follow(self) -> int:
        """Show what comes until it is over; the exit status."""
        while True:
            try:
                job = self.look()
            except Refused as refused:
                self.stumble(str(refused).splitlines()[-1])
                self.hear_for(SECONDS_BETWEEN_LOOKS)
                continue
            if job is None:
                self.say(f"failed: {self.name} was taken away before it was done; the same command starts it again")
                return 1
            self.show(job)
            self.listener.attend(job)
            if job.ended:
                self.hear_out()
                return self.tell_end(job)
            if self.is_stuck(job):
                self.say(f"failed: {job.reason}\nnext:   mend that and it starts by itself, or make fetch-stop")
                return 1
            self.hear_for(SECONDS_BETWEEN_LOOKS if job.state == "running" else 1.0)

    def look(self) -> Job | None:
        """The job with its pods, and why it waits."""
        found = self.cluster.get("job", self.name)
        if found is None:
            return None
        pods = in_order(self.cluster.list("pods", f"batch.kubernetes.io/job-name={self.name}"))
        job = Job("job", self.name, "", found, "", pods=pods)
        job.state, job.reason = own_state(job)
        if job.ended:
            return job
        if pods and all(map(is_over, pods)):
            job.state, job.reason = "ending", ""
        elif job.state == "pending" and (pods or age(job.created) > SECONDS_FOR_A_POD):
            explain(self.cluster, [job])
        return job

    def show(self, job: Job) -> None:
        """Say what changed."""
        if self.trouble:
            self.say("the cluster answers again")
            self.trouble = ""
        now = f"{job.state}: {job.reason}" if job.reason else job.state
        told = job.state == "running" or (job.state in ("pending", "suspended") and job.reason)
        if now != self.state and told:
            self.say(now)
        self.state = now

    def stumble(self, what: str) -> None:
        """The cluster did not answer; said once."""
        if not self.trouble:
            self.say(f"the cluster does not answer, trying again: {what}")
        self.trouble = what

    def is_stuck(self, job: Job) -> bool:
        """Whether its pod has for a while been unable to start without somebody's help."""
        if job.state != "pending" or not any(map(is_stuck, job.pods)):
            self.stuck_since = None
            return False
        self.stuck_since = self.stuck_since or time.monotonic()
        return time.monotonic() - self.stuck_since > SECONDS_STUCK

    # ---- what the pod says ----
    def hear_for(self, seconds: float) -> None:
        """Show what the pod says for so long; shorter when its log ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                kind, value = self.told.get(timeout=left)
            except queue.Empty:
                return
            if kind == "silence":
                return
            self.hear(value)

    def hear_out(self) -> None:
        """What the log still holds when the job is over."""
        deadline = time.monotonic() + SECONDS_FOR_THE_LAST_WORDS
        while time.monotonic() < deadline and (self.listener.listening() or not self.told.empty()):
            self.hear_for(0.2)

    def hear(self, line: str) -> None:
        """One line: progress moves the bar, all else is printed."""
        event = read_event(line)
        if event is None:
            if not PROGRESS.fullmatch(line):
                self.asks_for_token |= bool(ABOUT_TOKEN.search(line))
                self.heard = True
                self.say(line)
        elif event["event"] == "transfer":
            if self.view is None or self.view.title != event["what"]:
                self.close_view()
                self.view = View(event["what"], event["total"], event["bytes"])
            self.view.set(event["bytes"])

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.view and self.view.live:
            self.view.say(text)
        else:
            print(text, flush=True)

    # ---- the end ----
    def tell_end(self, job: Job) -> int:
        """Say how it ended; the exit status, which for bad input is the pod's own."""
        self.close_view()
        if job.state == "complete":
            return 0
        codes = [ending.code for ending in endings(job.pods)]
        bad_input = EXIT_BAD_INPUT in codes[-1:]
        if not (bad_input and self.heard):  # then the pod has said it already
            print(f"failed: {job.reason}")
        if not bad_input:
            print(
                f"kept:   what came; the same command goes on. kubectl -n {self.cluster.namespace} logs job/{self.name}"
            )
            return 1
        if self.asks_for_token:
            namespace = self.cluster.namespace
            print("on a cluster the token is the Secret hub-token, key HF_TOKEN, of the namespace: an administrator's\n"
                  "  make cluster-setup SETUP_FLAGS='--token-from namespace/secret/key', or\n"
                  f"  kubectl -n {namespace} create secret generic hub-token --from-file=HF_TOKEN=<file>")  # fmt: skip
        return EXIT_BAD_INPUT

    def close_view(self) -> None:
        """The bar's end."""
        if self.view:
            self.view.close()
        self.view = None

    def close(self) -> None:
        """End what listens."""
        self.listener.stop()
        self.close_view()
