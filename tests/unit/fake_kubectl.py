"""A kubectl that answers from files, and can be made to fail as one does whose API server is away.

FAKE holds: jobs.json, pods.json (lists of objects), log-NAME (a pod's log, with times), log.jsonl (on the store),
down (while it is there, nothing answers), refuse (what it says to everything). Every call is noted in calls.
"""

import json
import os
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKE"])
AWAY = "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?"


def listing(name: str) -> None:
    """A list of the API server."""
    path = HERE / name
    print(json.dumps({"items": json.loads(path.read_text()) if path.exists() else []}))


def main() -> int:
    words = sys.argv[3:]  # after --namespace NAME
    with (HERE / "calls").open("a") as file:
        file.write(" ".join(words) + "\n")
    if (HERE / "down").exists():
        print(AWAY, file=sys.stderr)
        return 1
    if (HERE / "refuse").exists():
        print((HERE / "refuse").read_text(), file=sys.stderr)
        return 1
    if words[0] == "get" and "/jobs?" in words[2]:
        listing("jobs.json")
    elif words[0] == "get" and "/pods?" in words[2]:
        listing("pods.json")
    elif words[0] == "get" and "/events?" in words[2]:
        listing("events.json")
    elif words[0] == "get":
        print("Error from server (NotFound): the server could not find the requested resource", file=sys.stderr)
        return 1
    elif words[0] == "logs":
        pod = next(word for word in words if word.startswith("r-"))
        return follow(HERE / f"log-{pod}", "--follow" in words)
    elif words[0] == "exec":
        if not (HERE / "log.jsonl").exists():
            print('Error from server (NotFound): deployments.apps "data-access" not found', file=sys.stderr)
            return 1
        print((HERE / "log.jsonl").read_text(), end="")
    return 0


def follow(path: Path, on: bool) -> int:
    """A log; followed until its end is marked, or the API server goes away."""
    shown = 0
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines[shown:]:
            if line != "END":
                print(line, flush=True)
        shown = len(lines)
        if not on or "END" in lines:
            return 0
        if (HERE / "down").exists():
            print("error: unexpected EOF", file=sys.stderr)
            return 1
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
