"""Where an export comes from and goes to: a run's model or a directory, checked before; built aside and renamed."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import InputError, problem
from train.files import sync
from train.run_names import find_run, known_runs

RECORD = "export.json"  # lies in every export and says that it is one
MADE_BY = "tunefleet export"
SPARE = 64 << 20  # bytes for tokenizer and records


@dataclass(frozen=True)
class Source:
    """A model to export: its directory, its run where it has one, and what its config.json says."""

    model: Path
    run: Path | None
    config: dict[str, Any]

    @property
    def data(self) -> Path | None:
        """The run's prepared rows, where it has any."""
        return self.run / "data" if self.run and (self.run / "data" / "data_check.json").is_file() else None

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(path.stat().st_size for path in self.model.glob("*.safetensors"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every export is told: of which model, and whether it is to be taken away."""
    parser.add_argument("--run", default="", help="name of a finished run")
    parser.add_argument("--model", default="", help="directory of a model, instead of a run")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    parser.add_argument("--remove", action="store_true", help="take the export away again")


def in_fresh_process(module: str, *words: object, **options: Any) -> subprocess.CompletedProcess:
    """A program of this repository run to its end in a process that holds nothing of this one."""
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": root}, text=True, check=False, **options)


def find_source(run: str, model: str, runs: Path) -> Source:
    """The model that RUN or MODEL names. Raises InputError where there is none that can be exported."""
    if bool(run) == bool(model):
        what = "give one of both" if run else "both are empty"
        fix = f"RUN=name or MODEL=directory; runs in {runs}: {known_runs(runs)}"
        raise InputError(problem("RUN and MODEL", "", what, fix))
    home = None
    if run:
        home = find_run(runs, run)
        directory = next((home / name for name in ("merged", "model") if (home / name).is_dir()), None)
        if directory is None:
            fix = 'go on with it: the same make run, with SET="merge=true" where its recipe says merge: false'
            raise InputError(problem(home, "", "has neither merged/ nor model/: there is no whole model yet", fix))
    else:
        directory = Path(model)
    return Source(directory, home, read_config(directory))


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model that can be exported. Raises InputError where there is none, or no plain weights."""
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(problem("MODEL", str(directory), "has no config.json", "give the directory of a whole model"))
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(problem(path, "", f"is not JSON: {error}", "take the file from the model again")) from None
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        what = f"{method}: the model is quantised already"
        raise InputError(problem(path, "quantization_config", what, "give the model that it was made from"))
    if not any(directory.glob("*.safetensors")):
        raise InputError(problem(directory, "", "has no .safetensors", "give a model with safetensors weights"))
    return config


def target_of(source: Source, name: str) -> Path:
    """Where an export goes: into its run, or beside a directory."""
    return source.run / name if source.run else source.model.with_name(f"{source.model.resolve().name}-{name}")


def is_export(directory: Path) -> bool:
    """Whether a directory holds the record of an export."""
    try:
        return json.loads((directory / RECORD).read_text())["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_same(directory: Path, source: Source) -> bool:
    """Whether an export was made of the weights that lie there now (size and time, as make sees files)."""
    return is_export(directory) and json.loads((directory / RECORD).read_text()).get("source") == stamp(source)


def stamp(source: Source) -> dict[str, list[int]]:
    """Size and time of change of each weight file."""
    files = sorted(source.model.glob("*.safetensors"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def check_room(target: Path, need: float) -> None:
    """Raise InputError where the export may not be put, or has no room."""
    if target.exists() and not is_export(target):
        fix = "move it away"
        raise InputError(problem(target, "", "exists and was not made by make quantise or make export", fix))
    free = shutil.disk_usage(next(path for path in target.resolve().parents if path.exists())).free
    if free < need + SPARE:
        what = f"the export needs {(need + SPARE) / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise InputError(problem(target.parent, "", what, "free space there; make delete-run removes a run"))


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """An empty directory beside the target; removed unless it was put in place. A killed export's is cleared."""
    place = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def put_in_place(place: Path, target: Path) -> None:
    """Bring everything to the disk and rename it; an earlier export goes when the new one is whole."""
    for path in [*place.rglob("*"), place]:
        sync(path)
    old = target.with_name(f".{target.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    place.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_export(target: Path) -> None:
    """Remove an export for good. Raises InputError where there is none."""
    if not is_export(target):
        there = ", ".join(sorted(path.name for path in target.parent.glob("*") if is_export(path))) or "none"
        raise InputError(problem(target, "", "is no export", f"exports there: {there}"))
    doomed = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    target.rename(doomed)
    shutil.rmtree(doomed)
    print(f"removed {target}")
