"""How requests to the hub are made: with a time limit, and a busy hub is told at once instead of slept over."""

import email.utils
import re
import time
from collections.abc import Mapping

import httpx2
from huggingface_hub import get_token

SECONDS_FOR_AN_ANSWER = 30.0
BUSY = (408, 425, 429, 500, 502, 503, 504)


class Busy(Exception):
    """The hub cannot answer now; `seconds` is how long it asks to wait, None where it does not say."""

    def __init__(self, status: int, seconds: float | None):
        self.status, self.seconds = status, seconds
        super().__init__(f"the hub answers with status {status}")


def token() -> str | bool:
    """The user's token: HF_TOKEN, or the hub's own login; False where there is none."""
    return get_token() or False


def client() -> httpx2.Client:
    """What huggingface_hub.set_client_factory wants. The library's own has no limit, waits in silence, and asks nobody
    under HF_HUB_OFFLINE, which train/ sets for itself: who fetches wants the network.
    """
    hooks = {"request": [limit], "response": [raise_busy]}
    return httpx2.Client(follow_redirects=True, timeout=SECONDS_FOR_AN_ANSWER, event_hooks=hooks)


def limit(request: httpx2.Request) -> None:
    """The time limit for a request that came with none: the library lists files with `timeout=None`, without end."""
    given = request.extensions.get("timeout") or {}
    if not any(given.values()):
        request.extensions["timeout"] = httpx2.Timeout(SECONDS_FOR_AN_ANSWER).as_dict()


def raise_busy(response: httpx2.Response) -> None:
    """Raise Busy for an answer that says: not now."""
    if response.status_code in BUSY:
        raise Busy(response.status_code, seconds_asked(response.headers))


def seconds_asked(headers: Mapping[str, str]) -> float | None:
    """How long the hub asks to wait: Retry-After, in seconds or as a date, or else its RateLimit header."""
    given = headers.get("Retry-After", "").strip()
    if given.isdigit():
        return float(given)
    date = email.utils.parsedate_tz(given)
    if date:
        return max(email.utils.mktime_tz(date) - time.time(), 0.0)
    used_up = re.search(r'"\w+"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)', headers.get("RateLimit", ""))
    return float(used_up.group(1)) if used_up else None
