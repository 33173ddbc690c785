"""Memory comes from tcmalloc where the machine has it, and from where it came before wherever it has not."""

import os
import platform
import sys

import pytest

from train import allocator as allocators
from train.allocator import NO_REPORTS, allocator, find, prefer_tcmalloc

MULTIARCH = f"usr/lib/{platform.machine()}-linux-gnu"


@pytest.fixture
def started(monkeypatch):
    """How programs were started instead of this one."""
    calls = []
    monkeypatch.setattr(allocators.os, "execv", lambda program, words: calls.append((program, words)))
    for name in ("LD_PRELOAD", NO_REPORTS):
        monkeypatch.setenv(name, "")  # so that what a test sets goes with it
        monkeypatch.delenv(name)
    return calls


def settings() -> dict[str, str]:
    """What the next program would be told of its allocator."""
    return {name: os.environ[name] for name in ("LD_PRELOAD", NO_REPORTS) if name in os.environ}


def machine(root, library: str = "", loaded: str = ""):
    """A machine that has a library, with this process's mapped files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/maps").write_text(f"7f00-7f01 r-xp 0 fe:00 1 {loaded or '/usr/lib/libc.so.6'}\n")
    if library:
        (root / library).parent.mkdir(parents=True)
        (root / library).write_text("")
    return root


@pytest.mark.parametrize("library", [
    f"{MULTIARCH}/libtcmalloc_minimal.so.4", "usr/lib64/libtcmalloc_minimal.so.4", f"{MULTIARCH}/libtcmalloc.so.4",
])  # fmt: skip
def test_the_same_command_starts_again_with_it(tmp_path, started, library):
    prefer_tcmalloc(machine(tmp_path, library))
    assert started == [(sys.executable, sys.orig_argv)]
    assert settings() == {"LD_PRELOAD": str(tmp_path / library), NO_REPORTS: "0"}


def test_without_it_nothing_changes(tmp_path, started):
    prefer_tcmalloc(machine(tmp_path))
    assert not started and settings() == {}


def test_once_loaded_nothing_starts_again(tmp_path, started):
    library = f"{MULTIARCH}/libtcmalloc_minimal.so.4"
    root = machine(tmp_path, library, loaded=f"/{library}.5.9")
    prefer_tcmalloc(root)
    assert not started and allocator(root) == "tcmalloc"


@pytest.mark.parametrize("wish", ["", "/opt/libmimalloc.so"])
def test_an_own_wish_is_left_alone(tmp_path, started, monkeypatch, wish):
    monkeypatch.setenv("LD_PRELOAD", wish)
    prefer_tcmalloc(machine(tmp_path, f"{MULTIARCH}/libtcmalloc_minimal.so.4"))
    assert not started and settings() == {"LD_PRELOAD": wish}


def test_a_path_that_cannot_be_preloaded_is_none(tmp_path):
    assert find(machine(tmp_path / "a place", "usr/lib/libtcmalloc.so.4")) is None


def test_a_machine_without_proc_has_its_own(tmp_path):
    assert allocator(tmp_path) == "malloc"
