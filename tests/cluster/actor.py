"""Plays a training run inside a pod: prints its events, writes its files to the store, ends as it is told to.

python actor.py STEPS SECONDS_A_STEP ENDING     ENDING: complete, oom, exit2, exit1, exit143, hang, once (fails once)
Only the pod with index 0 (or the launcher) tells and writes; only it ends otherwise than well, unless AILING_INDEX
names another. Standard library only.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

RUN = os.environ["RUN"]
DIRECTORY = Path(os.environ.get("STORE", "/store")) / "runs" / RUN
INDEX = int(os.environ.get("JOB_COMPLETION_INDEX") or os.environ.get("REPLICA_INDEX") or 0)
LEADER = INDEX == 0


def tell(event: str, **values) -> None:
    """A line for machines; the leader's also goes to the store."""
    line = {"event": event} | {key: value for key, value in values.items() if value is not None}
    print("tunefleet: " + json.dumps(line), flush=True)
    if LEADER and DIRECTORY.is_dir():
        with (DIRECTORY / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3)} | line) + "\n")


def write(path: str, content: bytes) -> None:
    """A file of the run, under a temporary name first."""
    target = DIRECTORY / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f".{target.name}.tmp").write_bytes(content)
    target.with_name(f".{target.name}.tmp").rename(target)


def end(status: str, code: int, reason: str) -> None:
    """Say how it ended and leave."""
    tell("end", status=status, code=code, reason=reason or None, result=None if code else "merged")
    if code:
        Path(os.environ.get("TERMINATION", "/dev/termination-log")).write_text(reason)
        print(f"Traceback (most recent call last):\nRuntimeError: {reason}", flush=True)
    sys.exit(code)


def record(status: str) -> None:
    """run.json as a real run leaves it."""
    training = {"eval_loss_first": 11.25, "best_eval_loss": 1.5, "tokens_per_second": 420.0}
    content = {"name": RUN, "status": status, "started": "2026-11-21T12:00:00+00:00", "training": training}
    write("run.json", json.dumps(content).encode())


def ailing(ending: str) -> None:
    """End the way this pod was told to, in the middle of the steps."""
    if ending == "oom":
        print("holding more and more", flush=True)
        held = []
        while True:
            held.append(bytearray(8 << 20))
    if ending == "exit2":
        end("failed", 2, "train.yaml: lora_r: must be at least 1, is 0")
    if ending == "exit1":
        end("failed", 1, "the loss of step 3 is nan: lower learning_rate")
    if ending in ("exit143", "once"):
        tell("end", status="stopped", code=143, reason="lost its peers")
        sys.exit(143)


def wait_for_leader() -> None:
    """An elastic PyTorchJob succeeds when any worker has, so no other pod may end well before the leader does."""
    while True:
        try:
            if json.loads((DIRECTORY / "run.json").read_text())["status"] == "complete":
                return
        except (OSError, ValueError):
            pass  # the leader has not written it yet
        time.sleep(0.5)


def main() -> None:
    steps, seconds, ending = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    mark = DIRECTORY / f".seen-{INDEX}"
    again = mark.exists()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    mark.touch()
    first = steps // 2 if again and ending in ("once", "complete") else 0
    sick = int(os.environ.get("AILING_INDEX", 0)) == INDEX and not (ending == "once" and again)
    tell("start", run=RUN, index=INDEX, nodes=int(os.environ.get("NODES", 1)), min_nodes=1, processes=1, threads=1,
         node=os.environ.get("NODE", socket.gethostname()))  # fmt: skip
    if LEADER:
        record("running")
        tell("stage", stage="check-data", state="done", seconds=1.0)
        tell("stage", stage="train", state="started")
    if first:
        tell("resumed", step=first)
    for step in range(first + 1, steps + 1):
        time.sleep(seconds)
        if step == max(steps // 2, 1) and sick and ending != "complete":
            ailing(ending)
        if LEADER:
            tell("step", step=step, total=steps, loss=10 / step, learning_rate=1e-4, tokens_per_second=420.0,
                 seconds_left=(steps - step) * seconds, memory_gb=1.5)  # fmt: skip
            if step % 5 == 0:
                tell("validation", step=step, total=steps, eval_loss=9 / step, perplexity=2.0)
                tell("checkpoint", step=step)
    if LEADER:
        tell("stage", stage="train", state="done", seconds=steps * seconds)
        write("adapter/adapter_model.safetensors", bytes(range(256)) * 400)
        write("adapter/adapter_config.json", b"{}")
        write("merged/model.safetensors", os.urandom(1 << 20) * 24)
        write("report.html", b"<html>report</html>")
        write("metrics.jsonl", b'{"step": 1}\n')
        record("complete")
    else:
        wait_for_leader()
    end("complete", 0, "")


if __name__ == "__main__":
    main()
