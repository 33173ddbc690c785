"""What a run takes in: its base model and its rows, found, looked at, and described for its record."""

from pathlib import Path
from types import SimpleNamespace

from train.errors import attempt
from train.in_store import describe, wrong_sizes
from train.rows import describe_files, find_training, find_validation
from train.sources import find_model


def find_inputs(recipe: SimpleNamespace, where: object, problems: list[str]) -> SimpleNamespace:
    """Of a recipe: model (directory or None), sources (size and SHA-256 of each file of rows), artifacts.

    `artifacts` says of model and data set, where they were fetched, their name, revision, licence and manifest's hash.
    What is wrong with any of them goes into `problems`, `where` naming the recipe.
    """
    model = attempt(problems, find_model, recipe, where)
    training, validation = attempt(problems, find_training, recipe, where), find_validation(recipe)
    directories = {"model": model, "dataset": None}
    if training:
        directories["dataset"] = training.directory or Path(training.name).parent
    artifacts, sources = {}, {}
    for kind, directory in directories.items():
        known = describe(directory) if directory else None
        if known:
            artifacts[kind] = known
            problems += wrong_sizes(kind, directory)
    for origin in (training, validation):
        sources.update((attempt(problems, describe_files, origin) or {}) if origin else {})
    return SimpleNamespace(model=model, sources=sources, artifacts=artifacts)
