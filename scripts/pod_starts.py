"""How often in a row a pod of a run was killed without a word, kept on the store: what is in memory dies with it.

On cgroup v2 the kubelet lets the kernel kill a whole container that goes over its memory limit. The next start only
finds that the one before it never ended, and how little memory it had left when it last looked.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator

from scripts.pod_place import Place
from scripts.pod_training import Ended, limit_of_memory, newest
from train.errors import see
from train.files import write_json
from train.hardware import memory_available
from train.stored import read_json

RESULTS = ("before.json", "adapter", "model", "merged", "after.json")  # each is progress, as a checkpoint is
EVERY = 1.0  # seconds between two looks at the memory
SHORT = 0.15  # of the limit left: a pod that is killed then was killed for memory
FEWER = 0.02  # of the limit that must have gone before the store is told anew
KILLS = 2  # for memory, in a row and without progress between them: a third would be no other


@contextlib.contextmanager
def counted(place: Place, free: Callable[[], int] = memory_available, every: float = EVERY) -> Iterator[None]:
    """Count this start while the block runs. Raises Ended where the starts before it say that it is of no use.

    Nothing is counted while the pod that this one replaces is still there.
    """
    descriptor = os.open(place.directory / f".starts-{place.index}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        yield
        return
    path, over = place.directory / f"starts-{place.index}.json", threading.Event()
    before = read_json(path)
    now = {"reached": reached(place), "killed": 0, "killed_for_memory": 0, "limit": limit_of_memory(), "free": None}
    if before.get("reached") == now["reached"]:
        now["killed"] = before["killed"] + 1
        now["killed_for_memory"] = before["killed_for_memory"] + 1 if short(before) else 0

    def watch() -> None:
        while not over.wait(every):
            left = free()
            if now["limit"] and (now["free"] is None or left < now["free"] - FEWER * now["limit"]):
                now["free"] = left
                with contextlib.suppress(OSError):  # a full store ends no training over this
                    write_json(path, now)

    thread = threading.Thread(target=watch, daemon=True, name="starts")
    try:
        judge(place, now, before)
        write_json(path, now)
        thread.start()
        yield
    finally:  # it ends with a word, however that is; a later start is not told of it
        over.set()
        if thread.ident:
            thread.join()
        with contextlib.suppress(OSError):
            write_json(path, {})
        os.close(descriptor)


def reached(place: Place) -> list:
    """How far the run is: the newest checkpoint, and what is there besides."""
    return [newest(place.directory), *(name for name in RESULTS if (place.directory / name).exists())]


def short(start: dict) -> bool:
    """Whether a start had nearly no memory left when it last looked."""
    return start["free"] is not None and start["free"] < SHORT * start["limit"]


def judge(place: Place, now: dict, before: dict) -> None:
    """Raise Ended where the pod was killed too often in a row without getting any further."""
    if now["killed_for_memory"] < KILLS and now["killed"] <= place.restarts:
        return
    memory = ""
    if before["limit"] and before["free"] is not None:
        left, limit = before["free"] / 2**30, before["limit"] / 2**30
        memory = f"; when it last looked, {left:.1f} GiB of its {limit:.1f} GiB were left"
    if now["killed_for_memory"] < KILLS:
        raise Ended(1, f"this pod was killed {now['killed']} times in a row without a new checkpoint{memory}")
    what = f"this pod was killed {KILLS} times in a row, without a new checkpoint, at its memory limit{memory}"
    raise Ended(
        1, f"{what}. Raise resources.limits.memory, or lower per_device_train_batch_size{see('rank-killed-for-memory')}"
    )
