"""Runs that meet faults: started, struck, and compared with the same recipe undisturbed on one machine."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.runs import QUICK, curve, deploy, events, kubectl, read, wait_for_step
from tests.e2e.chain import run_chain

EVERY = 10  # steps between two checkpoints
RECIPE = {
    "max_steps": 150,
    "global_batch_size": 24,  # steps that take their time: a run must not be over before it is struck
    # Learned slowly, 1 and 2 processes differ by 1e-6; where the loss is near 0 its last digits are another's.
    "learning_rate": "1.5e-4",
    "lr_scheduler_type": "constant",  # a run of half as many steps has the first half of the curve
    # In bfloat16 rows packed by another number of processes round otherwise, and a hundred steps make that visible.
    "dtype": "float32",
    "save_steps": EVERY,
    "eval_strategy": "'no'",
    "eval_steps": "",
    "validation_size": "",
    "load_best_model_at_end": "false",
    "exact_match": "",
    "generate_samples": 0,
    "max_eval_samples": 4,
    "merge": "false",
}
PAIR = {"nodes": 2, "minNodes": 2}
WITHIN = 1e-4  # of an undisturbed run's loss


def undisturbed(runs: Path, steps: int) -> dict[int, float]:
    """The curve of the same recipe in two processes on this machine."""
    values = [f"{key}={value}" for key, value in (QUICK | RECIPE | {"max_steps": steps}).items()]
    run, _ = run_chain(runs, "demo", "--until", "train", "--nproc", "2", "--threads", "1", "--set", *values)
    return curve((run / "metrics.jsonl").read_text())


@dataclass
class Faults:
    """What happens to runs of one namespace."""

    space: str

    def start(self, runtime: str, place: dict, steps: int) -> str:
        """A run of the demo by this runtime that is at its first steps."""
        run = deploy(self.space, "demo", RECIPE | {"max_steps": steps}, place, f"RUNTIME={runtime}")
        wait_for_step(self.space, run, 2)
        return run

    def pods(self, run: str, selector: str = "") -> list[dict]:
        """The run's pods that are there and not on their way out."""
        labels = f"tunefleet.io/run={run}{',' if selector else ''}{selector}"
        found = json.loads(kubectl(self.space, "get", "pods", "--selector", labels, "-o", "json"))["items"]
        return [
            pod for pod in found if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
        ]

    def named(self, run: str, part: str) -> str:
        """The name of the run's running pod that has this in it."""
        return next(pod["metadata"]["name"] for pod in self.pods(run) if part in pod["metadata"]["name"])

    def strike(self, run: str, what: str, fault, most: int = EVERY + 1, stops: bool = True) -> None:
        """Let something happen to a run, and see it go on: how many steps are done again, after how many seconds.

        `stops`: it ends the training, which then goes on from a checkpoint.
        """
        reached = max((event["step"] for event in events(self.space, run) if event["event"] == "step"), default=0)
        began = time.time()
        fault()
        since = wait_for_step(self.space, run, 1, after=began, kind="resumed")["time"] if stops else began + 3
        again = wait_for_step(self.space, run, 1, after=since)
        kept = [
            event["step"] for event in events(self.space, run) if event["event"] == "resumed" and event["time"] > began
        ]
        lost = max(0, reached - kept[-1]) if kept else 0
        seconds = again["time"] - began
        print(f"\n{what} at step {reached}: {lost} steps lost, going on after {seconds:.0f} s", flush=True)
        record(what, lost, seconds)
        # What was reached is read before the fault, some steps earlier.
        assert lost <= most, (what, reached, kept)

    def same_curve(self, run: str, expected: dict[int, float], steps: int) -> None:
        """The losses of the run's so many steps are those of the undisturbed one."""
        found = curve(read(self.space, run, "metrics.jsonl"))
        assert sorted(found) == sorted(expected)[:steps]
        worst = max(found, key=lambda step: abs(found[step] - expected[step]) / expected[step])
        assert found[worst] == pytest.approx(expected[worst], rel=WITHIN), f"step {worst}"

    def kill(self, pod: str) -> None:
        """Delete a pod without giving it time."""
        kubectl(self.space, "delete", "pod", pod, "--grace-period=0", "--force")

    def delete(self, pod: str) -> None:
        """Delete a pod, which gets its time to leave."""
        kubectl(self.space, "delete", "pod", pod, "--wait=false")

    def keep_data_access_off(self, node: str) -> None:
        """Have the pod through which these tests read the store on another node than the one that will be lost."""
        kubectl(self.space, "cordon", node)
        try:
            kubectl(self.space, "delete", "pods", "--selector=tunefleet.io/role=data-access")
            kubectl(self.space, "rollout", "status", "deployment/data-access", "--timeout=150s")
        except AssertionError as late:
            seen = (
                kubectl(self.space, "describe", "deployments,replicasets,pods"),
                kubectl(self.space, "get", "events"),
                kubectl(self.space, "describe", "nodes", "--selector=!testbed.local/simulated"),
            )
            raise AssertionError("\n".join([str(late), *seen])) from None
        finally:
            kubectl(self.space, "uncordon", node)


def cable(node: str, state: str) -> None:
    """Pull a node of the testbed's off the network (`down`), or put it back (`up`)."""
    subprocess.run(["ip", "link", "set", f"tb{node.removeprefix('node')}", state], check=True)


def record(what: str, lost: int, seconds: float) -> None:
    """Keep a figure where RELIABILITY names a file, for docs/deploying.md."""
    if os.environ.get("RELIABILITY"):
        with Path(os.environ["RELIABILITY"]).open("a") as file:
            file.write(f"{what}\t{lost}\t{seconds:.0f}\n")
