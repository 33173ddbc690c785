"""A pod that is killed without a word is counted on the store, and ended where another start is of no use.

.venv/bin/python -m pytest tests/unit/test_pod_starts.py
"""

import json
import os
import signal
import threading

import pytest

from scripts import pod, pod_starts
from scripts.pod_place import read_place
from scripts.pod_training import Ended
from tests.unit.test_pod import ENVIRONMENT

GIB = 2**30
LIMIT = 64 * GIB


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A pod of a run that may be started again five times, with a memory limit of 64 GiB."""
    monkeypatch.setattr(pod_starts, "limit_of_memory", lambda: LIMIT)
    found = read_place(ENVIRONMENT | {"STORE": str(tmp_path), "RESTARTS": "5"})
    found.directory.mkdir(parents=True)
    return found


def killed(place, free: int) -> int:
    """A start that is killed with so much memory left, as soon as it has noticed; its exit status, 0 for a word."""
    pid = os.fork()
    if pid == 0:
        looked = threading.Event()

        def look() -> int:
            looked.set()
            return free

        try:
            with pod_starts.counted(place, look, every=0.01):
                looked.wait()
                while not json.loads((place.directory / "starts-1.json").read_text())["free"]:
                    pass
                os.kill(os.getpid(), signal.SIGKILL)
        except Ended:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_two_kills_for_memory_in_a_row_are_final_and_say_how_little_was_left(place):
    assert [killed(place, GIB) for _ in range(2)] == [-9, -9]
    with pytest.raises(Ended, match=r"at its memory limit; .* 1\.0 GiB of its 64\.0 GiB were left.* Raise") as ended, \
            pod_starts.counted(place):  # fmt: skip
        pass
    assert ended.value.status == 1
    with pod_starts.counted(place):
        pass  # deployed again by a person: counted anew


def test_a_new_checkpoint_between_two_kills_makes_them_count_anew(place):
    for step in range(1, 5):
        assert killed(place, GIB) == -9
        (place.directory / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)


def test_kills_with_memory_left_are_as_many_as_the_placement_allows(place):
    assert [killed(place, 40 * GIB) for _ in range(6)] == [-9] * 6
    with pytest.raises(Ended, match=r"killed 6 times in a row without a new checkpoint; .* 40\.0 GiB of"), \
            pod_starts.counted(place):  # fmt: skip
        pass


def test_a_start_that_ends_with_a_word_is_not_counted(place):
    for _ in range(9):
        with pytest.raises(SystemExit), pod_starts.counted(place):
            raise SystemExit(143)
    assert json.loads((place.directory / "starts-1.json").read_text()) == {}


def test_nothing_is_counted_while_the_pod_that_is_replaced_still_leaves(place):
    assert killed(place, GIB) == -9
    with pod_starts.counted(place):
        before = (place.directory / "starts-1.json").read_text()
        with pod_starts.counted(place):
            assert (place.directory / "starts-1.json").read_text() == before


def test_a_stage_that_is_killed_names_memory():
    assert "because the pod's memory limit was reached (limit: " in pod.how_it_failed(-9, True)
    assert "as the kernel does when memory runs out" in pod.how_it_failed(-9, False)
    assert pod.how_it_failed(3, False) == "ended with status 3; its error stands in the log"
