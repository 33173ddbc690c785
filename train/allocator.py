"""Memory from tcmalloc, where the machine has it: it gives the blocks of one step to the next, still in the cache.

The C library's own allocator returns large blocks to the kernel, which zeroes them anew, and keeps holes between small
ones. A step's tensors of many lengths are both: decision 0019 has the figures. It has to be there when a program
is loaded, so a program that computes starts itself again with it, in the same process.
"""

import os
import platform
import sys
from pathlib import Path

NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")  # gperftools; Debian: libtcmalloc-minimal4
NO_REPORTS = "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"  # 0: no line on stderr for each block of a gigabyte
QUOTED = {" ", ":"}  # what separates libraries in LD_PRELOAD


def prefer_tcmalloc(root: Path = Path("/")) -> None:
    """Start this program again with tcmalloc, unless it is loaded, absent, or LD_PRELOAD was set by whoever called.

    To be called first of all, by a program that stands alone: what it has done until then is done twice.
    """
    library = find(root)
    if library is None or "LD_PRELOAD" in os.environ or allocator(root) == "tcmalloc":
        return
    os.environ["LD_PRELOAD"] = str(library)
    os.environ.setdefault(NO_REPORTS, "0")
    os.execv(sys.executable, sys.orig_argv)


def find(root: Path = Path("/")) -> Path | None:
    """The library, where distributions install it; None where they did not, or not under a name for LD_PRELOAD."""
    places = ("usr/local/lib", f"usr/lib/{platform.machine()}-linux-gnu", "usr/lib64", "usr/lib")
    found = (root / place / name for place in places for name in NAMES)
    return next((path for path in found if path.is_file() and not QUOTED & set(str(path))), None)


def allocator(root: Path = Path("/")) -> str:
    """What gives this process its memory: tcmalloc or malloc, the C library's own."""
    try:
        return "tcmalloc" if "/libtcmalloc" in (root / "proc/self/maps").read_text() else "malloc"
    except OSError:
        return "malloc"
