"""What the hub is asked before a transfer: which commit a revision means, and which files it has."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import HfApi, RepoFile, get_session, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from scripts.fetch.choose import INDEX, File
from scripts.fetch.messages import Asked, FetchFailed, endpoint, explain, host, passes, unreachable
from scripts.fetch.session import Busy, client, token
from train.errors import InputError, problem

TRIES_WHILE_BUSY = 6
TRIES_WITHOUT_ANSWER = 3
LONGEST_WAIT = 900.0  # seconds; the public hub counts requests in windows of five minutes
TIMEOUT = 30.0


@dataclass(frozen=True)
class Found:
    """A repository as the hub knows it, pinned to a commit."""

    commit: str
    facts: dict[str, Any]  # licence, gated and the like, for the manifest


def resolve(asked: Asked) -> Found:
    """The commit that the revision means now. Raises InputError or FetchFailed, each with what to do."""
    info = patiently(lambda api: api.repo_info(asked.name, revision=asked.revision, repo_type=asked.kind,
                                               timeout=TIMEOUT), asked)  # fmt: skip
    card = info.card_data.to_dict() if info.card_data else {}
    facts = {"licence": card.get("license"), "licence_name": card.get("license_name"),
             "licence_link": card.get("license_link"), "base_model": card.get("base_model")}  # fmt: skip
    known = {key: value for key, value in facts.items() if value is not None}
    return Found(info.sha, {"licence": None} | known | {"gated": getattr(info, "gated", None) or False})


def listing(asked: Asked, commit: str) -> list[File]:
    """Every file of the commit, with size and the hashes that the hub knows."""
    tree = patiently(
        lambda api: list(api.list_repo_tree(asked.name, recursive=True, revision=commit, repo_type=asked.kind)), asked
    )
    return [
        File(one.path, one.size, one.blob_id, one.lfs.sha256 if one.lfs else None)
        for one in tree if isinstance(one, RepoFile)
    ]  # fmt: skip


def index_of(asked: Asked, commit: str, files: list[File]) -> bytes | None:
    """The index of a model in several weight files, None where it has none."""
    listed = next((file for file in files if file.name == INDEX), None)
    if listed is None:
        return None

    def get(api: HfApi) -> bytes:
        url = hf_hub_url(asked.name, INDEX, revision=commit, endpoint=endpoint())
        answer = get_session().get(url, headers=build_hf_headers(token=token()))
        hf_raise_for_status(answer)
        return answer.content

    content = patiently(get, asked)
    sha256, blob = hashlib.sha256(content), hashlib.sha1(b"blob %d\0" % len(content) + content)
    if (sha256.hexdigest() if listed.sha256 else blob.hexdigest()) != (listed.sha256 or listed.blob):
        raise FetchFailed(f"{asked}: {INDEX} arrived damaged from {host()}; the same command tries again")
    return content


def shards_of(index: bytes | None, asked: Asked) -> set[str] | None:
    """The weight files that an index names."""
    if index is None:
        return None
    try:
        return set(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        fix = "take another REVISION=, or another copy of this model"
        raise InputError(problem(f"model {asked.name}", INDEX, "is no index of weight files", fix)) from None


def patiently(question: Callable[[HfApi], Any], asked: Asked) -> Any:
    """The answer to a question, asked again while the hub is busy or the link fails, as often as makes sense."""
    set_client_factory(client)
    api = HfApi(endpoint=endpoint(), token=token())
    for tried in range(1, TRIES_WHILE_BUSY + 1):
        try:
            return question(api)
        except Busy as busy:
            if tried < TRIES_WHILE_BUSY:
                wait_for(busy.seconds, tried, f"status {busy.status}")
        except RevisionNotFoundError:
            raise unknown_revision(asked, api) from None
        except (HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError, OSError) as error:
            if not passes(error):
                raise explain(error, asked, bool(token())) from None
            if tried == TRIES_WITHOUT_ANSWER:
                raise unreachable(error) from None
            wait_for(None, tried, type(error).__name__)
    raise FetchFailed(f"{host()} is still busy after {TRIES_WHILE_BUSY} tries; try the same command later")


def wait_for(seconds: float | None, tried: int, why: str) -> None:
    """Wait as long as the hub asks, or longer with every try, and say so. Raises FetchFailed where that is too long."""
    if seconds is None:
        seconds = min(2.0 ** (tried - 1), 60.0)
        print(f"{host()} does not answer ({why}): trying again in {seconds:.0f} s", flush=True)
    elif seconds > LONGEST_WAIT:
        raise FetchFailed(f"{host()} asks to wait {seconds:.0f} s; the same command goes on after that")
    else:
        print(f"{host()} asks to wait {seconds:.0f} s ({why})", flush=True)
    time.sleep(seconds)


def unknown_revision(asked: Asked, api: HfApi) -> InputError:
    """What to say of a revision that is not there: the names that are."""
    try:
        refs = api.list_repo_refs(asked.name, repo_type=asked.kind)
        names = ", ".join([one.name for one in (*refs.branches, *refs.tags)][:10])
    except (HfHubHTTPError, httpx2.HTTPError, Busy, ValueError):
        names = ""
    fix = f"there are: {names}; or a commit" if names else "give a branch, a tag or a commit that is on the hub's page"
    return InputError(problem(asked.kind, asked.name, f"has no revision {asked.revision or 'main'}", fix))
