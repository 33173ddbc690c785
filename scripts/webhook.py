"""A message to an address of the user's when a run has ended: complete, or failed for good. docs/monitoring.md

The address is as good as a password: it comes from the environment (TUNEFLEET_WEBHOOK, in a pod from a Secret), is
taken out of it before any program is started, and is never printed. A message that cannot be sent is told; no run fails
of it.
"""

import contextlib
import http.client
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from scripts.pod_training import Ended
from scripts.runs import run_status
from train.errors import InputError, in_one_line, problem
from train.report_facts import duration
from train.stored import read_json

VARIABLE = "TUNEFLEET_WEBHOOK"
PAUSES = (1.0, 4.0)  # seconds between the three tries
TIMEOUT = 10.0
TOLD = ".told"  # in a run's directory once its end was told
NOT_NOW = (408, 425, 429)  # refusals that may be none the next time; any of 500 and more too


def take_address(environment: MutableMapping[str, str] = os.environ) -> str:
    """The address, which then stands in the environment no more; empty where there is none. Raises InputError."""
    address = environment.pop(VARIABLE, "").strip()
    if not address:
        return ""
    fix = "give the address as the service shows it: https://host/path"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(
            problem("environment", VARIABLE, "is no address: its host or port cannot be read", fix)
        ) from None
    if parts.scheme not in ("http", "https") or "://" not in address:
        scheme = f"{parts.scheme}://" if "://" in address and len(parts.scheme) < 10 else "something else"
        raise InputError(problem("environment", VARIABLE, f"begins with {scheme}, not with https:// or http://", fix))
    if not host:
        raise InputError(problem("environment", VARIABLE, "names no host", fix))
    if any(not "!" <= letter <= "~" for letter in address):
        what = "holds a space, a line's end or a letter that no address has"
        raise InputError(problem("environment", VARIABLE, what, fix))
    if parts.username or parts.password:
        what = "holds a name or a password before the host, which would not be sent"
        raise InputError(
            problem("environment", VARIABLE, what, "leave it out; most services have a secret path instead")
        )
    return address


@contextlib.contextmanager
def told_at_the_end(address: str, run: Path, overlay: str, pod: str = "") -> Iterator[None]:
    """Send one message when the block ends and with it the run; none where it was asked to leave, for it goes on.

    `pod` names one that does not lead. When it fails for good, the job is over and the leader is asked to leave before
    it knows why: so it tells that itself, and nothing else.
    """
    if not pod and run_status(run) != "complete":
        with contextlib.suppress(OSError):
            (run / TOLD).unlink(missing_ok=True)  # it has failed before, and is tried again

    def say(status: str, reason: str = "") -> None:
        if not address:
            return
        with asked_to_leave_later():
            if is_first(run):
                send(address, message(run, overlay, status, f"{pod}: {reason}" if pod else reason))

    try:
        yield
    except Ended as ended:
        if ended.status != 143:
            say("failed", str(ended))
        raise
    except InputError as error:
        say("failed", in_one_line(error.problems[0]))
        raise
    except OSError as error:
        say("failed", error.strerror or type(error).__name__)
        raise
    # Also where it was complete when this pod began: the one before may have been asked to leave before it told.
    if not pod and run_status(run) == "complete":
        say("complete")


def is_first(run: Path) -> bool:
    """Whether no pod of the run has told its end yet; from now on one has."""
    try:
        os.close(os.open(run / TOLD, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:  # a store that is full or gone may be just what there is to tell
        return True
    return True


@contextlib.contextmanager
def asked_to_leave_later() -> Iterator[None]:
    """SIGTERM is passed over: the pod ends with the block, and a message takes at most some half a minute.

    Some operators end all pods of a job at once when one of them has ended.
    """
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def message(run: Path, overlay: str, status: str, reason: str) -> dict:
    """What is sent, for programs; `text` is for people, where Slack and its like look for it."""
    record = read_json(run / "run.json")
    loss = read_json(run / "after.json").get("eval_loss")
    if loss is None:
        loss = record.get("training", {}).get("best_eval_loss")
    said = [f"{run.name} is complete" if status == "complete" else f"{run.name} failed: {reason}"]
    said += [f"validation loss {loss:.4g}"] if loss is not None else []
    seconds = None
    if record.get("started"):
        seconds = round((datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds())
        said.append(f"{duration(seconds)} after its start")
    return {
        "text": "; ".join(said),
        "run": run.name,
        "overlay": overlay,
        "status": status,
        "reason": reason,
        "validation_loss": loss,
        "seconds": seconds,
    }


def send(address: str, content: dict, pauses: tuple[float, ...] = PAUSES) -> bool:
    """Send it, if there is an address, with another try after each pause; returns whether it arrived, and says it."""
    if not address:
        return False
    headers = {"Content-Type": "application/json", "User-Agent": "tunefleet"}
    for pause in (*pauses, None):
        request = urllib.request.Request(address, json.dumps(content).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                print(f"webhook: told, {content['status']}", flush=True)
                return True
        except urllib.error.HTTPError as error:
            why = f"it answers {error.code}"
            error.close()
            if error.code < 500 and error.code not in NOT_NOW:
                break
        except urllib.error.URLError as error:
            why = f"{error.reason}"
        except (OSError, http.client.HTTPException) as error:
            why = f"it broke off ({type(error).__name__})"
        if pause is not None:
            time.sleep(pause)
    print(f"webhook: not told ({why}); the run is as it is. The address is that of {VARIABLE}", flush=True)
    return False
