"""A kubectl with one namespace and at most one job, for the tests of what starts a fetch and follows it.

FAKE holds: claim (while it is there, there is one), job.json, pods.json and log (the pod's; its line END ends it),
refuse (what kubectl says to everything). `create` puts what it is given into created.json and job.json, and copies
then-pods.json to pods.json; `delete` removes job.json. Every call is noted in calls. `kustomize` is the real one's.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

HERE = Path(os.environ["FAKE"])


def main() -> int:
    words = sys.argv[1:]
    words = words[words.index("--namespace") + 2 :]
    with (HERE / "calls").open("a") as file:
        file.write(" ".join(words) + "\n")
    if words[0] == "kustomize":
        return subprocess.run([os.environ["KUBECTL"], *words], check=False).returncode
    if (HERE / "refuse").exists():
        print((HERE / "refuse").read_text(), file=sys.stderr)
        return 1
    if words[0] == "create":
        return create(yaml.safe_load(sys.stdin.read()))
    if words[0] == "delete":
        (HERE / "job.json").unlink(missing_ok=True)
    elif words[:2] == ["get", "persistentvolumeclaim"]:
        print("{}" if (HERE / "claim").exists() else "")
    elif words[:2] == ["get", "job"]:
        print((HERE / "job.json").read_text() if (HERE / "job.json").exists() else "")
    elif words[:2] == ["get", "pods"]:
        path = HERE / "pods.json"
        print(json.dumps({"items": json.loads(path.read_text()) if path.exists() else []}))
    elif words[:2] == ["get", "--raw"]:
        print('{"items": []}')
    elif words[0] == "logs":
        follow(HERE / "log")
    return 0


def create(job: dict) -> int:
    """Take the job in, with the time of its making; refuse where there is one."""
    if (HERE / "job.json").exists():
        print(
            f'Error from server (AlreadyExists): jobs.batch "{job["metadata"]["name"]}" already exists', file=sys.stderr
        )
        return 1
    job["metadata"]["creationTimestamp"] = "2026-11-22T00:00:00Z"
    for name in ("created.json", "job.json"):
        (HERE / name).write_text(json.dumps(job))
    if (HERE / "then-pods.json").exists():
        shutil.copy(HERE / "then-pods.json", HERE / "pods.json")
    return 0


def follow(path: Path) -> None:
    """The pod's log with times, until its line END."""
    shown = 0
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines[shown:], shown):
            if line == "END":
                return
            print(f"2026-11-22T00:00:00.{number:09}Z {line}", flush=True)
        shown = len(lines)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
