"""The points of a sweep on a cluster: deployed when it is their turn, and followed together in one view."""

import contextlib
import io
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scripts.cluster.deploy import deploy
from scripts.cluster.follow import UNFIT
from scripts.cluster.jobs import Job, find_runs
from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.overlay import Plan
from scripts.cluster.pods import is_stuck
from scripts.cluster.progress import Progress, step_line
from scripts.cluster.status import progress_of
from scripts.cluster.watch_view import View
from train.errors import InputError

SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_STUCK = 30.0  # after which pods that cannot start end the view, as in make watch
TRIES = 3  # of deploying one point
AT_ONCE = 8  # logs that are looked at
MISSING, COMPLETE, REFUSED, STUCK, GONE = "not deployed", "complete", "refused", "cannot start", "taken away"
OVER = (COMPLETE, "failed", REFUSED, GONE)


@dataclass
class Point:
    """One point; its state is its job's, or a word of the above."""

    words: str
    run: str
    plan: Plan | None = None
    state: str = MISSING
    reason: str = ""
    seen: bool = False  # its job has been there, and is not one that failed before this command
    tries: int = 0
    progress: Progress = field(default_factory=Progress)

    @property
    def over(self) -> bool:
        """Whether nothing comes after its state."""
        return self.state in OVER

    @property
    def busy(self) -> bool:
        """Whether it takes one of the places."""
        return not self.over and self.state != MISSING


class Follow:
    """A sweep being followed; `places` is how many points may be there at once, None where a queue decides that."""

    def __init__(self, cluster: Cluster, name: str, points: list[Point], places: int | None, view: View):
        self.cluster, self.name, self.points, self.places, self.view = cluster, name, points, places, view
        self.trouble, self.stuck_since = "", None

    def follow(self) -> None:
        """Deploy what is missing and look, until every point is over or nothing is left but what cannot start."""
        while True:
            try:
                self.look()
                self.deploy_next()
            except UNFIT as error:  # the cluster does not answer for a while: the runs go on
                self.stumble((str(error).splitlines() or [type(error).__name__])[-1])
            self.view.draw(self.lines())
            if all(point.over for point in self.points) or self.is_stuck():
                self.view.clear()
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def look(self) -> None:
        """How every point stands."""
        plan = self.points[0].plan  # all points have the overlay's kind of job
        jobs = {job.name: job for job in find_runs(self.cluster, overlay=plan.overlay, runtime=plan.runtime)}
        if self.trouble:
            self.view.say("the cluster answers again")
            self.trouble = ""
        for point in self.points:
            if not point.over:
                self.see(point, jobs.get(point.run))
        running = [point for point in self.points if point.state == "running"]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for point, progress in zip(
                running, pool.map(lambda point: progress_of(self.cluster, jobs[point.run]), running), strict=True
            ):
                point.progress = progress

    def see(self, point: Point, job: Job | None) -> None:
        """A look at one point's job."""
        if job is None and not point.seen:
            point.state, point.reason = MISSING, ""
        elif job is None:
            self.turn(point, GONE, "its job is no longer on the cluster")
        elif not point.seen and job.state == "failed":
            point.state, point.reason = MISSING, job.reason  # of an earlier command: tried again
        elif not point.seen and job.state == "deleting":
            self.turn(point, job.state, "is deployed again when it is gone")
        else:
            point.seen = True
            stuck = job.state == "pending" and any(map(is_stuck, job.pods))
            self.turn(point, STUCK if stuck else job.state, job.reason)

    def turn(self, point: Point, state: str, reason: str) -> None:
        """A point's state; said when it changes."""
        if state != point.state:
            self.view.say(
                f"{point.words}: {state}{f': {reason}' if reason and state != 'queued' else ''}  ({point.run})"
            )
        point.state, point.reason = state, reason

    def deploy_next(self) -> None:
        """Deploy missing points, as many as there are places for."""
        for point in self.points:
            full = self.places is not None and sum(one.busy for one in self.points) >= self.places
            if point.state == MISSING and not full:
                self.deploy(point)

    def deploy(self, point: Point) -> None:
        """Deploy a point; one that the cluster refuses is tried again at the next looks, and then given up."""
        self.view.clear()
        point.tries += 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # of each run's several lines one is worth saying here
                status = deploy(point.plan, force=True)
        except (Refused, InputError) as refused:
            if point.tries >= TRIES or isinstance(refused, InputError):
                self.turn(point, REFUSED, str(refused))
            else:
                self.view.say(f"{point.words}: not deployed, trying again: {str(refused).splitlines()[-1]}")
            return
        if status == 0:
            point.seen = True
            self.turn(point, "deployed", "")

    def stumble(self, what: str) -> None:
        """The cluster did not answer; said once."""
        if not self.trouble:
            self.view.say(f"the cluster does not answer, trying again: {what}")
        self.trouble = what

    def is_stuck(self) -> bool:
        """Whether for a while nothing has run or begun, and a pod has been unable to start without somebody's help."""
        states = {point.state for point in self.points if not point.over}
        if STUCK not in states or states - {STUCK, "queued", MISSING}:
            self.stuck_since = None
            return False
        self.stuck_since = self.stuck_since or time.monotonic()
        return time.monotonic() - self.stuck_since > SECONDS_STUCK

    def lines(self) -> list[str]:
        """The present state; on a low terminal without the points that are over."""
        done = sum(point.state == COMPLETE for point in self.points)
        room = max(shutil.get_terminal_size().lines - 4, 4)
        shown = self.points
        if len(shown) > room:
            shown = [point for point in self.points if point.busy] or self.points
        wide = max(len(point.words) for point in self.points)
        lines = [f"{self.name}   {done} of {len(self.points)} done"]
        lines += [line_of(point, wide) for point in shown[:room]]
        if more := len(self.points) - len(shown[:room]):
            lines.append(f"  and {more} more")
        return [*lines, *([f"the cluster does not answer, trying again: {self.trouble}"] if self.trouble else [])]


def line_of(point: Point, wide: int) -> str:
    """A point in one line: where it stands, or why it does not."""
    what = step_line(point.progress) if point.state == "running" and point.progress.step is not None else point.reason
    if point.state == "running" and point.progress.step is None and point.progress.stage:
        what = f"{point.progress.stage} …"
    return f"  {point.words:{wide}}  {point.state:10}  {what}".rstrip()
