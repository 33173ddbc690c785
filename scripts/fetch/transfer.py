"""One pass over the files that are still missing, in a process of its own that its parent may kill at any moment.

    python -m scripts.fetch.transfer < order.json

huggingface_hub does the work: its metadata request, its resuming GET, its fast path (xet). Its hf_hub_download is not
used, because it begins every file anew, under a name that nobody finds again. What happens is told in JSON lines:
begun, arrived, busy, failed (worth another try), refused (not worth one).
"""

import fcntl
import json
import os
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import HfFileMetadata, http_get, xet_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, logging

from scripts.fetch.messages import AGAIN, Asked, FetchFailed, endpoint, explain, host, passes
from scripts.fetch.session import Busy, client, token
from scripts.transfer_view import amount
from train.errors import InputError, run_program

PARTIAL = ".partial"  # in `incoming`: what has not wholly arrived
FAST = ".xet"  # the fast path writes in no order, so what a kill left of it is of no use
FILES_AT_ONCE = 4
SIGNED = re.compile(r"\?\S+|\(…\)\S+")

telling = threading.Lock()
stop = threading.Event()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    order = json.load(sys.stdin, object_hook=lambda pairs: SimpleNamespace(**pairs))
    set_client_factory(client)
    logging.set_verbosity_error()  # its warnings hold signed addresses
    disable_progress_bars()
    constants.DOWNLOAD_CHUNK_SIZE = None  # written as they come: a cut loses nothing, a slow link is seen to move
    order.incoming = Path(order.incoming)
    with alone(order.incoming), ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(lambda file: attempt(order, file), order.files))


def alone(incoming: Path) -> TextIO:
    """Wait until no other transfer writes here: the one of a parent that was killed a moment ago."""
    partial = incoming / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    lock = (partial / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def attempt(order: SimpleNamespace, file: SimpleNamespace) -> None:
    """Bring one file, and tell how it went. After a refusal or a busy answer no further file is begun."""
    if stop.is_set():
        return
    asked = Asked(order.kind, order.name, order.revision)
    try:
        bring(order, file, asked)
        tell("arrived", file=file.name)
    except Busy as busy:
        stop.set()
        tell("busy", status=busy.status, seconds=busy.seconds)
    except FetchFailed as failure:
        stop.set()
        tell("refused", message=str(failure))
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        if refused_by_storage(error):  # its address was signed for a while; the next pass asks the hub for a fresh one
            answer = error.response
            where, status = urlsplit(str(answer.url)).hostname, answer.status_code
            tell(
                "failed", file=file.name, message=f"{where} answers with status {status}; its address may have expired"
            )
            return
        if passes(error) or isinstance(error, RuntimeError):  # the fast path raises RuntimeError for all that happens
            tell("failed", file=file.name, message=f"{type(error).__name__}: {in_short(error)}")
            return
        stop.set()
        verdict = explain(error, asked, bool(token()))
        if isinstance(verdict, InputError):
            tell("refused", problems=verdict.problems)
        else:
            tell("refused", message=str(verdict))


def refused_by_storage(error: Exception) -> bool:
    """Whether not the hub said no, but the host that it sent us to for the bytes."""
    if not isinstance(error, HfHubHTTPError):
        return False
    return 400 <= error.response.status_code < 500 and origin(str(error.response.url)) != origin(endpoint())


def in_short(error: Exception) -> str:
    """What an error says, without what an address is signed with: a query, or the end of one."""
    return SIGNED.sub("…", str(error))[:300]


def bring(order: SimpleNamespace, file: SimpleNamespace, asked: Asked) -> None:
    """The file's bytes into its place in `incoming`, going on behind those that are there already."""
    headers = build_hf_headers(token=token()) | {"Accept-Encoding": "identity"}  # else a Range is of other bytes
    url = hf_hub_url(order.name, file.name, repo_type=order.kind, revision=order.commit, endpoint=endpoint())
    metadata = get_hf_file_metadata(url, headers=headers, timeout=constants.HF_HUB_ETAG_TIMEOUT, endpoint=endpoint())
    check(metadata, order, file, asked)
    partial = order.incoming / PARTIAL / file.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    begun = partial.stat().st_size if partial.exists() else 0
    if begun > file.size:
        partial.unlink()
        begun = 0
    tell("begun", file=file.name)
    if metadata.xet_file_data and fast_path_is_here() and not begun and file.size:
        partial = partial.with_name(partial.name + FAST)
        partial.unlink(missing_ok=True)
        xet_get(incomplete_path=partial, xet_file_data=metadata.xet_file_data, headers=headers, expected_size=file.size)
    else:
        if origin(metadata.location) != origin(url):
            headers.pop("authorization", None)  # a storage host must not see the token
        check_plain(file, begun, asked)
        words = {"headers": headers, "expected_size": file.size, "displayed_filename": file.name}
        with partial.open("ab", buffering=0) as target:
            http_get(metadata.location, target, resume_size=begun, **words)
    final = order.incoming / file.name
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(final)


def check(metadata: HfFileMetadata, order: SimpleNamespace, file: SimpleNamespace, asked: Asked) -> None:
    """The hub must speak of the commit and of the size that it listed. Raises FetchFailed where it does not."""
    if metadata.commit_hash is None:
        raise FetchFailed(f"{asked}: {host()} does not answer like a hub (no commit for {file.name})")
    if metadata.commit_hash != order.commit:
        other = metadata.commit_hash[:12]
        raise FetchFailed(
            f"{asked}: {host()} was asked for commit {order.commit[:12]} and answers with {other}; {AGAIN}"
        )
    if metadata.size not in (None, file.size):
        raise FetchFailed(f"{asked}: {host()} lists {file.name} with {file.size} bytes and has {metadata.size}")


def check_plain(file: SimpleNamespace, begun: int, asked: Asked) -> None:
    """The library refuses to begin very large files by the plain path. Raises FetchFailed where this is one."""
    if begun or file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    largest = amount(constants.MAX_HTTP_DOWNLOAD_SIZE)
    raise FetchFailed(
        f"{asked}: {file.name} has {amount(file.size)}, and the plain path brings {largest} at most; unset "
        f"HF_HUB_DISABLE_XET, and let the fast path through to the hub's xet servers; then {AGAIN}"
    )


def fast_path_is_here() -> bool:
    """Whether xet may be used: it is installed, and neither the user nor a stall has forbidden it."""
    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def origin(url: str) -> tuple[str, str]:
    """Scheme, host and port, without a password that may stand between them."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def tell(event: str, **facts: object) -> None:
    """One line for the parent, whole."""
    with telling:
        os.write(sys.stdout.fileno(), (json.dumps({"event": event} | facts) + "\n").encode())


if __name__ == "__main__":
    run_program(main)
