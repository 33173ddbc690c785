"""WHAT=merge: our merge with its proof, PEFT's merge_and_unload, and cp, in turns, on models of about 2 and 4 GB.

Ours is a whole process, and once more the merge as it is within `make run`; for that this module is a program too:

    python -m scripts.bench.merge MODULE --base DIR --adapter DIR --output DIR [what else the module takes]

Before each turn the base is read once, so that it lies in the page cache for all, and what was written before is
removed and synced away. Each turn's seconds end when all that it wrote is on the disk (sync).
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from scripts.bench.equipment import make_model, read_rows, render
from scripts.bench.programs import OURS
from scripts.bench.setting import Setting
from scripts.bench.watch import watch
from train.allocator import prefer_tcmalloc
from train.errors import InputError, problem
from train.files import hash_file, write_json
from train.layout import thread_settings
from train.nursery import Nursery

LAYERS = {"2": 22, "4": 45}  # of TinyLlama's geometry: 2.2 and 4.2 GB in bfloat16
ROUNDS = {"2": 3, "4": 1}  # the larger shows that memory does not grow
PROMPTS = 8
SELF = "scripts.bench.merge"
PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


def merge(setting: Setting) -> dict[str, Any]:
    """Seconds and peak memory of each way, of each round, for both sizes."""
    found = {}
    for size, layers in LAYERS.items():
        place = setting.home.parent / f"merge-{size}gb"
        base, adapter, prompts = equipment(setting, place, layers)
        found[size] = {"bytes": sum(file.stat().st_size for file in base.glob("*.safetensors")), "turns": []}
        ways = commands(base, adapter, prompts, place / "output")
        if size != "2":
            del ways["PEFT"]  # holds the whole model, as its smaller row shows already
        for number in range(min(ROUNDS[size], setting.rounds)):
            for name, command in ways.items():
                kept = setting.home / f"merge-{size}gb-{name}-{number}.json"
                if not kept.exists():
                    write_json(kept, {"way": name, "round": number, **timed(command, base, place, setting.threads)})
                turn = json.loads(kept.read_text())
                found[size]["turns"].append(turn)
                print(f"merge {size} GB, round {number + 1}: {name} {turn['seconds']:.1f} s, "
                      f"peak {turn['peak_gb']:.2f} GB", flush=True)  # fmt: skip
    return found


def equipment(setting: Setting, place: Path, layers: int) -> tuple[Path, Path, Path]:
    """Base, adapter and prompts of one size, made once. Raises InputError where the disk is too small."""
    base, adapter, prompts = place / "base", place / "adapter", place / "prompts.jsonl"
    place.mkdir(parents=True, exist_ok=True)
    rows = read_rows(setting.rows)
    free, needed = shutil.disk_usage(place).free, layers * 300e6
    if not base.exists() and free < needed:
        what = f"{free / 1e9:.0f} GB are free, {needed / 1e9:.0f} GB are needed to measure merging"
        raise InputError(problem(place, "", what, 'make room, or leave merge out of WHAT="train ranks data length"'))
    make_model(base, {"num_hidden_layers": layers} | without_layers(setting.geometry), [render(row) for row in rows])
    if not adapter.exists():
        make_adapter(base, adapter)
    lines = [json.dumps({"prompt": render(row), "answer": row["output"]}) for row in rows[:PROMPTS]]
    prompts.write_text("\n".join(lines) + "\n")
    return base, adapter, prompts


def without_layers(geometry: dict[str, int]) -> dict[str, int]:
    """The geometry but for the number of layers, which is the size here."""
    return {key: value for key, value in geometry.items() if key != "num_hidden_layers"}


def make_adapter(base: Path, adapter: Path) -> None:
    """An adapter as training leaves it, r=8 on all seven linears, with random numbers in both its matrices."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM",
                        init_lora_weights=False)  # fmt: skip
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)


def commands(base: Path, adapter: Path, prompts: Path, output: Path) -> dict[str, list]:
    """What takes turns. PEFT's own way uses our installation, which pins its release."""
    words = ["--base", base, "--adapter", adapter, "--output", output]
    whole, in_run = [OURS, "-m", "train.merge", *words], [OURS, "-m", SELF, "train.merge", *words]
    return {
        "cp": ["cp", "-r", base, output],
        "ours": [*whole, "--prompts", prompts],
        "ours, logits not compared": [*whole, "--skip-logits"],
        "ours within a run": [*in_run, "--prompts", prompts],
        "ours within a run, logits not compared": [*in_run, "--skip-logits"],
        "ours within a run, neither proven nor hashed": [OURS, "-m", SELF, "scripts.bench.write_alone", *words],
        "PEFT": [sys.executable, "-c", PEFT, base, adapter, output],
    }


def timed(command: list, base: Path, place: Path, threads: int) -> dict[str, float]:
    """Seconds until it has ended and all is on the disk, and the peak memory of its largest process."""
    output = place / "output"
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    for file in base.iterdir():
        hash_file(file)
    began = time.monotonic()
    seen = watch(command, thread_settings(threads) | {"HF_HUB_OFFLINE": "1"}, place / "log.txt")
    os.sync()
    seconds = time.monotonic() - began
    if SELF in command:  # it has taken the time itself, without that of starting the nursery
        seconds = float((place / "log.txt").read_text().split()[-1])
    shutil.rmtree(output)
    return {"seconds": round(seconds, 2), "peak_gb": round(max(seen.peaks, default=0.0), 3)}


def main() -> None:
    """Run a module as `make run` does, in a fork of a process that has imported the libraries; print the seconds."""
    environment = dict(os.environ)
    with Nursery(environment) as nursery:
        nursery.start(["-m", "train.merge", "--help"], environment).wait()  # the libraries are imported then
        began = time.monotonic()
        status = nursery.start(["-m", *sys.argv[1:]], environment).wait()
        os.sync()
        print(f"{time.monotonic() - began:.3f}", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    prefer_tcmalloc()  # as `make run` does
    main()
