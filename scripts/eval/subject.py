"""Whom `make eval` asks: a run's base beside what it learned, or one model; and how, which is as it was trained."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.eval.install import HOME
from scripts.runs import fingerprint, read_record
from scripts.serve.find import Served, of_model, of_run
from train.data_tokens import load_tokenizer, own_prefix
from train.errors import InputError, attempt, problem
from train.hardware import choose_dtype
from train.recipe import schema
from train.render import choose_style
from train.sources import check_model


@dataclass(frozen=True)
class Subject:
    """The models by their side of the table, where results go, and all that decides how they are asked.

    `way` says it in words.
    """

    name: str
    home: Path
    sides: dict[str, Served]
    chat: bool
    system: str | None
    bos: bool
    dtype: str
    batch_size: int
    way: str

    def about(self) -> dict[str, Any]:
        """What decides the figures besides task and harness."""
        models = {
            side: [fingerprint(one.directory), fingerprint(one.adapter) if one.adapter else None]
            for side, one in self.sides.items()
        }
        digest = hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest()
        return {"chat": self.chat, "system": self.system, "bos": self.bos, "dtype": self.dtype, "models": digest}


def find_subject(run: str, model: str, runs: Path) -> Subject:
    """The run of this name, or this model. Raises InputError where it cannot be asked."""
    if bool(run) == bool(model):
        what = "are both given" if run else "is missing"
        fix = "make eval TASKS=… RUN=name (make runs lists them), or MODEL=directory"
        raise InputError(problem("RUN and MODEL" if run else "RUN or MODEL", "", what, fix))
    if model:
        served = of_model(model)
        key = hashlib.sha256(str(served.directory.resolve()).encode()).hexdigest()[:8]
        return ask(served.name, HOME / "models" / f"{served.directory.resolve().name}-{key}", {"model": served})
    tuned = of_run(runs, run)
    return ask(run, runs / run / "eval", {"base": base_of(runs / run, run), "tuned": tuned})


def base_of(run: Path, name: str) -> Served:
    """The base of a run."""
    base = Path(read_record(run / "run.json")["model_path"])
    if not base.is_dir():
        made = next((one for one in ("merged", "model") if (run / one).is_dir()), None)
        alone = f"; or measure the result alone: MODEL={run / made}" if made else ""
        raise InputError(problem("RUN", name, f"its base {base} is not here", f"bring it back there{alone}"))
    return Served("base", base)


def ask(name: str, home: Path, sides: dict[str, Served]) -> Subject:
    """How these models are asked: in the form of the run's rows, or where no run tells, in the model's own."""
    problems: list[str] = []
    for one in sides.values():
        problems += check_model(one.directory, "lora")
    if problems:
        raise InputError(problems)
    last = list(sides.values())[-1]
    recipe, tokenizer = last.recipe, attempt(problems, load_tokenizer, last.directory)
    if problems:
        raise InputError(problems)
    chat = bool(tokenizer.chat_template)
    if recipe:
        chat = choose_style(recipe, tokenizer, (), "train.yaml").chat is not None
    system = recipe.system_prompt if recipe and chat else None
    bos = not chat and bool(own_prefix(tokenizer))
    dtype, _ = choose_dtype(recipe.dtype if recipe else "auto")
    usual = schema()["properties"]["per_device_eval_batch_size"]["default"]
    way = "in the model's chat template" if chat else "in plain text"
    way += f", with the system message {system!r}" if system else ""
    way += ", as its rows were" if recipe else ""
    size = recipe.per_device_eval_batch_size if recipe else usual
    return Subject(name, home, sides, chat, system, bos, str(dtype).removeprefix("torch."), size, way)
