"""What a run's record says that it was trained from, and whether that is what lies here now."""

import argparse
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.chain import git_commit, present_image
from scripts.record_diff import Difference, causes, grouped
from scripts.run import is_name_of_data
from scripts.runs import fingerprint
from scripts.transfer_view import View
from train.errors import InputError, problem
from train.files import hash_file
from train.hardware import describe_hardware, read_cpus
from train.in_store import fetch_command
from train.layout import Layout
from train.recipe import check_values, read_yaml, schema, with_defaults

COMMIT = re.compile("[0-9a-f]{40}")
NEEDED = ("recipe", "identity", "model_path", "layout", "data", "base_model", "training")


# ---- what is recorded ----


def check_record(record: dict[str, Any], run: Path) -> list[str]:
    """What the record lacks that a reproduction needs."""
    where, lacking = run / "run.json", [key for key in NEEDED if not record.get(key)]
    if set(lacking) <= {"base_model", "training"} and lacking:
        fix = "finish it first, with the command that began it; its result is what a reproduction is compared with"
        return [problem(where, "training", f"{run.name} was not trained to its end", fix)]
    fix = "reproduce a run whose record was written by this repository, and is whole"
    problems = [problem(where, key, "is not recorded", fix) for key in lacking]
    if record.get("data") and not record["data"].get("sources"):
        problems.append(problem(where, "data.sources", "is not recorded", fix))
    return problems


def recorded_values(record: dict[str, Any], run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe's values as given: of the run's train.yaml where that is what was recorded, else of the record.

    MODEL, DATA and VALIDATION_DATA say where the same things lie now. Raises InputError where it is no recipe today.
    """
    where, values = run / "run.json", as_recorded(record["recipe"])
    if (run / "train.yaml").is_file():
        written, _ = read_yaml(run / "train.yaml")
        if not check_values(written, run / "train.yaml") and vars(with_defaults(written)) == record["recipe"]:
            values = written
    if arguments.model:
        values["model_name_or_path"] = arguments.model
        values.pop("model_revision", None)
    if arguments.data:
        named = is_name_of_data(arguments.data)
        for key in ["train_file", *([] if named else [key for key in values if key.startswith("dataset_")])]:
            values.pop(key, None)
        values["dataset_name" if named else "train_file"] = arguments.data
    fetched = (record.get("artifacts") or {}).get("dataset") or {}
    if fetched.get("name") and not arguments.data and not Path(values.get("dataset_name", ".")).is_dir():
        # by the very revision: a branch may have moved since, and on a cluster it is a path of the store there
        values["dataset_name"] = fetched["name"]
        if COMMIT.fullmatch(str(fetched["revision"])):  # a file from a URL has its hash there, which names it already
            values["dataset_revision"] = fetched["revision"]
    if arguments.validation_data:
        values["validation_file"] = arguments.validation_data
    problems = check_values(values, where)
    if problems:
        raise InputError(problems)
    return values


def as_recorded(recipe: dict[str, Any]) -> dict[str, Any]:
    """The values of a recorded recipe that are no defaults: what a person would have had to write."""
    known = schema()["properties"]
    given = {key: value for key, value in recipe.items() if value is not None}
    given = {key: value for key, value in given.items() if key not in known or value != known[key].get("default")}
    plain = vars(
        with_defaults({key: value for key, value in given.items() if key in known and key != "prompt_template"})
    )
    if given.get("prompt_template") == plain["prompt_template"]:
        given.pop("prompt_template", None)  # of the data_format, filled in
    if plain["eval_strategy"] == "no":  # there are no validation rows, so the loader filled these in
        given = {key: value for key, value in given.items() if key not in ("eval_strategy", "load_best_model_at_end")}
    return given


def recorded_layout(record: dict[str, Any], run: Path, problems: list[str]) -> Layout:
    """The processes and threads of the run; fewer cores than processes are added to the problems."""
    processes, threads = record["layout"]["processes"], record["layout"]["threads"]
    cores = read_cpus().cores
    if processes > cores:
        what = f"was {processes} processes, and this machine has {cores} core{'s' if cores > 1 else ''}"
        fix = f"reproduce it where there are {processes}; fewer processes give the same only within rounding (make run)"
        problems.append(problem(run / "run.json", "layout", what, fix))
    return Layout(processes, min(threads, max(1, cores // processes)), f"as recorded, {processes} x {threads}")


# ---- what is here ----


def check_inputs(record: dict[str, Any], plan: SimpleNamespace, where: Path) -> list[str]:
    """Every reason why model, rows or recipe cannot give the same adapter."""
    problems = check_recipe(record["recipe"], vars(plan.recipe), where)
    if plan.model:
        problems += check_model_files(record, plan.model, where)
    if plan.sources:
        problems += check_rows(record["data"]["sources"], plan.sources, where)
    return problems


def check_recipe(was: dict[str, Any], now: dict[str, Any], where: Path) -> list[str]:
    """Keys that have another value than recorded, those that only say where things lie left out."""
    places = ("model_name_or_path", "model_revision", "train_file", "validation_file", "report_to")
    differing = [key for key in now if key not in places and not key.startswith("dataset_")]
    fix = "take the commit of this repository that run.json names (git): keys or defaults were others there"
    return [
        problem(where, f"recipe.{key}", f"was {was.get(key, 'not there')}, is {now[key]}", fix)
        for key in differing
        if was.get(key) != now[key]
    ]


def check_model_files(record: dict[str, Any], model: Path, where: Path) -> list[str]:
    """Files of the base model that are gone or changed; its weights are read whole, unless their size tells already."""
    expected = record["base_model"].get("files") or {}
    artifact = (record.get("artifacts") or {}).get("model") or {}
    name, revision = artifact.get("name") or record["base_model"].get("name"), artifact.get("revision")
    again = f"{fetch_command('model', name, revision)}, or " if revision else ""
    fix = f"bring the model as it was ({again}MODEL=directory where it lies now)"
    problems, to_read = [], {}
    for file, entry in expected.items():
        path = model / file
        size = path.stat().st_size if path.is_file() else None
        if size != entry["size"]:
            what = "is gone" if size is None else f"was {entry['size']} bytes, is {size}"
            problems.append(problem(where, f"model: {path}", what, fix))
        else:
            to_read[path] = entry["sha256"]
    with View(f"reading {model}", sum(path.stat().st_size for path in to_read)) as view:
        for path, was in to_read.items():
            now = hash_file(path, view.add)
            if now != was:
                problems.append(problem(where, f"model: {path}", f"was sha256 {was[:12]}, is {now[:12]}", fix))
    known = {file: was for file, was in (record.get("model_files") or {}).items() if file not in expected}
    here = {file: now for file, now in fingerprint(model).items() if file not in expected} if known else {}
    for file in sorted(known.keys() | here.keys()):
        was, now = known.get(file, "not there"), here.get(file, "not there")
        if was != now:
            what = f"was {short(was)}, is {short(now)}"
            problems.append(problem(where, f"model: {model / file}", what, fix))
    return problems


def check_rows(was: dict[str, dict], now: dict[str, dict], where: Path) -> list[str]:
    """Files of rows that are gone, changed or new; a file under another name with the same content is the same."""
    problems = []
    fix = "bring the rows as they were, or say where they lie: DATA=file, VALIDATION_DATA=file"
    here, recorded = ({one["sha256"] for one in files.values()} for files in (now, was))
    for name, one in was.items():
        if one["sha256"] in here:
            continue
        there = now.get(name)
        what = f"is {short(there['sha256'])} ({there['size']} bytes)" if there else "is gone"
        problems.append(
            problem(where, f"data: {name}", f"was {short(one['sha256'])} ({one['size']} bytes), {what}", fix)
        )
    for name, one in now.items():
        if one["sha256"] not in recorded and name not in was:
            problems.append(problem(where, f"data: {name}", f"was not among the rows, is {short(one['sha256'])}", fix))
    return problems


def short(digest: str) -> str:
    """A hash as people compare it; other words as they are."""
    return f"sha256 {digest[:12]}" if len(digest) == 64 else digest


def warnings(record: dict[str, Any], plan: SimpleNamespace) -> list[Difference]:
    """What may give another result: layout, number format, versions, processor, commit, image."""
    from train.hardware import choose_dtype
    from train.results import versions

    present = {
        "layout": plan.layout.as_dict(),
        "dtype": str(choose_dtype(plan.recipe.dtype)[0]).removeprefix("torch."),
        "versions": versions(),
        "hardware": describe_hardware(),
        "git": git_commit(),
        "image": present_image(),
    }
    was, now = grouped(record), grouped(present)
    # How a step is computed is found out by a trial in the training itself.
    was["computation"] = {key: value for key, value in was["computation"].items() if key in now["computation"]}
    # What an older record did not name cannot differ.
    now["versions"] = {key: value for key, value in now["versions"].items() if key in was["versions"]}
    found = causes(was, now)
    unnamed = plan.identity and not record.get("model_files") and vars(plan.recipe) == record["recipe"]
    if unnamed and plan.identity != record["identity"]:
        found.append(Difference("model", "the model's tokenizer or configuration", "as in the run's identity", "other"))
    return found
