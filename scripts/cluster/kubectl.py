"""Ask the cluster through kubectl, so that contexts, logins and proxies are the user's own."""

import json
import shutil
import subprocess
from dataclasses import dataclass

from scripts.cluster.names import NAMESPACE
from train.errors import InputError, problem

SECONDS = 60


class Refused(Exception):
    """The cluster's answer was no; `status` is kubectl's exit status, the text is what it said."""

    def __init__(self, text: str, status: int):
        self.status = status
        super().__init__(text.strip() or f"kubectl ended with exit status {status} and said nothing")


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and which namespace in it."""

    context: str = ""  # empty: kubectl's current one
    namespace: str = NAMESPACE

    def command(self, *words: str) -> list[str]:
        """The command line of kubectl with these words."""
        if not shutil.which("kubectl"):
            fix = "install kubectl 1.31 or later (a single binary) and put it in PATH"
            raise InputError(problem("kubectl", "", "is not installed", fix))
        context = ["--context", self.context] if self.context else []
        return ["kubectl", *context, "--namespace", self.namespace, *words]

    def run(self, *words: str, given: str | None = None, seconds: float = SECONDS) -> str:
        """What kubectl prints; `given` goes to its standard input. Raises Refused where it fails."""
        try:
            done = subprocess.run(
                self.command(*words), input=given, capture_output=True, text=True, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"kubectl {words[0]}: no answer within {seconds:.0f} s", 124) from None
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip(), done.returncode)
        return done.stdout

    def raw(self, path: str, seconds: float = SECONDS) -> dict:
        """The API server's own answer to a GET; much faster than `kubectl get -o json` for thousands of objects."""
        return parse(self.run("get", "--raw", f"/{path.lstrip('/')}", seconds=seconds))

    def get(self, kind: str, name: str) -> dict | None:
        """One object of the namespace (or of the cluster), None where there is none."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output", "json")
        return parse(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[dict]:
        """Objects of the namespace, by label selector."""
        words = ["get", kind, "--output", "json", *(["--selector", selector] if selector else [])]
        return parse(self.run(*words))["items"]


def parse(text: str) -> dict:
    """The cluster's answer as an object. Raises Refused where it is none: a proxy's page, or the half of an answer."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Refused(f"the answer is torn, or not the API server's: it begins with {text[:80]!r}", 1)
    return answer
