"""A run whose store is S3, for tests: its mirror, checkpoints and stages."""

import json
import random
import shutil
import time
from pathlib import Path

from scripts.s3 import manifest
from scripts.s3.client import connect
from scripts.s3.mirror import Mirror, whole_steps
from train import checkpoint
from train.files import write_json

MB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def hurry(monkeypatch) -> None:
    """Clients that give a silent server one second, once."""
    for name in ("CONNECT_SECONDS", "READ_SECONDS", "TRIES"):
        monkeypatch.setattr(f"scripts.s3.client.{name}", 1)


def mirror_of(run: Path, address, owner: str = "pod-0") -> Mirror:
    made = Mirror(connect(), run, address, owner)
    made.begin()
    return made


def save(run: Path, step: int, size: int = 100_000) -> None:
    """A checkpoint, and the curve up to it."""
    aside = run / "checkpoints" / f".checkpoint-{step}.tmp"
    aside.mkdir(parents=True)
    (aside / "weights").write_bytes(random.Random(step).randbytes(size))
    write_json(aside / "trainer_state.json", {"best_global_step": 2})
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {one}, "loss": 1}}\n' for one in range(1, step + 1)))
    checkpoint.seal(aside, run / "checkpoints" / f"checkpoint-{step}")


def drop(run: Path, step: int) -> None:
    shutil.rmtree((run / "checkpoints" / f"checkpoint-{step}").rename(run / "checkpoints" / ".gone.tmp"))


def finish_stage(run: Path, stage: str) -> None:
    record = json.loads((run / "run.json").read_text())
    record["stages"][stage] = {"seconds": 1}
    write_json(run / "run.json", record)


def steps_in(address) -> list[int]:
    return whole_steps(manifest.listing(connect(), address))


def until(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
