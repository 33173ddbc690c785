"""WHAT=ranks: what a second process gives: two with one thread each against one with one thread, in turns."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

from scripts.bench.programs import train_ours
from scripts.bench.race import figures
from scripts.bench.setting import Setting, make_round
from train.errors import InputError, problem
from train.files import write_json
from train.hardware import read_cpus

ROUNDS = 2  # processes of one thread are slow


def ranks(setting: Setting) -> dict[str, Any]:
    """Tokens a second with one and with two processes, and their ratio against 2, of each round."""
    if read_cpus().cores < 2:
        what, fix = "needs two cores, and here is one", 'WHAT="train data length merge"'
        raise InputError(problem("WHAT", "ranks", what, fix))
    found: dict[int, list[float]] = {1: [], 2: []}
    rounds = min(ROUNDS, setting.rounds)
    for number in range(rounds):
        shared = None
        for processes in found:
            kept = setting.home / f"round-{number}" / f"ranks-{processes}.json"
            if not kept.exists():
                shared = shared or make_round(setting, number)
                write_json(kept, run(setting, shared, processes))
            found[processes].append(json.loads(kept.read_text())["tokens_per_second"])
            print(f"round {number + 1}/{rounds}  {processes} x 1 thread: {found[processes][-1]:,.0f} tokens/s",
                  flush=True)  # fmt: skip
    share = [two / one / 2 for one, two in zip(found[1], found[2], strict=True)]
    return {"one": found[1], "two": found[2], "share_of_linear": share}


def run(setting: Setting, shared: SimpleNamespace, processes: int) -> dict[str, Any]:
    """Ours with so many processes of one thread."""
    output = shared.place / f"ranks-{processes}"
    shutil.rmtree(output, ignore_errors=True)
    seen = train_ours(shared.recipe, setting.model, shared.place / "data", output, processes, 1)
    return figures(seen, shared.tokens, exact=True)
