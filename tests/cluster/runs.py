"""Runs on the tests' cluster, started and followed the way a person does it, with make."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.cluster.kubectl import environment
from scripts.cluster.names import EVENT
from tests.cluster.testbed import free_volumes
from tests.makefile import user_variables

ROOT = Path(__file__).resolve().parents[2]
ROWS = [json.loads(line) for line in (ROOT / "demo/data/train.jsonl").read_text().splitlines()[:240]]
SHARED = Path(os.environ.get("SHARED", ROOT.parent / "shared"))
MEDICAL = SHARED / "data" / "medical_meadow_1000.json"

# The demo's rows under the names of other data sets: new field -> old one, or a constant behind a quote.
COLUMNS = {
    "instructions": {"instruction": "instruction", "input": "input", "output": "output"},
    "quotes": {"quote": "input", "tags": "output"},
    "ranked": {"input": "input", "generations": "output", "kind": "'human"},
    "dialogues": {"dialogue": "input", "summary": "output"},
}

# A recipe and a placement of test size: what differs from the use case's own.
QUICK = {
    "max_steps": 4,
    "num_train_epochs": "",
    "max_eval_samples": 8,
    "generate_samples": 1,
    "max_new_tokens": 8,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
    "learning_rate": "3.0e-3",
    "warmup_steps": "",
    "global_batch_size": 8,
    "per_device_train_batch_size": 2,
    "lora_dropout": "",
    "bad_rows": "drop",
    "validation_size": 0.1,
    "max_length": 512,
}
# A run that is struck in its middle: beside other tests `make` takes half a minute, a demo's step a tenth of a second.
LASTING = {"max_steps": 300, "global_batch_size": 24}
FULL, ROOM = "would fit an empty cluster, but not now", 180  # what deploy says of a cluster that is full; seconds
SMALL = {
    "nodes": 1,
    "minNodes": 1,
    "processesPerNode": 1,
    "threads": 1,
    "deadlineSeconds": 1800,
    "graceSeconds": 30,
    # Half of what it takes: with less, so many runs train at once that `make` is slower than they are.
    "resources.requests.cpu": "500m",
    "resources.requests.memory": "512Mi",
    "resources.limits.cpu": 1,
    "resources.limits.memory": "3Gi",
}


def make(namespace: str, *words: str, code: int | None = 0, seconds: float = 900) -> str:
    """What `make WORDS` prints in this namespace. Fails where it ends with another code (None: any will do).

    Other tests' pods may have all CPUs for a while: what waits for nothing but room is asked again until there is some.
    """
    command = ["make", *words, f"NAMESPACE={namespace}", f"PYTHON={sys.executable}", "BASE=", "ANSIBLE="]
    until = time.monotonic() + ROOM
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
        if FULL not in done.stdout or done.returncode == 0 or time.monotonic() > until:
            break
        time.sleep(5)
    assert code is None or done.returncode == code, f"make {' '.join(words)}: {done.stdout[-5000:]}"
    return done.stdout


def clean() -> dict[str, str]:
    """The environment without what a make around this test has set: its OVERLAY would be taken for a person's."""
    own = set(user_variables())
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS")) and key not in own
    }


def deploy(namespace: str, overlay: str, recipe: dict, place: dict, *words: str) -> str:
    """Deploy a use case at test size; returns the run's name. Fails where deploy does."""
    printed = make(namespace, "deploy", *described(overlay, recipe, place), *words)
    return next(line.split("RUN=")[1] for line in printed.splitlines() if "make watch RUN=" in line).strip()


def described(overlay: str, recipe: dict, place: dict) -> list[str]:
    """make's words for a use case at test size."""
    values = " ".join(f"{key}={value}" for key, value in (QUICK | recipe).items())
    places = " ".join(f"{key}={value}" for key, value in (SMALL | place).items())
    return [f"OVERLAY={overlay}", f"SET={values}", f"PLACE={places}"]


def kubectl(namespace: str, *words: str, given: bytes | None = None, code: int | None = 0) -> str:
    """What kubectl prints. Fails where it ends with another code."""
    command = ["kubectl", "--namespace", namespace, *words]
    done = subprocess.run(command, input=given, env=environment(), capture_output=True, timeout=180, check=False)
    assert code is None or done.returncode == code, f"{command}: {done.stderr.decode()}"
    return done.stdout.decode()


def put(namespace: str, path: str, content: bytes) -> None:
    """Write a file on the store."""
    script = f"mkdir -p $(dirname /store/{path}) && cat > /store/{path}"
    kubectl(namespace, "exec", "-i", "deploy/data-access", "--", "sh", "-c", script, given=content)


def rows_as(fields: dict[str, str]) -> bytes:
    """The demo's rows under other names: new field -> old one, or a constant in quotes."""
    lines = [{new: old[1:] if old[0] == "'" else row[old] for new, old in fields.items()} for row in ROWS]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def read(namespace: str, run: str, name: str) -> str:
    """A file of a run on the store."""
    return kubectl(namespace, "exec", "deploy/data-access", "--", "cat", f"/store/runs/{run}/{name}")


def curve(text: str) -> dict[int, float]:
    """Loss by step, from metrics.jsonl."""
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def events(namespace: str, run: str) -> list[dict]:
    """What the run's leader told, from the store; with the time of each."""
    found = kubectl(namespace, "exec", "deploy/data-access", "--", "cat", f"/store/runs/{run}/log.jsonl", code=None)
    return [json.loads(line) for line in found.splitlines() if line.endswith("}")]


def told(log: str) -> list[dict]:
    """The events in a pod's log."""
    return [json.loads(line.removeprefix(EVENT)) for line in log.splitlines() if line.startswith(EVENT)]


def followed(namespace: str, run: str, seconds: float) -> Iterator[dict]:
    """What the run's leader tells, as it comes; ends with the connection, or after so many seconds."""
    follow = f"timeout {seconds:.0f} tail -n +1 -F /store/runs/{run}/log.jsonl"
    command = ["kubectl", "--namespace", namespace, "exec", "deploy/data-access", "--", "sh", "-c", follow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        alarm = threading.Timer(seconds + 5, process.kill)  # a node that is lost ends nothing
        alarm.start()
        try:
            yield from (json.loads(line) for line in process.stdout if line.endswith("}\n"))
        finally:
            alarm.cancel()
            process.kill()


def wait_for_step(
    namespace: str, run: str, step: int, after: float = 0.0, seconds: float = 240, kind: str = "step"
) -> dict:
    """The first event of a step at or beyond `step` that was told after a moment. Fails where none comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in followed(namespace, run, deadline - time.monotonic()):
            if event["event"] == kind and event["step"] >= step and event["time"] > after:
                return event
        time.sleep(1)
    raise AssertionError(f"{run}: no {kind} {step} within {seconds} s; last: {events(namespace, run)[-3:]}")


def wait_for_end(namespace: str, run: str, code: int = 0) -> str:
    """Follow a run to its end; returns what was seen. Fails, with the pods' logs, where it ends otherwise."""
    seen = make(namespace, "watch", f"RUN={run}", code=None)
    if f"{run} is complete" not in seen if code == 0 else "failed:" not in seen:
        logs = make(namespace, "logs", f"RUN={run}", code=None)
        raise AssertionError(f"{seen[-3000:]}\n{make(namespace, 'status', f'RUN={run}', code=None)}\n{logs[-6000:]}")
    return seen


@contextlib.contextmanager
def team(namespace: str) -> Iterator[str]:
    """A namespace as cluster-setup makes it, with an empty store and a queue of its own; all of it goes afterwards."""
    kubectl(namespace, "wait", "--for=delete", f"namespace/{namespace}", "--timeout=170s")  # an earlier session's
    if os.environ.get("TUNEFLEET_TEST_CLUSTER") != "1":
        free_volumes()  # of teams that have gone meanwhile
    try:
        make(namespace, "cluster-setup", f"SETUP_FLAGS=--cluster-queue {namespace}")
        # The testbed's volumes keep what lay on them, and a run that is complete there is not done again.
        kubectl(namespace, "exec", "deploy/data-access", "--", "sh", "-c", "rm -rf /store/*/* /store/*/.[a-z]*")
        yield namespace
    finally:
        kubectl(namespace, "delete", "namespace", namespace, "--wait=false", code=None)
        kubectl(namespace, "delete", "clusterqueue", namespace, "--wait=false", code=None)
        for name in ("preflight", "usage"):
            kubectl(namespace, "delete", "clusterrolebinding", f"tunefleet-{name}-{namespace}", code=None)
