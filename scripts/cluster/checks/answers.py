"""An answer of the preflight: passed, failed or unknown, what was found, and what to do about it."""

import json
import re
from dataclasses import asdict, dataclass

from scripts.cluster.kubectl import Refused

PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"


@dataclass(frozen=True)
class Answer:
    """One line of the preflight; `fix` says what to do where it is not passed."""

    status: str
    question: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        lines = [f"{self.status:<8} {self.question}: {self.found}"]
        if self.status != PASSED and self.fix:
            lines.append(f"         fix: {self.fix}")
        return "\n".join(lines)


def as_json(answers: list[Answer]) -> str:
    """All answers for a program."""
    return json.dumps([asdict(answer) for answer in answers], indent=2)


def is_missing(fact: object) -> bool:
    """Whether the cluster said that there is no such object."""
    return isinstance(fact, Refused) and ("(NotFound)" in str(fact) or "the server could not find" in str(fact))


def is_forbidden(fact: object) -> bool:
    """Whether the cluster said that this person may not ask."""
    return isinstance(fact, Refused) and ("(Forbidden)" in str(fact) or "is forbidden" in str(fact))


def reason(fact: Refused) -> str:
    """What kubectl said, on one line, without the words every message begins with."""
    text = " ".join(str(fact).split())
    return re.sub(r"^Error from server( \(\w+\))?: ", "", text)[:400]


def not_told(question: str, what: str, fact: Refused) -> Answer:
    """The answer where the cluster did not say: unknown, with its reason, and who can help."""
    if is_forbidden(fact):
        fix = "ask the namespace's administrator for the right (`make cluster-setup` makes the role), or let them look"
        return Answer(UNKNOWN, question, f"{what} may not be read: {reason(fact)}", fix)
    return Answer(UNKNOWN, question, f"{what} could not be read: {reason(fact)}", "run make preflight again")
