"""Lines of a run's log that machines read, for whoever follows a run on a cluster; people read the lines between.

    tunefleet: {"event": "step", "step": 12, "total": 126, "loss": 0.53, ...}

Told only where TUNEFLEET_EVENTS is set: to a file that gets them too (the run's log.jsonl on the store), or to "-" for
none. docs/following-a-run.md has a table of them.
"""

import json
import os
import sys
import time
from typing import Any

PREFIX = "tunefleet: "
VARIABLE = "TUNEFLEET_EVENTS"


def tell(event: str, **facts: Any) -> None:
    """Print one event, and append it with the time to the file of events. Facts that are None are left out."""
    target = os.environ.get(VARIABLE)
    if not target:
        return
    known = {key: round(value, 6) if isinstance(value, float) else value for key, value in facts.items()}
    line = {"event": event} | {key: value for key, value in known.items() if value is not None}
    print(PREFIX + json.dumps(line), flush=True)
    if target == "-":
        return
    try:
        with open(target, "a") as file:  # noqa: PTH123 (a whole line in one write, so that two processes may append)
            file.write(json.dumps({"time": round(time.time(), 3)} | line) + "\n")
    except OSError as error:  # a full store must not end a training over a line that is printed anyway
        print(f"{target}: {error}", file=sys.stderr)
