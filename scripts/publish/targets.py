"""Where a publication goes: a directory, a prefix in S3, or a repository of a hub; named by TO on the make line."""

import re
from dataclasses import dataclass
from pathlib import Path

from train.errors import InputError, problem

EXAMPLES = "give TO=directory, TO=s3://bucket/prefix or TO=hub:owner/name"
HUB = "hub:"


class PublishFailed(Exception):
    """The other side did not do it, and it is not what the user gave; the same command goes on."""


@dataclass(frozen=True)
class Target:
    """`kind`: directory, s3 or hub; `place`: path, URL or owner/name; `name`: what the publication is called."""

    kind: str
    place: str
    name: str

    def __str__(self) -> str:
        return f"{HUB}{self.place}" if self.kind == "hub" else self.place


def parse(to: str) -> Target:
    """The target that TO names. Raises InputError where it names none."""
    if not to:
        raise InputError(problem("TO", "", "is empty: where shall it go?", EXAMPLES))
    if to.startswith(HUB):
        return parse_hub(to.removeprefix(HUB))
    if to.startswith("s3:"):
        from scripts.s3 import address

        where = address.parse(to)
        if not where.prefix:
            fix = f"give it a place of its own: TO={where}/name"
            raise InputError(problem("TO", to, "is a whole bucket", fix))
        return Target("s3", str(where), where.prefix.rpartition("/")[2])
    if re.match(r"[\w+.-]+://", to) or to.startswith("hf:"):
        raise InputError(problem("TO", to, "is no place to publish to", EXAMPLES))
    path = Path(to).expanduser()
    return Target("directory", str(path), path.resolve().name)


def parse_hub(repository: str) -> Target:
    """A repository of the hub that HF_ENDPOINT names, or else of the public one."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    fix = "write TO=hub:owner/name, owner being you or an organisation you may write to"
    if repository.count("/") != 1:
        raise InputError(problem("TO", f"{HUB}{repository}", "is no repository: it needs an owner and a name", fix))
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(problem("TO", f"{HUB}{repository}", str(error).splitlines()[0], fix)) from None
    return Target("hub", repository, repository.partition("/")[2])
