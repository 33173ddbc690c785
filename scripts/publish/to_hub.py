"""A publication as one commit in a repository of a hub, compared afterwards with what lies here, file by file.

The hub is HF_ENDPOINT's, or the public one; the token is HF_TOKEN's, or that of `hf auth login`, and must be allowed to
write. A new repository is private: who may see it is decided on the hub.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from scripts.fetch.from_url import shown
from scripts.publish.contents import Contents
from scripts.publish.objections import Objection, objection
from scripts.publish.targets import PublishFailed
from train import stored
from train.errors import InputError, problem

KEPT = {".gitattributes"}  # the hub's own
TOKEN = "make one at settings/tokens on the hub, with the right to write, and set HF_TOKEN or use `hf auth login`"


def check(repository: str) -> list[str]:
    """What is wrong with the token or the owner. Raises PublishFailed where the hub is not reached."""
    if constants.HF_HUB_OFFLINE:
        return [problem("environment", "HF_HUB_OFFLINE", "is set, so no hub may be asked", "unset it to publish")]
    if not get_token():
        return [problem("environment", "HF_TOKEN", "is not set, and nobody is logged in", TOKEN)]
    try:
        who = HfApi().whoami()
    except LocalTokenNotFoundError:
        return [problem("environment", "HF_TOKEN", "is not set, and nobody is logged in", TOKEN)]
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            return [problem("environment", "HF_TOKEN", "is refused by the hub: wrong, expired or withdrawn", TOKEN)]
        raise PublishFailed(f"{shown(constants.ENDPOINT)}: {in_short(error)}") from None
    except httpx2.HTTPError as error:
        raise PublishFailed(f"{shown(constants.ENDPOINT)} is not reached: {in_short(error)}") from None
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        return [problem("environment", "HF_TOKEN", "may only read, and publishing needs the right to WRITE", TOKEN)]
    owner = repository.partition("/")[0]
    owners = [who.get("name"), *(one.get("name") for one in who.get("orgs") or [])]
    if owner not in owners:
        what = f"{owner} is neither you nor one of your organisations there ({', '.join(map(str, owners))})"
        return [problem("TO", f"hub:{repository}", what, f"write TO=hub:{owners[0]}/{repository.partition('/')[2]}")]
    return []


def look(repository: str, contents: Contents) -> tuple[bool, list[Objection]]:
    """Whether just this publication is the repository's newest state; and what is there instead."""
    there = guarded(repository, files_there, repository, None)
    if not there or there.keys() <= KEPT:
        return False, []
    wanted, more = expected(contents), there.keys() - contents.files.keys()
    if all(wanted[name] == there.get(name) for name in wanted) and more <= {*KEPT, stored.MANIFEST}:
        return True, []
    different = sorted(name for name in there.keys() - KEPT if there[name] != wanted.get(name))
    what = f"holds other content ({', '.join(different[:3])}{', …' if len(different) > 3 else ''})"
    return False, [objection("replace", f"TO: hub:{repository}", what, "give another name")]


def put(repository: str, contents: Contents, message: str) -> str:
    """Commit everything at once, look whether it is there, and return the commit and where to see it."""
    commit = guarded(repository, send, repository, contents, message)
    there, wanted = guarded(repository, files_there, repository, commit), expected(contents)
    wrong = [name for name in wanted if there.get(name) != wanted[name]]
    if wrong:
        raise PublishFailed(f"hub:{repository}: after commit {commit} these files differ there: {', '.join(wrong)}")
    return f"hub:{repository}, revision {commit}: {shown(constants.ENDPOINT)}/{repository}"


def send(repository: str, contents: Contents, message: str) -> str:
    """Make the repository where there is none, and one commit in it; returns the commit."""
    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    parent = api.repo_info(repository).sha
    sources = contents.sources | {stored.MANIFEST: contents.manifest_bytes()}
    operations: list[Any] = [CommitOperationAdd(name, source) for name, source in sources.items()]
    for one in operations:  # they were read for this just now, and long before for the card and the manifest
        known = contents.files.get(one.path_in_repo)
        if known and one.upload_info.sha256.hex() != known["sha256"]:
            fix = "publish again when nothing writes there"
            raise InputError(problem(sources[one.path_in_repo], "", "changed while it was published", fix))
    old = files_there(repository, parent).keys() - sources.keys() - KEPT
    operations += [CommitOperationDelete(name) for name in sorted(old)]
    # The parent makes the hub refuse where somebody else committed meanwhile.
    return api.create_commit(repository, operations, commit_message=message, parent_commit=parent).oid


def files_there(repository: str, revision: str | None) -> dict[str, str]:
    """Name and content's hash of every file: sha256 of a large one, git's of a small one; empty for no repository."""
    try:
        tree = list(HfApi().list_repo_tree(repository, revision=revision, recursive=True))
    except RepositoryNotFoundError:
        return {}
    return {one.path: one.lfs.sha256 if one.lfs else one.blob_id for one in tree if isinstance(one, RepoFile)}


def expected(contents: Contents) -> "dict[str, Either]":
    """What files_there should say of each file, the manifest left out: it holds the time."""
    return {name: Either(entry, contents.sources[name]) for name, entry in contents.files.items()}


class Either:
    """Equal to the hash of a file as a large one (sha256) or as a small one (git's): which it is, the hub decides."""

    def __init__(self, entry: dict[str, Any], source: Path | bytes):
        self.entry, self.source = entry, source

    def __eq__(self, other: object) -> bool:
        return other == self.entry["sha256"] or (isinstance(other, str) and len(other) == 40 and other == self.git())

    def git(self) -> str:
        """Git's identifier of these bytes."""
        digest = hashlib.sha1(f"blob {self.entry['size']}\0".encode(), usedforsecurity=False)
        digest.update(self.source if isinstance(self.source, bytes) else self.source.read_bytes())
        return digest.hexdigest()


def guarded(repository: str, work: Any, *arguments: Any) -> Any:
    """What `work` returns; what the hub refuses, in words."""
    where = f"hub:{repository}"
    try:
        return work(*arguments)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            what = f"may not be written with this token: {in_short(error)}"
            raise InputError(problem("TO", where, what, f"take an owner you may write to; or {TOKEN}")) from None
        if status in (409, 412):
            fix = "look what changed there, and publish again"
            what = f"was changed by somebody meanwhile: {in_short(error)}"
            raise InputError(problem("TO", where, what, fix)) from None
        raise PublishFailed(f"{where}: {in_short(error)}") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PublishFailed(f"{where}: {in_short(error)}") from None


def in_short(error: Exception) -> str:
    """The first line of an error that says something, without the client's links, and without a password in one."""
    message = getattr(error, "server_message", None) or str(error.__cause__ or error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return re.sub(r"//[^/@\s]+@", "//", lines[0]) if lines else type(error).__name__
