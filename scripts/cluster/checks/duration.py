"""Question: how long will it take? From the measured tokens a second of earlier runs of this kind on this store."""

import math
from types import SimpleNamespace

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer
from scripts.cluster.kubectl import Refused

QUESTION = "how long will it take"
# What must be the same for a run's speed to say something of another's.
ALIKE = ("model_name_or_path", "method", "gradient_checkpointing", "fsdp")
ROWS = ("dataset_name", "dataset_revision", "dataset_split", "train_file", "validation_size", "row_filter",
        "max_length", "max_train_samples", "data_format", "overlong")  # fmt: skip


def judge_duration(recipe: SimpleNamespace, placement: dict, facts: dict) -> list[Answer]:
    """Minutes of training, from the run most like this one."""
    inside = facts["inside"]
    if isinstance(inside, Refused):
        return [
            Answer(UNKNOWN, QUESTION, "nobody can look at what earlier runs measured", "see what lies on the store")
        ]
    world = placement["nodes"] * placement["processesPerNode"]
    alike = [run for run in inside["runs"] if is_alike(run, recipe)]
    alike = [run for run in alike if (run["training"] or {}).get("tokens_per_second")]
    if not alike:
        what = f"no run of {recipe.model_name_or_path} by {recipe.method} has been measured on this store"
        return [Answer(UNKNOWN, QUESTION, what, "SET=max_steps=5 makes a short run that measures it")]
    best = min(alike, key=lambda run: abs(math.log(processes(run) / world)))
    speed = best["training"]["tokens_per_second"] * world / processes(best)
    scaled = "" if processes(best) == world else f", scaled from {processes(best)} processes to {world}"
    said = f"{best['name']} did {best['training']['tokens_per_second']:,.0f} tokens/s{scaled}"
    tokens, whose = tokens_of(recipe, inside["runs"])
    if not tokens:
        what = f"{said}; how many tokens the data has is not known before a run has counted them"
        return [Answer(UNKNOWN, QUESTION, what, "make check-data OVERLAY=… counts them")]
    deadline = placement.get("deadlineSeconds")
    if deadline and tokens / speed > deadline:
        ended = f"deadlineSeconds ends it after {in_words(deadline)}"
        what = f"about {in_words(tokens / speed)} of training, and {ended} ({said})"
        return [Answer(FAILED, QUESTION, what, "PLACE=deadlineSeconds=…, or more nodes")]
    return [
        Answer(PASSED, QUESTION, f"about {in_words(tokens / speed)} of training ({tokens:,} tokens{whose}; {said})")
    ]


def is_alike(run: dict, recipe: SimpleNamespace) -> bool:
    """Whether a run's speed says something of this one's."""
    return all((run["recipe"] or {}).get(key) == getattr(recipe, key) for key in ALIKE)


def processes(run: dict) -> int:
    """How many processes trained."""
    return (run["training"] or {}).get("processes") or (run["layout"] or {}).get("processes") or 1


def tokens_of(recipe: SimpleNamespace, runs: list[dict]) -> tuple[int, str]:
    """How many tokens the training reads, as an earlier run on the same rows counted them; 0 where none did."""
    for run in runs:
        same = all((run["recipe"] or {}).get(key) == getattr(recipe, key) for key in ROWS)
        if same and run.get("tokens") and run.get("rows"):
            tokens, rows = run["tokens"]["train"]["total"], run["rows"]["train"]["kept"]
            if recipe.max_steps:
                return round(tokens / rows * recipe.global_batch_size * recipe.max_steps), ""
            return round(
                tokens * recipe.num_train_epochs
            ), f", {recipe.num_train_epochs:g} x what {run['name']} counted"
    return 0, ""


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"
