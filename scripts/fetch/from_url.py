"""A file of rows at a URL goes into the store as a data set: resumed after cuts, only with the bytes that were meant.

TLS, unless the host is this machine. No password or token is ever sent, neither there nor where it redirects to.
"""

import errno
import http.client
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from scripts.fetch import one_file
from scripts.fetch.hub import Patience, check_room
from scripts.fetch.messages import AGAIN, FetchFailed, store_watched
from scripts.fetch.session import BUSY, seconds_asked
from scripts.transfer_view import View, amount
from train import stored
from train.errors import InputError, problem
from train.files import hash_file

BLOCK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
TRIES = 6  # in a row without a byte
LONGEST_WAIT = 300.0
LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
DIGEST = re.compile(r"[0-9a-f]{64}")
REFUSED = {
    401: "asks for a login",
    403: "refuses",
    404: "is not there",
    410: "is gone",
    407: "the proxy asks for a login",
}


class Interrupted(Exception):
    """The transfer broke off; `seconds` is how long the server asks to wait, None where it does not say."""

    def __init__(self, why: str, seconds: float | None = None):
        self.seconds = seconds
        super().__init__(why)


# ---- what was given ----


def shown(url: str) -> str:
    """The URL for people and for the manifest, without what may be a secret: a password, a query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL; what stands before the last @ may be a password all the same
        return url.partition("?")[0].rpartition("@")[2]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def file_name(url: str) -> str:
    """The last part of the URL's path."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def check_url(url: str, sha256: str) -> list[str]:
    """Everything that is wrong with a URL and its checksum; an empty list for nothing."""
    if re.search(r"[\s\x00-\x1f]", url):
        return [problem("DATA", shown(url), "is no URL", "write spaces in it as %20")]
    try:
        parts, problems = urlsplit(url), []
        parts.port  # noqa: B018 (raises ValueError where it is none)
    except ValueError as error:
        fix = "write https://host/path/rows.jsonl, a port as :8443, an IPv6 address in brackets"
        return [problem("DATA", shown(url), f"is no URL ({error})", fix)]
    if parts.username or parts.password:
        fix = "take it out, fetch the file by other means, and give it: DATA=file"
        problems.append(problem("DATA", shown(url), "holds a user or password, which would end in logs", fix))
    problems += unsafe(parts)
    problems += one_file.check_name(file_name(url))
    if not sha256:
        fix = f"take it from who publishes it, or get it once over a link you trust: curl -L {shown(url)} | sha256sum"
        problems.append(problem("SHA256", "", "is missing: nobody could tell whether the right bytes arrived", fix))
    elif not DIGEST.fullmatch(sha256):
        problems.append(problem("SHA256", sha256, "is no SHA-256", "give its 64 digits, 0 to 9 and a to f"))
    return problems


def unsafe(parts: SplitResult) -> list[str]:
    """The problem of an address that is not asked in the clear, or not by HTTP at all."""
    loopback = LOOPBACK.fullmatch(parts.hostname or "")
    if parts.scheme == "https" and parts.hostname:
        return []
    if parts.scheme == "http" and loopback:
        return []
    if parts.scheme == "http":
        fix = "give it with https://, or fetch it by other means and give DATA=file"
        return [problem("DATA", shown(parts.geturl()), "has no TLS, so anybody on the way can see and change it", fix)]
    return [problem("DATA", shown(parts.geturl()), "is no address of HTTP", "give https://host/path/rows.jsonl")]


# ---- the transfer ----


class SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not out of TLS."""

    def redirect_request(self, request, file, code, message, headers, url):
        """The next request. Raises InputError where the way leads into the clear."""
        problems = unsafe(urlsplit(url))
        if problems:
            what = f"redirects to {shown(url)}, which has no TLS"
            fix = "fetch it by other means and give DATA=file"
            raise InputError(problem("DATA", shown(request.full_url), what, fix))
        return super().redirect_request(request, file, code, message, headers, url)


@store_watched()
def fetch_url(url: str, sha256: str, store: Path) -> Path:
    """Publish the file at the URL, whose hash is `sha256`; returns the data set's directory.

    Raises InputError where the URL, the checksum or the file is wrong, FetchFailed where the link is.
    """
    artifact = one_file.artifact_of(file_name(url), sha256)
    with stored.lock(artifact, store, Patience(artifact)):
        there = one_file.already_there(artifact, store)
        if there:
            return there
        file = artifact.incoming(store) / file_name(url)
        file.parent.mkdir(exist_ok=True)
        resumed, found = False, hash_file(file) if file.is_file() else ""
        if found != sha256:  # else it was killed between its last byte and its publication
            resumed = transfer(url, file, store)
            found = hash_file(file)
        if found != sha256 and resumed:
            print("what came in pieces does not fit the checksum; once more from the start", flush=True)
            file.unlink()
            transfer(url, file, store)
            found = hash_file(file)
        if found != sha256:
            shutil.rmtree(file.parent)
            fix = "compare it with what the publisher says; the file may have changed, or be a page that says no"
            raise InputError(problem("SHA256", sha256, f"{shown(url)} has {found}", fix))
        return one_file.publish(artifact, store, file, {"url": shown(url)})


def transfer(url: str, file: Path, store: Path) -> bool:
    """Bring the whole file, going on after each interruption where it was; returns whether it came in pieces."""
    print(f"fetching {shown(url)}", flush=True)
    failures, resumed = 0, have(file) > 0
    with View(file.name, have(file), have(file)) as view:
        while True:
            before = have(file)
            try:
                bring(url, file, store, view)
                return resumed
            except Interrupted as interrupted:
                resumed, failures = True, 1 if have(file) > before else failures + 1
                if failures >= TRIES:
                    raise FetchFailed(f"{shown(url)}: {interrupted}, {failures} times in a row; {AGAIN}") from None
                wait(view, interrupted, failures)


def have(file: Path) -> int:
    """The bytes that are there."""
    return file.stat().st_size if file.exists() else 0


def wait(view: View, interrupted: Interrupted, failures: int) -> None:
    """Say what happened and wait as the server says, or longer with each failure."""
    seconds = min(2.0 ** (failures - 1), 30.0) if interrupted.seconds is None else interrupted.seconds
    if seconds > LONGEST_WAIT:
        raise FetchFailed(f"the server asks to wait {seconds:.0f} s; {AGAIN}, after that time")
    asked = "" if interrupted.seconds is None else ", as the server asks"
    view.say(f"{interrupted}; going on in {seconds:.0f} s{asked}")
    time.sleep(seconds)


def bring(url: str, file: Path, store: Path, view: View) -> None:
    """Fetch what is missing of the file by one request. Raises Interrupted where it breaks off."""
    done = have(file)
    headers = {"Accept-Encoding": "identity", "User-Agent": "tunefleet"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with opener(url).open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            if done and answer.status != 206:  # it does not know ranges, and sends all of it
                done = 0
            total = whole_size(answer, done)
            check_room((total or done) - done, store)
            view.total = view.bar.total = total or done
            view.set(done)
            with file.open("r+b" if done else "wb") as target:
                target.seek(done)
                receive(answer, target, view, total, store)
    except urllib.error.HTTPError as error:
        refuse(error, url, file)
    except urllib.error.URLError as error:
        raise unreachable(error.reason, url) from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise Interrupted(f"the connection broke off: {error or type(error).__name__}") from None


def receive(answer: http.client.HTTPResponse, target, view: View, total: int | None, store: Path) -> None:
    """Write what comes to the file. Raises Interrupted where it is less than was said."""
    while block := answer.read(BLOCK):
        if total is None:
            check_room(len(block), store)
            view.total = view.bar.total = view.done + len(block)
        target.write(block)
        view.add(len(block))
    if total is not None and target.tell() < total:
        raise Interrupted(f"the connection ended {amount(total - target.tell())} early")


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens the URL: through the proxy of the environment, but never for this machine itself."""
    own = LOOPBACK.fullmatch(urlsplit(url).hostname or "")
    proxies = [urllib.request.ProxyHandler({})] if own else []
    return urllib.request.build_opener(SafeRedirect, *proxies)


def whole_size(answer: http.client.HTTPResponse, done: int) -> int | None:
    """The size of the whole file, None where it is not said. Raises Interrupted for a range nobody asked for."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != done:
            raise Interrupted("the server sent other bytes than were asked for")
        return None if found[2] == "*" else int(found[2])
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def refuse(error: urllib.error.HTTPError, url: str, file: Path) -> None:
    """Raise what an answer means that is no file."""
    if error.code == 416:  # more is here than there is: another file had this name, or it has changed
        file.unlink(missing_ok=True)
        raise Interrupted("the server has less than what is here; from the start")
    if error.code in BUSY:
        raise Interrupted(f"the server answers with status {error.code}", seconds_asked(error.headers))
    what = f"{REFUSED.get(error.code, 'is refused')} (status {error.code})"
    fix = "open it in a browser and correct the address; what needs a login is fetched by hand: DATA=file"
    raise InputError(problem("DATA", shown(url), what, fix))


def unreachable(reason: object, url: str) -> Exception:
    """What it means that no conversation began."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        fix = "name the file of your own authority in SSL_CERT_FILE"
        return InputError(problem("DATA", shown(url), f"its certificate is not trusted: {reason.verify_message}", fix))
    if isinstance(reason, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(reason):
        return InputError(problem("DATA", shown(url), "speaks no TLS", "correct host and port"))
    if isinstance(reason, socket.gaierror):
        return Interrupted(f"the name {urlsplit(url).hostname} is not known here (no network, no DNS, or mistyped)")
    if isinstance(reason, OSError) and reason.errno == errno.ECONNREFUSED:
        return Interrupted("nothing listens there")
    return Interrupted(f"cannot be reached: {reason}")
