"""What speaks against a publication: messages that refuse it, or sentences of its card where ALLOW named them."""

from dataclasses import dataclass

from train.errors import problem

WORDS = {  # what ALLOW may name, and what is allowed by it
    "licence": "the base's licence forbids it, asks for what is not given, or is unknown",
    "proof": "the merge is not proven",
    "incomplete": "the run is not complete",
    "changed": "files of the run changed since they were made",
    "replace": "other content at the target is replaced",
}


@dataclass(frozen=True)
class Objection:
    """One reason not to publish: the word of ALLOW that overrides it, the message, what the card says then."""

    word: str
    message: str
    said: str


def objection(word: str, where: object, what: str, fix: str, said: str = "") -> Objection:
    """An objection whose message names the word that overrides it. `said` defaults to what is wrong."""
    said_so = "replaces it" if word == "replace" else "publishes all the same, and the card says so"
    allowed = f"{fix}; or ALLOW={word} {said_so}"
    return Objection(word, problem(where, "", what, allowed), said or what)


def weigh(objections: list[Objection], allowed: set[str], problems: list[str]) -> list[str]:
    """The sentences for the card about what was allowed; what was not goes into `problems`."""
    problems += [one.message for one in objections if one.word not in allowed]
    return [one.said for one in objections if one.word in allowed]
