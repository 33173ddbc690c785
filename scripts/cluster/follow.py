"""Look at a run and listen to its leader, in threads that outlive a cluster that does not answer for a while.

Everything comes through one queue, as (kind, value): job, trouble, line, silence.
"""

import queue
import subprocess
import threading

from scripts.cluster.jobs import Job, find_runs
from scripts.cluster.kubectl import Cluster, Refused, connected
from scripts.cluster.pods import is_over, leader_of
from train.errors import InputError

SECONDS_BETWEEN_LOOKS = 3.0
# No answer; no kubectl any more, or no memory to start it; an answer with other fields than the API server's.
UNFIT = (Refused, InputError, OSError, ValueError, LookupError, TypeError, AttributeError)


class Looker(threading.Thread):
    """Asks every few seconds how the run is; puts (job, Job or None) or (trouble, what kubectl said)."""

    def __init__(self, cluster: Cluster, run: str, told: queue.Queue):
        super().__init__(daemon=True)
        self.cluster, self.run_name, self.told = cluster, run, told
        self.over, self.now = threading.Event(), threading.Event()
        self.runtime = ""

    def run(self) -> None:
        """Look until told to stop; at once when something has happened."""
        with connected(self.cluster) as self.cluster:
            self.look()

    def look(self) -> None:
        """The same, over a connection."""
        while not self.over.is_set():
            try:
                found = find_runs(self.cluster, run=self.run_name, runtime=self.runtime)
                self.told.put(("job", found[0] if found else None))
                self.runtime = found[0].runtime if found else ""
            except UNFIT as error:  # the thread goes on: the view would else wait for it without end
                self.told.put(("trouble", (str(error).splitlines() or [type(error).__name__])[-1]))
            self.now.wait(SECONDS_BETWEEN_LOOKS)
            self.now.clear()


class Listener:
    """Follows the log of the pod that leads; takes up the next one when the pod is restarted or replaced."""

    def __init__(self, cluster: Cluster, told: queue.Queue):
        self.cluster, self.told = cluster, told
        self.uid, self.last = "", ""  # the pod, and the time of the last line of it that was heard
        self.process: subprocess.Popen | None = None
        self.thread: threading.Thread | None = None
        self.heard_out = ""  # the ended pod whose log was read to its end

    def listening(self) -> bool:
        """Whether a log is being followed, or was and its last lines are still to be put."""
        return self.thread is not None and self.thread.is_alive()

    def attend(self, job: Job) -> None:
        """Begin to follow the leader's log, if it has one and it is not being followed."""
        leader = leader_of(job.pods)
        if self.listening() or leader is None or leader["metadata"]["uid"] == self.heard_out:
            return
        states = [one["state"] for one in leader["status"].get("containerStatuses", [])]
        if not any("running" in state or "terminated" in state for state in states):
            return
        if leader["metadata"]["uid"] != self.uid:
            self.uid, self.last = leader["metadata"]["uid"], ""
        since = [f"--since-time={self.last}"] if self.last else []
        container = leader["spec"]["containers"][0]["name"]
        words = ["logs", "--follow", "--timestamps", *since, "-c", container, leader["metadata"]["name"]]
        self.process = subprocess.Popen(
            self.cluster.command(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
        over = is_over(leader)
        self.thread = threading.Thread(target=self.hear, args=(self.process, self.uid, over), daemon=True)
        self.thread.start()

    def hear(self, process: subprocess.Popen, uid: str, over: bool) -> None:
        """Put the lines of a log, each once: kubectl repeats those of the second from which it goes on."""
        for line in process.stdout:
            time, _, text = line.rstrip("\n").partition(" ")
            if time <= self.last:
                continue
            self.last = time
            self.told.put(("line", text))
        if process.wait() == 0 and over:
            self.heard_out = uid
        self.told.put(("silence", uid))

    def stop(self) -> None:
        """End the following."""
        if self.listening():
            self.process.terminate()
