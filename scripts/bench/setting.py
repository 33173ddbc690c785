"""What one benchmark is about: its parameters, what they are measured on, and the key under which results are kept."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.bench.equipment import (
    GLOBAL_BATCH,
    MICRO_BATCH,
    SEED,
    VALIDATION_ROWS,
    choose_rows,
    find_rows,
    make_model,
    read_rows,
    render,
    rows_in_order,
    tokens_by_step,
    write_recipe,
    write_rows,
)
from scripts.bench.programs import prepare
from train.errors import InputError, problem
from train.files import hash_file, write_json
from train.hardware import choose_dtype, describe_hardware
from train.order import GlobalOrder
from train.prepared import load_prepared
from train.results import versions

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "bench"
SHOWN = ("__init__", "bench", "page", "profile", "table")  # modules that measure nothing: they show what was measured
WARMUP = 1  # steps that are trained and not counted: the first compiles kernels


@dataclass(frozen=True)
class Setting:
    """One benchmark's parameters and its directory."""

    rows: Path
    layers: int
    steps: int
    rounds: int
    threads: int
    geometry: dict[str, int]
    home: Path
    record: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)  # keys that differ from the recipe of all measurements

    @property
    def dtype(self) -> str:
        """The number format that this machine computes in, as a recipe's `dtype: auto` finds it."""
        return self.record["dtype"]

    @property
    def model(self) -> Path:
        """The base model of all variants; the same for other numbers of steps."""
        return self.home / "model"


def check_given(given: Any) -> Path:
    """The rows that the command asks for. Raises InputError where those or its numbers cannot be."""
    for name, steps in (("STEPS", given.steps), ("STEPS_CURVE", given.steps_curve)):
        if steps <= WARMUP:
            what = f"{steps} steps leave none to count after {WARMUP} of warm-up"
            raise InputError(problem(name, "", what, f"give at least {WARMUP + 1}"))
    rows = find_rows(given.data, given.shared)
    read_rows(rows)
    return rows


def make_setting(given: Any, others: dict[str, str]) -> Setting:
    """The setting that the command asks for; `others` are their versions, which decide results as ours do.

    Raises InputError where it cannot be.
    """
    rows = check_given(given)
    geometry = {"num_hidden_layers": given.layers, **json.loads(given.geometry)}
    record = {
        "rows": rows.name, "rows_sha256": hash_file(rows), "geometry": geometry, "steps": given.steps,
        "threads": given.threads, "dtype": str(choose_dtype("auto")[0]).removeprefix("torch."),
        "product": hash_product(), "versions": versions(), "others": others,
        "hardware": {**describe_hardware(), "memory_gb": None},
    }  # fmt: skip
    home = make_home(record, given.place, given.fresh)
    return Setting(rows, given.layers, given.steps, given.rounds, given.threads, geometry, home, record)


def make_home(record: dict[str, Any], place: Path, fresh: bool) -> Path:
    """The directory of the results under the key of all that decides them, emptied where it is to be `fresh`."""
    home = place / hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:10]
    if fresh and home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / "setting.json", record)
    return home


def change_setting(
    setting: Setting, geometry: dict[str, Any], recipe: dict[str, Any], steps: int, rounds: int, fresh: bool
) -> Setting:
    """The same with another model, other keys and number of steps, and so with a directory of its own."""
    record = {**setting.record, "geometry": geometry, "recipe": recipe, "steps": steps}
    home = make_home(record, setting.home.parent, fresh)
    layers = geometry["num_hidden_layers"]
    return replace(
        setting, layers=layers, geometry=geometry, recipe=recipe, steps=steps, rounds=rounds, home=home, record=record
    )


def hash_product() -> str:
    """A hash of the programs that are measured, and of how: results of other code are other results."""
    digest = hashlib.sha256()
    how = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in SHOWN)
    for path in [*sorted((ROOT / "train").rglob("*.py")), ROOT / "schemas" / "train.schema.json", *how]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_rows(setting: Setting) -> None:
    """Model, training rows and validation rows of the setting, made once."""
    rows = read_rows(setting.rows)
    make_model(setting.model, setting.geometry, [render(row) + row["output"] for row in rows])
    if (setting.home / "validation.jsonl").exists():
        return
    everything = write_rows(setting.home / "all.jsonl", rows)
    look = setting.home / "look"
    changes = {"train_file": str(everything), "validation_size": VALIDATION_ROWS}
    prepare(
        write_recipe(look / "train.yaml", {"model_name_or_path": str(setting.model), **changes}), setting.model, look
    )
    train, validation = choose_rows(load_prepared(look / "data"), rows, setting.steps)
    write_rows(setting.home / "train.jsonl", train)
    write_rows(setting.home / "validation.jsonl", validation)


def make_round(setting: Setting, number: int) -> SimpleNamespace:
    """What the variants of one round share: a seed, the recipe, ours' prepared rows, and the same rows for the others.

    Every round has another seed, so that the spread of a loss is that over seeds.
    """
    place = setting.home / f"round-{number}"
    seed = SEED + number
    train = read_rows_back(setting.home / "train.jsonl")
    changes = {
        "model_name_or_path": str(setting.model), "train_file": str(setting.home / "train.jsonl"),
        "validation_file": str(setting.home / "validation.jsonl"), "seed": seed, "max_steps": setting.steps,
        "save_strategy": "steps", "save_steps": setting.steps, **setting.recipe,
    }  # fmt: skip
    recipe = write_recipe(place / "train.yaml", changes)
    prepare(recipe, setting.model, place)
    prepared = load_prepared(place / "data")
    if len(prepared.train) != len(train):
        raise InputError(problem(place, "rows", f"{len(train)} were given, {len(prepared.train)} survived", "FRESH=1"))
    order = GlobalOrder(len(train), GLOBAL_BATCH, MICRO_BATCH, 0, 1, seed)
    numbers = [row for step in range(setting.steps) for row in order.rows_of_step(step)]
    given = rows_in_order(prepared, train, numbers)
    write_rows(place / "rows.jsonl", given)
    return SimpleNamespace(place=place, seed=seed, recipe=recipe, changes=changes, tokens=tokens_by_step(given))


def read_rows_back(path: Path) -> list[dict[str, str]]:
    """Rows that were written here."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
