"""What holds for every test: nothing that one leaves in this process changes the next, in whatever order they run."""

import signal
import sys
from collections.abc import Iterator

import pytest

# A shell starts what it puts into the background with interrupts ignored, and the programs under test would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_connection_to_the_hub() -> Iterator[None]:
    """A fetch sets how this process asks the hub, where a busy hub raises at once; put the library's own way back."""
    yield
    if "scripts.fetch.session" in sys.modules:
        from huggingface_hub.utils import _http

        _http.set_client_factory(_http.default_client_factory)
