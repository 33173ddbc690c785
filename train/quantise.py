"""Make a finished model small: int8 or int4 weights, measured beside the model: `make quantise RUN=… BITS=8|4`.

    python -m train.quantise --run demo-13b7f276 [--bits 8|4] [--force]
    python -m train.quantise --model DIR --bits 4
    python -m train.quantise --run demo-13b7f276 --bits 4 --remove

Writes RUN/quantised-8bit (or DIR-quantised-8bit), which transformers loads where auto-round is installed. It counts
only when a fresh process has loaded it and found its stops and its perplexity near the model's, or with --force.
"""

import argparse
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from train import export_place as place
from train import export_table
from train.errors import InputError, attempt, problem, run_program
from train.files import write_json
from train.libraries import set_up_libraries

BITS = {"8": "W8A16", "4": "W4A16"}
GROUP = 32  # weights that share a scale
# How much greater the perplexity on the validation rows may become; docs/exporting.md says what was measured.
LIMITS = {"8": 0.01, "4": 0.05}


def main() -> int:
    """Check, quantise, measure both, put in place."""
    set_up_libraries()
    given = parse_arguments()
    problems = []
    if given.bits not in BITS:
        problems.append(problem("BITS", given.bits, "is no size to quantise to", f"take {' or '.join(BITS)}"))
    if find_spec("auto_round") is None and not given.remove:
        fix = ".venv/bin/python -m pip install --no-deps auto-round==0.16.0 py-cpuinfo"
        problems.append(problem("auto-round", "", "the package is not installed", fix))
    source = attempt(problems, place.find_source, given.run, given.model, given.runs_dir)
    if problems:
        raise InputError(problems)
    target = place.target_of(source, f"quantised-{given.bits}bit")
    if given.remove:
        place.remove_export(target)
        return 0
    if place.is_same(target, source):
        print(f"{target}: quantised before, of these very weights; make quantise-remove takes it away")
        print(export_table.of_source(source))
        return 0
    place.check_room(target, source.size)
    with place.workplace(target) as aside:
        quantise(source.model, aside / "model", given.bits)
        figures = {"model": measure(source.model, source, aside), "quantised": measure(aside / "model", source, aside)}
        objections = judge(figures, given.bits, target)
        record = {"bits": int(given.bits), "group_size": GROUP, "library": "auto-round", "limit": LIMITS[given.bits],
                  "figures": figures, "kept_in_spite_of": objections}  # fmt: skip
        print(export_table.of_source(source, target.name, record))
        if objections and not given.force:
            raise InputError(objections)
        write_json(aside / "model" / export_table.QUANTISED, record)
        write_json(aside / "model" / place.RECORD, {"made_by": place.MADE_BY, "source": place.stamp(source)})
        place.put_in_place(aside / "model", target)
    print(f"quantised: {target}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place.add_options(parser)
    parser.add_argument("--bits", default="8", help="8 or 4")
    parser.add_argument("--force", action="store_true", help="keep the result although it is worse than the limit")
    return parser.parse_args()


def quantise(model: Path, output: Path, bits: str) -> None:
    """Round the weights to their nearest in groups, file by file: the model is never loaded, no rows are needed."""
    from auto_round import AutoRound

    # Without torch's compiler: that needs a C++ compiler, and took longer for a small model than all the rest.
    rounding = AutoRound(str(model), scheme=BITS[bits], iters=0, disable_opt_rtn=True, group_size=GROUP,
                         device_map="cpu", enable_torch_compile=False)  # fmt: skip
    rounding.quantize_and_save(str(output), format="auto_round")
    shutil.rmtree(output / ".cache", ignore_errors=True)
    (output / "merge.json").unlink(missing_ok=True)  # the proof is about other weights
    for path in model.iterdir():  # tokenizer, chat template, generation config
        small = path.suffix in (".json", ".jinja", ".model", ".txt") and not path.name.endswith(".index.json")
        if path.is_file() and small and path.name not in ("config.json", "merge.json"):
            shutil.copyfile(path, output / path.name)


def measure(model: Path, source: place.Source, aside: Path) -> dict[str, Any]:
    """What a fresh process finds of a model: perplexity, stops, speed, size."""
    output = aside / "figures.json"
    words = ["--model", model, "--output", output, *(["--data", source.data] if source.data else [])]
    if place.in_fresh_process("train.export_measure", *words).returncode:
        what = "could not be loaded or measured in a fresh process; its message stands above"
        raise InputError(problem(model, "", what, "nothing was kept; try the other BITS"))
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return json.loads(output.read_text()) | {"size": size}


def judge(figures: dict[str, dict], bits: str, target: Path) -> list[str]:
    """What speaks against the quantised model."""
    old, new = figures["model"], figures["quantised"]
    fix = "take BITS=8, or keep it all the same: FORCE=1" if bits == "4" else "keep it all the same: FORCE=1"
    problems = []
    if old["perplexity"] is not None:
        worse = new["perplexity"] / old["perplexity"] - 1
        if not worse <= LIMITS[bits]:
            what = f"perplexity {new['perplexity']:.4f} is {worse:.1%} above the model's {old['perplexity']:.4f}"
            problems.append(problem(target, "perplexity", f"{what}; the limit is {LIMITS[bits]:.0%}", fix))
    if new["stop_ids"] != old["stop_ids"] or new["stopped"] < old["stopped"]:
        what = f"{new['stopped']} of {new['asked']} answers end by themselves, the model's {old['stopped']}"
        problems.append(problem(target, "stops", what, fix))
    return problems


if __name__ == "__main__":
    run_program(main)
