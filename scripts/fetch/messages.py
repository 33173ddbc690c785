"""What goes wrong between a hub and a store, said so that a person knows what to do; a token is never part of it."""

import contextlib
import errno
import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from train.errors import InputError, problem, see

THE_HUB = "https://huggingface.co"
AGAIN = "the same command goes on where this one stopped"
LOGIN = "put a token into HF_TOKEN, or log in once: .venv/bin/hf auth login"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE)


class FetchFailed(Exception):
    """Nothing the user gave is wrong, yet it did not work; the message says what the same command does next."""


@dataclass(frozen=True)
class Asked:
    """What the user wants: a model or a data set in a revision, None for its main branch."""

    kind: str  # model or dataset
    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" at {self.revision}" if self.revision else "")


def endpoint() -> str:
    """The hub that is asked: HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or THE_HUB).rstrip("/")


def shown_endpoint() -> str:
    """The hub's address for people, without a password that may stand in it."""
    parts = urlsplit(endpoint())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def host() -> str:
    """The hub's host, and its port where it has one."""
    return urlsplit(shown_endpoint()).netloc


def page(asked: Asked) -> str:
    """Where a person looks at a model or a data set."""
    return f"{shown_endpoint()}/{'datasets/' if asked.kind == 'dataset' else ''}{asked.name}"


def passes(error: Exception) -> bool:
    """Whether trying again may help: the link failed or the answer was cut, and nothing was refused."""
    if refusal_of_link(error):
        return False
    if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):
        return error.errno not in FULL + NOT_OURS
    return isinstance(error, httpx2.TransportError)


def explain(error: Exception, asked: Asked, with_token: bool) -> InputError | FetchFailed:
    """What to tell a person about an error that the hub, the link or the store made."""
    if said := refusal_of_link(error):
        return said
    if isinstance(error, HfHubHTTPError):
        return explain_answer(error, asked, with_token)
    if isinstance(error, httpx2.HTTPError):
        return FetchFailed(f"{host()} cannot be reached: {error or type(error).__name__}; {AGAIN}")
    if isinstance(error, OSError) and (said := of_store(error)):
        return said
    if isinstance(error, json.JSONDecodeError | KeyError | TypeError):
        fix = "HF_ENDPOINT names the hub's root, without a path; a proxy or a login page may stand between"
        return InputError(problem("HF_ENDPOINT", shown_endpoint(), "does not answer like a hub", fix))
    return FetchFailed(f"{asked}: {error or type(error).__name__}; {AGAIN}")


def of_store(error: OSError) -> FetchFailed | None:
    """What it means that the store does not take or give bytes; None for what is not the store's trouble."""
    if error.errno in FULL:
        room = f"make room (make models lists what is there), then {AGAIN}{see('store-full')}"
        return FetchFailed(f"the store is full: {error}; {room}")
    if error.errno in NOT_OURS:
        fix = "have who owns that give you the right to write there (chmod g+rw), or give another STORE="
        return FetchFailed(f"the store cannot be written to: {error}; {fix}")
    if error.errno in BROKEN:
        return FetchFailed(f"the store's disk fails: {error}; have it looked at (dmesg), or give another STORE=")
    return None


@contextlib.contextmanager
def store_watched() -> Iterator[None]:
    """The store's own trouble in one message, whatever in the block meets it. Raises FetchFailed."""
    try:
        yield
    except OSError as error:
        if said := of_store(error):
            raise said from None
        raise


def explain_answer(error: HfHubHTTPError, asked: Asked, with_token: bool) -> InputError | FetchFailed:
    """What a refusal of the hub means."""
    status = error.response.status_code
    where = asked.kind
    if isinstance(error, RevisionNotFoundError):
        return FetchFailed(
            f"{asked}: {host()} has lost the commit, somebody rewrote its history; the same command asks again"
        )
    if isinstance(error, GatedRepoError):
        what = "is gated: its owner wants terms accepted first"
        fix = f"open {page(asked)}, accept them there, and {LOGIN}"
        if with_token:
            what = "is gated, and the account of your token has not been let in"
            fix = f"open {page(asked)} with that account and accept the terms; some owners answer after days"
        return InputError(problem(where, asked.name, what, fix))
    if isinstance(error, EntryNotFoundError):
        name = urlsplit(str(error.response.url)).path.partition("/resolve/")[2].partition("/")[2]
        return FetchFailed(
            f"{asked}: {host()} lists {name} but does not have it; take another REVISION=, or another hub"
        )
    if isinstance(error, DisabledRepoError):
        return InputError(problem(where, asked.name, f"was disabled on {host()}", "take another one"))
    if status == 401 and with_token:
        fix = f"make a new one at {shown_endpoint()}/settings/tokens, then {LOGIN}{see('token-expired')}"
        return InputError(problem("HF_TOKEN", "", f"{host()} refuses the token: expired, revoked or mistyped", fix))
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        fix = f"compare the name with {page(asked)}"
        fix += " and ask whether your token may read it" if with_token else f"; if it is private, {LOGIN}"
        return InputError(problem(where, asked.name, f"is not on {host()}, or is private", fix))
    if status == 403:
        fix = "give the token the right to read this repository (a fine-grained token lists them one by one)"
        return InputError(problem(where, asked.name, f"{host()} forbids it to this token", fix))
    return FetchFailed(f"{asked}: {host()} answers with status {status}; {AGAIN}")


def refusal_of_link(error: Exception) -> InputError | FetchFailed | None:
    """What it means where no conversation begins: no such host, no TLS, a certificate nobody trusts, no proxy."""
    causes = chain(error)
    fix = "give HF_ENDPOINT as it is spelled on the hub's own pages, with http:// or https://"
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(cause):
            trust = "name the file of your own authority in SSL_CERT_FILE"
            return InputError(
                problem("HF_ENDPOINT", shown_endpoint(), f"its certificate is not trusted: {cause}", trust)
            )
        if isinstance(cause, ssl.SSLError) or "WRONG_VERSION_NUMBER" in str(cause):
            plain = f"if it is meant to speak plain HTTP, say so: HF_ENDPOINT=http://{host()}"
            return InputError(problem("HF_ENDPOINT", shown_endpoint(), "speaks no TLS that we understand", plain))
    if any(isinstance(cause, httpx2.UnsupportedProtocol | httpx2.InvalidURL) for cause in causes):
        return InputError(problem("HF_ENDPOINT", shown_endpoint(), "is no address of a hub", fix))
    if any(isinstance(cause, httpx2.ProxyError) for cause in causes):
        return FetchFailed(f"the proxy does not let us through to {host()}: {error}; see HTTPS_PROXY and NO_PROXY")
    return None


def unreachable(error: Exception) -> FetchFailed:
    """What it means that a hub could not be reached at all, after some tries."""
    causes = chain(error)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        why = "its name is not known here (no network, no DNS, or HF_ENDPOINT is mistyped)"
    elif any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        why = "nothing listens there (is HF_ENDPOINT right, and the mirror up?)"
    elif any(isinstance(cause, httpx2.TimeoutException) for cause in causes):
        why = "it does not answer (a firewall, or a proxy that HTTPS_PROXY should name?)"
    else:
        why = str(error) or type(error).__name__
    return FetchFailed(f"{host()} cannot be reached: {why}; without network, bring the files with make deliver")


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
