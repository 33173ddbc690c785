"""No process outlives the one that started it."""

import ctypes
import os
import signal
import sys

LAUNCHER_PID = "TUNEFLEET_LAUNCHER_PID"


def die_with_parent() -> None:
    """Have the kernel kill this process when its launcher dies, so that no orphan writes into a run that is resumed.

    prctl(PR_SET_PDEATHSIG, SIGKILL), Linux only; elsewhere the run directory's lock alone protects it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.environ.get(LAUNCHER_PID, str(os.getppid())) != str(os.getppid()):
        sys.exit("the launcher is gone")  # it died before the kernel was told
