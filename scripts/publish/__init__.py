"""Give away what a run learned, with a card that says what it is: to a directory, S3 or a hub."""

import os
import sys

# Before train/ is imported, which keeps its programs from asking a hub and from showing bars of uploads.
os.environ.setdefault("HF_HUB_OFFLINE", "0")
if sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")
