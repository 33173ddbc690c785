"""Fixtures of the tests of fetching: a store, a hub that is asked, and fetches in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from scripts.fetch.hub import fetch
from scripts.fetch.messages import FetchFailed
from tests.hub.cases import add_model
from tests.hub.server import serve
from tests.hub.state import Hub
from train.errors import InputError


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def ask(tmp_path, monkeypatch) -> Callable[[Hub], None]:
    """Have fetches ask this hub, with no token and no login of whoever runs the tests."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TUNEFLEET_EVENTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    return lambda hub: monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)


@pytest.fixture
def source(tmp_path):
    return add_model(tmp_path / "hub")


@pytest.fixture
def hub(tmp_path, source, ask):
    with serve(tmp_path / "hub") as running:
        ask(running)
        yield running


@pytest.fixture
def fetched(store, capsys) -> Callable[..., str]:
    """A fetch of o/m that succeeds; gives its words."""

    def run(revision: str | None = None, stall: float = 60.0) -> str:
        fetch("model", "o/m", revision, store, stall)
        return "".join(capsys.readouterr())

    return run


@pytest.fixture
def refused(store) -> Callable[..., str]:
    """A fetch that does not succeed; gives what is said of it."""

    def run(name: str = "o/m", revision: str | None = None, kind: str = "model", where: Path = store) -> str:
        with pytest.raises((InputError, FetchFailed)) as caught:
            fetch(kind, name, revision, where)
        return str(caught.value)

    return run
