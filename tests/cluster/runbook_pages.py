"""The commands of docs/runbooks, typed as they stand there, with a test's own names in the place of the examples'."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.cluster.runs import ROOT, clean, described, make

PAGES = ROOT / "docs" / "runbooks"
EXAMPLE_RUN, EXAMPLE_NODE, EXAMPLE_SPACE = re.compile(r"[a-z]+-1a2b3c4d"), "node2", "--namespace finetune"
PLANS = ("preflight", "deploy")  # take recipe and placement: a test's are smaller than the overlay's


def commands(page: str, section: str) -> list[str]:
    """The commands of a page's section as a person copies them, without the words behind them."""
    text = (PAGES / f"{page}.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [re.sub(r"\s+#.*", "", line.strip()) for line in text.splitlines() if line.startswith("    ")]


@dataclass
class Desk:
    """Where a page's commands are typed: a namespace, and the run that is in trouble."""

    space: str
    run: str
    node: str = EXAMPLE_NODE
    overlay: str = "demo"
    recipe: dict | None = None
    place: dict | None = None
    words: Sequence[str] = ()  # what a plan is told besides

    def type(self, page: str, section: str, only: Sequence[str] = ("",), codes: Sequence[int] = (0,)) -> str:
        """Type those of the section's commands that have one of these words; what they print.

        Fails where there is none, or where one leaves with another code.
        """
        chosen = [line for line in commands(page, section) if any(word in line for word in only)]
        assert chosen, f"{page}.md has no such command: {only}"
        return "".join(self.one(line, codes) for line in chosen)

    def one(self, line: str, codes: Sequence[int]) -> str:
        """Type one command."""
        line = EXAMPLE_RUN.sub(self.run, line).replace(EXAMPLE_NODE, self.node)
        line = line.replace(EXAMPLE_SPACE, f"--namespace {self.space}")
        if line.startswith("make "):
            line = shlex.join(self.in_full(shlex.split(line)))
        print(f"$ {line}", flush=True)
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=clean(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode in codes, f"{line}: {done.returncode}: {done.stdout[-4000:]}"
        return done.stdout

    def in_full(self, words: list[str]) -> list[str]:
        """make's words with the namespace; a plan's with the test's recipe, and the page's values over its place."""
        words += [f"NAMESPACE={self.space}", f"PYTHON={sys.executable}", "BASE=", "ANSIBLE="]
        if not set(PLANS) & set(words):
            return words
        own = next((word.removeprefix("PLACE=") for word in words if word.startswith("PLACE=")), "")
        overlay, values, place = described(self.overlay, self.recipe or {}, self.place or {})
        keys = {pair.partition("=")[0] for pair in own.split()}
        kept = [pair for pair in place.removeprefix("PLACE=").split() if pair.partition("=")[0] not in keys]
        words = [word for word in words if not word.startswith(("PLACE=", "OVERLAY="))]
        return [*words, overlay, values, " ".join([f"PLACE={' '.join(kept)}", *own.split()]), *self.words]


def until_told(desk: Desk, wanted: str, seconds: float = 180) -> str:
    """What `make status RUN=` says once it says this. Fails where it does not within the time."""
    deadline, said = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        said = make(desk.space, "status", f"RUN={desk.run}", code=None)
        if wanted in said:
            return said
        time.sleep(2)
    raise AssertionError(f"{wanted!r} is never told: {said}")
