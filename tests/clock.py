"""A module's own clock: time.sleep and time.monotonic themselves belong to every thread of the process."""

import time
from types import ModuleType, SimpleNamespace

import pytest


def set_time(monkeypatch: pytest.MonkeyPatch, module: ModuleType, **functions) -> None:
    """Gives the module its own `time` with these functions in it; other modules and threads keep the real one."""
    monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), **functions}))
