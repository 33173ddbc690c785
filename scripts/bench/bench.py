"""How fast fine-tuning is on this machine beside others: behind `make bench`.

    python -m scripts.bench.bench [--what train curve ranks data length merge] [--steps 4] [--rounds 3] [--fresh]

Every finished run is kept: the same command goes on where it was interrupted, and shows the result again afterwards.
Writes build/bench/result.json, result.md, result.png and curve.png, and no document.
"""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.bench.equipment import flop_per_token
from scripts.bench.install import install, present
from scripts.bench.page import CURVES, draw_curves, markdown, picture, terminal
from scripts.bench.setting import PLACE, Setting, check_given, make_rows, make_setting
from scripts.bench.table import summarise
from scripts.bench.variants import variants
from scripts.bench.watch import MeasuredFailed
from train.errors import InputError, problem, run_program
from train.hardware import read_cpus

WHAT = ("train", "curve", "ranks", "data", "length", "merge")


def main() -> int:
    given = parse_arguments()
    wrong = sorted(set(given.what) - set(WHAT))
    if wrong:
        raise InputError(problem("WHAT", " ".join(wrong), "is nothing to measure", f"take some of: {' '.join(WHAT)}"))
    check_given(given)
    compared = bool({"train", "curve"} & set(given.what))
    others = install(given.fresh) if compared else present()
    setting = make_setting(given, others)
    print(f"results are kept in {setting.home}", flush=True)
    try:
        make_rows(setting)
        sections = {name: measure(name, setting, given) for name in WHAT if name in given.what}
    except MeasuredFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result = {
        "date": datetime.now(UTC).date().isoformat(), "command": as_make(given),
        "setting": setting.record, "others": others if compared else {}, "sections": sections,
    }  # fmt: skip
    write(result, given.place)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=list(WHAT), help=f"of: {' '.join(WHAT)}; default: all")
    parser.add_argument("--data", default="", help="rows of instruction, input and output; default: SHARED's real ones")
    parser.add_argument("--shared", default="../shared", help="directory of the test equipment")
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps of a run, the first not counted")
    parser.add_argument("--steps-curve", type=int, default=100, help="optimiser steps of each run of the loss curves")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--layers", type=int, default=6, help="layers of the model")
    parser.add_argument("--threads", type=int, default=read_cpus().cores, help="threads of each; default: the cores")
    parser.add_argument("--variants", nargs="+", default=[], help="of the table's rows only these; default: all")
    parser.add_argument("--geometry", default="{}", help="JSON: other values of the model's configuration, for tests")
    parser.add_argument("--place", type=Path, default=PLACE, help="where results lie")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured so; install the others anew")
    return parser.parse_args()


def as_make(given: argparse.Namespace) -> str:
    """The command as a person types it."""
    words = {"WHAT": f'"{" ".join(given.what)}"' if given.what != list(WHAT) else "", "DATA": given.data}
    words |= {"STEPS": given.steps, "ROUNDS": given.rounds, "LAYERS": given.layers, "THREADS": given.threads}
    words |= {"STEPS_CURVE": given.steps_curve if "curve" in given.what else ""}
    return " ".join(["make bench", *(f"{name}={value}" for name, value in words.items() if value)])


def measure(name: str, setting: Setting, given: argparse.Namespace) -> dict[str, Any]:
    """One section. Each lives in the module of its name, and none is loaded before it is wanted."""
    if name == "train":
        return measure_training(setting, given.variants)
    if name == "curve":
        from scripts.bench.curve import curve

        return curve(setting, given.steps_curve, given.fresh)
    if name == "ranks":
        from scripts.bench.ranks import ranks

        return ranks(setting)
    if name == "data":
        from scripts.bench.data import data

        return data(setting)
    if name == "length":
        from scripts.bench.length import length

        return length(setting)
    from scripts.bench.merge import merge

    return merge(setting)


def measure_training(setting: Setting, names: list[str]) -> dict[str, Any]:
    """Ours and the others, with the table's rows."""
    from scripts.bench.race import race

    known = variants(setting.dtype)
    wrong = sorted(set(names) - {variant.name for variant in known})
    if wrong:
        fix = f"take some of: {' '.join(variant.name for variant in known)}"
        raise InputError(problem("--variants", " ".join(wrong), "are none of the table's rows", fix))
    found = race(setting, [variant for variant in known if not names or variant.name in names])
    flop = flop_per_token(setting.model)
    rows = summarise(found["runs"], found["matmul_gflops"], flop)
    return {**found, "rows": rows, "flop_per_token": flop, "tokens": found["runs"][0]["all_tokens"]}


def write(result: dict[str, Any], place: Path) -> None:
    """The result as JSON, page and picture, and on the terminal."""
    (place / "result.json").write_text(json.dumps(result, indent=1, default=asdict) + "\n")
    (place / "result.md").write_text(markdown(result))
    picture(result, place / "result.png")
    draw_curves(result, place / CURVES)
    print(f"\n{terminal(result)}\n")
    names = ["result.json", "result.md", *(["result.png"] if "train" in result["sections"] else []),
             *([CURVES] if "curve" in result["sections"] else [])]  # fmt: skip
    print(f"written: {', '.join(str(relative(place / name)) for name in names)}")


def relative(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    run_program(main)
