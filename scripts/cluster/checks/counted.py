"""What train.memory counted, remembered on this machine: counting imports torch and takes ten seconds.

Most recipes differ in what no memory hangs on (a learning rate, a seed, a file's name). So with each estimate is kept
what was read of its recipe while it was counted, and it holds for every recipe that says the same there.
"""

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.image_inputs import files_hash, hash_of
from train.files import write_json
from train.libraries import import_libraries

LIBRARIES = ("torch", "transformers", "peft")


class Noted:
    """A recipe that notes which of its keys are read."""

    def __init__(self, recipe: SimpleNamespace):
        self._recipe, self._read = recipe, set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._recipe, name)
        self._read.add(name)
        return value


def count_memory(recipe: SimpleNamespace, config: dict[str, Any], ranks: int, width: int, cache: Path | None) -> dict:
    """train.memory's estimate in bytes, or the same from last time. `width`: bytes of a weight; `cache`: a directory.

    Raises InputError where the model does not run with the recipe.
    """
    kept = cache / f"{key_of(config, ranks, width)}.json" if cache else None
    known = json.loads(kept.read_text()) if kept and kept.is_file() else []
    said = json.loads(json.dumps(vars(recipe), default=str))
    for one in known:
        if all(name in said and said[name] == value for name, value in one["read"].items()):
            return one["estimate"]
    import_libraries()  # in the order that leaves out what is not needed here
    from train.memory import estimate

    noted = Noted(recipe)
    found = estimate(noted, config, ranks, width)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, [*known, {"read": {name: said[name] for name in sorted(noted._read)}, "estimate": found}])
    return found


def key_of(config: dict[str, Any], ranks: int, width: int) -> str:
    """A file's name for what decides an estimate beside the recipe: model, processes, our code, the libraries."""
    facts = [config, ranks, width, files_hash(), [version(name) for name in LIBRARIES]]
    return hash_of(facts)[:16]
