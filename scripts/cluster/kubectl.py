"""Ask the cluster through kubectl, so that contexts, logins and proxies are the user's own."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from scripts.cluster.connection import Connection, NoAnswer, refusal
from scripts.cluster.names import NAMESPACE
from train.errors import InputError, problem

SECONDS = 60
# kubectl lives too briefly for its garbage to be worth collecting: without, a render takes two fifths of the CPU time,
# other calls four fifths. The limit brings the collector back where an answer is that large.
BRIEF = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}


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
    connection: Connection | None = field(default=None, compare=False, repr=False)  # of `connected`

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
                self.command(*words),
                input=given,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"kubectl {words[0]}: no answer within {seconds:.0f} s", 124) from None
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip(), done.returncode)
        return done.stdout

    def raw(self, path: str, seconds: float = SECONDS) -> dict:
        """The API server's own answer to a GET; much faster than `kubectl get -o json` for thousands of objects."""
        path = f"/{path.lstrip('/')}"
        answer = self.over_connection("GET", path, seconds)
        return parse(self.run("get", "--raw", path, seconds=seconds) if answer is None else answer)

    def try_post(self, path: str, body: dict) -> dict:
        """What the API server would make of a new object, without making it. Unknown fields are refused."""
        path, text = f"/{path}?dryRun=All&fieldValidation=Strict", json.dumps(body)
        answer = self.over_connection("POST", path, SECONDS, text)
        return parse(self.run("create", "--raw", path, "-f", "-", given=text) if answer is None else answer)

    def over_connection(self, method: str, path: str, seconds: float, body: str | None = None) -> str | None:
        """The API server's answer, None where there is no connection to it or kubectl has to say what it said."""
        if self.connection is None:
            return None
        try:
            status, text = self.connection.ask(method, path, seconds, body)
            if status >= 300:
                raise Refused(refusal(text), 1)
        except TimeoutError:
            raise Refused(f"kubectl proxy: no answer within {seconds:.0f} s", 124) from None
        except NoAnswer:
            return None
        return text

    def get(self, kind: str, name: str) -> dict | None:
        """One object of the namespace (or of the cluster), None where there is none."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output", "json")
        return parse(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[dict]:
        """Objects of the namespace, by label selector."""
        words = ["get", kind, "--output", "json", *(["--selector", selector] if selector else [])]
        return parse(self.run(*words))["items"]


def environment() -> dict[str, str]:
    """This process' environment for a kubectl that answers and ends; what a user set there stays."""
    return BRIEF | os.environ


@contextmanager
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, asked over one kubectl for as long as the block lasts; the same where it is already."""
    if cluster.connection:
        yield cluster
        return
    with closing(Connection(cluster.command)) as connection:
        yield replace(cluster, connection=connection)


def parse(text: str) -> dict:
    """The cluster's answer as an object. Raises Refused where it is none: a proxy's page, or the half of an answer."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Refused(f"the answer is torn, or not the API server's: it begins with {text[:80]!r}", 1)
    return answer
