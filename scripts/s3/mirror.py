"""Keeps what a run makes in S3 while the run goes on, from a thread beside it.

runs/<run>/owner.json                         the pod that writes here; one that finds another's name stops writing
runs/<run>/log.jsonl, before.json …           single files, each put whole
runs/<run>/data/, adapter/, model/, merged/   each with tunefleet.json, last; put once the record says that it is done
runs/<run>/after.json, report.html, run.json  put behind the results that they speak of: a run counts by them
runs/<run>/checkpoints/checkpoint-N/          with manifest.json, last; an older one goes when a newer one is whole
A server that is away stops nothing: what could not be put is put when it is back.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from urllib3.exceptions import HTTPError

from scripts.s3 import manifest as manifests
from scripts.s3.address import Address
from scripts.s3.objects import delete_objects, push_files, put_bytes, put_text
from scripts.s3.trouble import REFUSED, S3Failed, patiently
from train import checkpoint
from train.errors import InputError
from train.events import tell
from train.stored import read_json

OWNER = "owner.json"
RESULTS = {"data": "check-data", "adapter": "train", "model": "train", "merged": "merge"}  # directory: its stage
STAGE_OF = {"before.json": "before", "after.json": "after", "report.html": "report"}  # each stands for its stage
LAST = ("after.json", "report.html", "run.json")  # in this order: what makes a run count as done
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_WORDS = 30.0
AT_ONCE = 2  # requests: the processors are the training's
PATIENCE = 20.0  # seconds of one look; the next one goes on
LARGE = 1 << 20  # bytes; a log of this size is put only now and then
SECONDS_BETWEEN_LARGE = 60.0


class TakenOver(Exception):
    """Another pod writes this run now."""


@dataclass
class Mirror:
    """The mirror of one run; `owner` is this pod's name."""

    client: Any
    run: Path
    address: Address
    owner: str
    put: dict[str, tuple] = field(default_factory=dict)  # file: time of change and size, when it was put
    when: dict[str, float] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # directories that are whole there
    steps: set[int] = field(default_factory=set)  # checkpoints that are whole there
    begun: set[int] = field(default_factory=set)  # checkpoints of which something is there, whole or not
    trouble: str = ""
    since: float = 0.0
    told: float = 0.0
    deadline: float = float("inf")
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Take the run over, see what is there, and start looking. Raises InputError or S3Failed where that fails."""
        put_text(self.client, self.address, OWNER, f'{{"pod": "{self.owner}"}}\n', {})
        there = manifests.listing(self.client, self.address)
        self.steps, self.begun = set(whole_steps(there)), begun_steps(there)
        self.thread = threading.Thread(target=self.keep_looking, daemon=True, name="mirror")
        self.thread.start()

    def finish(self, seconds: float) -> str:
        """Put all that is left, for so long at most; returns what stands in the way, empty for nothing."""
        self.deadline = time.monotonic() + seconds
        self.over.set()
        if self.thread:
            self.thread.join(seconds)
        while not self.attempt(everything=True) and time.monotonic() < self.deadline:
            if self.trouble.startswith("another pod"):
                break
            time.sleep(min(SECONDS_BETWEEN_LOOKS, max(self.deadline - time.monotonic(), 0)))
        return self.trouble

    def keep_looking(self) -> None:
        """Look every now and then, until it is over."""
        try:
            while not self.over.wait(SECONDS_BETWEEN_LOOKS):
                self.attempt()
        finally:
            if not self.over.is_set():  # by an error of the program's own, which Python prints
                self.say("the mirror has ended by an error of its own, which stands in the log; the end tries again")

    def attempt(self, everything: bool = False) -> bool:
        """One look; whether it went well. What is in the way is told when it begins, now and then, and when it ends."""
        try:
            self.look(everything)
        except (InputError, S3Failed, TakenOver, OSError, HTTPError, *REFUSED) as error:
            # What is gone may be a checkpoint that was rotated away while it was read: once that is not worth a word.
            rotated = isinstance(error, FileNotFoundError) and not self.trouble
            self.say((str(error) or type(error).__name__).splitlines()[0], aloud=not rotated)
            return False
        if self.trouble:
            if self.told:
                tell("mirror", state="goes on", seconds=round(time.monotonic() - self.since, 1))
            self.trouble = ""
        return True

    def say(self, reason: str, aloud: bool = True) -> None:
        """Note trouble, and tell of it."""
        now = time.monotonic()
        if not self.trouble:
            self.since, self.told = now, 0.0
        self.trouble = reason
        if aloud and (not self.told or now - self.told > SECONDS_BETWEEN_WORDS):
            self.told = now
            tell("mirror", state="waiting", reason=reason, seconds=round(now - self.since, 1))

    # ---- one look ----

    def look(self, everything: bool) -> None:
        """Put what is new: single files, finished results, the files that say so, checkpoints; then remove old ones."""
        self.check_owner()
        stages = self.stages()
        files = {str(path.relative_to(self.run)): path for path in self.files()}
        ripe = [name for name in files if name not in STAGE_OF or STAGE_OF[name] in stages]
        for name in ripe:
            if name not in LAST:
                self.put_file(files[name], name, everything)
        for name, stage in RESULTS.items():
            if stage in stages and name not in self.done and (self.run / name).is_dir():
                self.push(self.run / name, name)
                self.done.add(name)
        if self.stages() == stages:  # else they may speak of a result that came meanwhile: the next look puts it first
            for name in (name for name in LAST if name in ripe):
                self.put_file(files[name], name, everything)
        root = self.run / "checkpoints"
        for step in reversed(checkpoint.steps_of(root)):
            if step not in self.steps:
                self.push_checkpoint(root / f"checkpoint-{step}", step)
        here = set(checkpoint.steps_of(root))
        if here and max(here) in self.steps:
            for step in sorted(self.begun - here):
                self.remove(step)

    def stages(self) -> dict[str, Any]:
        """The stages that the record says are done."""
        return read_json(self.run / "run.json").get("stages", {})

    def files(self) -> list[Path]:
        """The run's single files."""
        found = [*self.run.iterdir(), *(self.run / "tensorboard").rglob("*")]
        return sorted(path for path in found if path.is_file() and not path.name.startswith(".") and path.name != OWNER)

    def put_file(self, path: Path, name: str, everything: bool = True) -> None:
        """One file, where it has changed since it was put."""
        now = path.stat()
        stamp = (now.st_mtime_ns, now.st_size)
        if self.put.get(name) == stamp:
            return
        fresh = time.monotonic() - self.when.get(name, -SECONDS_BETWEEN_LARGE) < SECONDS_BETWEEN_LARGE
        if not everything and now.st_size > LARGE and fresh:
            return
        put_bytes(self.client, self.address, name, path.read_bytes(), self.patience())
        self.put[name], self.when[name] = stamp, time.monotonic()

    def push_checkpoint(self, path: Path, step: int) -> None:
        """A checkpoint, with the curve that led to it; older ones that wait longer than they live are left out."""
        began = time.monotonic()

        def before_last() -> None:
            self.put_file(self.run / "metrics.jsonl", "metrics.jsonl")
            self.check_owner()

        self.begun.add(step)
        self.push(path, f"checkpoints/{path.name}", before_last)
        self.steps.add(step)
        tell("mirrored", step=step, seconds=round(time.monotonic() - began, 2))

    def push(self, path: Path, name: str, before_last: Callable[[], None] = lambda: None) -> None:
        """A directory, its manifest last."""
        own = manifests.of_directory(path) or manifests.make(path)
        push_files(
            self.client, path, own, self.address / name, AT_ONCE, lambda count: None, self.patience(), before_last
        )

    def remove(self, step: int) -> None:
        """A checkpoint that is gone here, its manifest first; and what a cut upload of it left."""
        where = self.address / f"checkpoints/checkpoint-{step}"
        names = sorted(manifests.listing(self.client, where, **self.patience()))
        first = [name for name in names if name == checkpoint.MANIFEST]
        delete_objects(self.client, where, first + [name for name in names if name not in first], self.patience())
        self.steps.discard(step)
        patiently(lambda: self.abort_uploads(where), where, **self.patience())
        self.begun.discard(step)

    def abort_uploads(self, where: Address) -> None:
        """Give up the uploads that were cut there: nobody lists them, and they take room."""
        listed = self.client.list_multipart_uploads(Bucket=where.bucket, Prefix=where.below)
        for one in listed.get("Uploads", []):
            self.client.abort_multipart_upload(Bucket=where.bucket, Key=one["Key"], UploadId=one["UploadId"])

    def check_owner(self) -> None:
        """Raise TakenOver where another pod has written its name: one that was started because this one seemed lost."""
        text = manifests.read_text(self.client, self.address, OWNER, **self.patience())
        if text is not None and f'"{self.owner}"' not in text:
            raise TakenOver(f"another pod has taken this run over: {text.strip()}")

    def patience(self) -> dict[str, Any]:
        """How long one request is tried: for the length of a look, or until the end."""
        left = self.deadline - time.monotonic()
        return {"seconds": min(PATIENCE, max(left, 0.0)), "stopped": lambda: time.monotonic() > self.deadline}


def results_of(record: dict[str, Any]) -> set[str]:
    """The directories that a run makes, by its record."""
    recipe = record.get("recipe", {})
    if recipe.get("method") == "full":
        return {"data", "model"}
    return {"data", "adapter", *(["merged"] if recipe.get("merge") else [])}


def whole_steps(there: dict[str, tuple[int, str]]) -> list[int]:
    """The steps whose checkpoints are whole, by the listing of a run: those with a manifest."""
    return sorted(begun_steps({name: what for name, what in there.items() if name.endswith(f"/{checkpoint.MANIFEST}")}))


def begun_steps(there: dict[str, tuple[int, str]]) -> set[int]:
    """The steps of whose checkpoints something is there, by the listing of a run."""
    names = [name.split("/") for name in there if name.startswith("checkpoints/checkpoint-")]
    steps = [one[1].removeprefix("checkpoint-") for one in names if len(one) > 2]
    return {int(step) for step in steps if step.isdigit()}
