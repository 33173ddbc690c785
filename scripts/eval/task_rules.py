"""What a task file may say, so that the harness needs no network, runs no code, and measures what was asked.

`complaints` takes a task with what it includes, and yields (key, problem, fix).
"""

import difflib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from train.data_files import read_file

Complaints = Iterator[tuple[str, str, str]]
FORMATS = ("json", "csv", "parquet", "text")
# The harness' own metrics, by what a task asks of a model; any other name it would look for on the hub.
METRICS = {
    "generate_until": ("exact_match", "bleu", "chrf", "chrf++", "ter"),
    "multiple_choice": (
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "f1",
        "mcc",
        "exact_match",
        "brier_score",
        "likelihood",
    ),
    "loglikelihood": ("acc", "perplexity"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
}
AGGREGATIONS = ("mean", "nanmean", "median", "perplexity", "weighted_perplexity", "bits_per_byte", "f1",
                "matthews_corrcoef", "bleu", "chrf", "chrf++", "ter", "brier_score")  # fmt: skip
KEYS = ("task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
        "validation_split", "test_split", "fewshot_split", "process_docs", "doc_to_text", "doc_to_target",
        "doc_to_choice", "process_results", "description", "target_delimiter", "fewshot_delimiter", "fewshot_config",
        "num_fewshot", "generation_kwargs", "metric_list", "output_type", "repeats", "filter_list",
        "should_decontaminate", "doc_to_decontamination_query", "gen_prefix", "metadata")  # fmt: skip
REFUSED = {
    "class": ("is a task in Python", "write it as a task file"),
    "custom_dataset": ("makes rows by Python", "write the rows into a file, and name it under data_files"),
    "unsafe_code": ("runs what the model wrote", "measure such a task in a container of its own"),
    "use_prompt": ("takes prompts from the network", "write the prompt: doc_to_text"),
    "group": ("makes a group of tasks", "give the tasks' own files, or their directory: TASKS=…"),
    "task_list": ("makes a group of tasks", "give each task a file of its own"),
}
NO_TASK = ("class", "group", "task_list")  # keys of files that say something else than a task does
TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "description")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
OPTIONS = ("trust_remote_code", "data_dir", "streaming")  # of load_dataset, which lead elsewhere


def complaints(config: dict[str, Any], columns: list[str] | None) -> Complaints:
    """Everything that is wrong with a task whose rows have these columns (None: unknown)."""
    if not config.get("task") and not any(config.get(key) for key in NO_TASK):
        yield (
            "task",
            "is missing, so this is no task file",
            "give the task a name, task: tickets; or leave the file out",
        )
        return
    for rule in (check_keys, check_name):
        yield from rule(config)
    if any(config.get(key) for key in NO_TASK) or isinstance(config.get("task"), list):
        return
    for rule in (check_data, check_asked, check_metrics):
        yield from rule(config)
    yield from check_templates(config, columns)


def check_keys(config: dict[str, Any]) -> Complaints:
    """Keys that there are not, or not here."""
    for key in config:
        if key in REFUSED and config[key]:
            yield (key, *REFUSED[key])
        elif key not in KEYS and key not in REFUSED:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.7)
            yield (
                str(key),
                "is no key of a task",
                f"write {near[0]}" if near else "remove it; docs/evaluating.md shows a task",
            )


def check_name(config: dict[str, Any]) -> Complaints:
    """The task's name, which becomes that of a file."""
    name = config.get("task")
    if isinstance(name, list):
        yield ("task", *REFUSED["group"])
    elif name and (not isinstance(name, str) or not NAME.fullmatch(name)):
        yield "task", f"is {name!r}", "write letters, digits, _, - and . alone"


# ---- rows ----


def check_data(config: dict[str, Any]) -> Complaints:
    """Where the rows come from: files of this machine."""
    kind, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    local = f"write dataset_path: {' or '.join(FORMATS)}, and the files under dataset_kwargs: data_files"
    if not kind:
        yield "dataset_path", "is missing", local
    elif kind not in FORMATS:
        yield "dataset_path", f"is {kind}, which the harness would fetch from the hub; only files here are taken", local
    if not isinstance(options, dict):
        yield "dataset_kwargs", f"is {options!r}", "write names with values under it: data_files: {test: rows.jsonl}"
        return
    for key in OPTIONS:
        if key in options:
            yield f"dataset_kwargs.{key}", "may lead to code or rows from elsewhere", "remove it, and name data_files"
    files = list(data_files(config))
    if not files and (not kind or kind in FORMATS):
        yield "dataset_kwargs", "names no data_files", "add dataset_kwargs: {data_files: {test: rows.jsonl}}"
    for path in files:
        if "://" in path:
            yield "dataset_kwargs.data_files", f"{path} is not on this machine", "fetch it, and give its path"
        elif not Path(path).is_file():
            yield "dataset_kwargs.data_files", f"{path} is no file", "give its path as seen from the task file"
    yield from check_splits(config, options.get("data_files"))


def data_files(config: dict[str, Any], split: str = "") -> Iterator[str]:
    """The paths of a task's rows, of all splits or of one."""
    found = (
        (config.get("dataset_kwargs") or {}).get("data_files")
        if isinstance(config.get("dataset_kwargs"), dict)
        else None
    )
    if isinstance(found, dict):
        found = [one for name, files in found.items() if split in ("", name)
                 for one in (files if isinstance(files, list) else [files])]  # fmt: skip
    elif split not in ("", "train"):
        found = []
    yield from map(str, found if isinstance(found, list) else [found] if found else [])


def check_splits(config: dict[str, Any], files: Any) -> Complaints:
    """The splits that are measured must be among the files."""
    known = sorted(files) if isinstance(files, dict) else ["train"] if files else []
    if not config.get("test_split") and not config.get("validation_split"):
        yield "test_split", "is missing, and so is validation_split", "say which rows to ask: test_split: test"
    for key in ("test_split", "validation_split", "training_split", "fewshot_split"):
        if known and config.get(key) and config[key] not in known:
            fix = f"take one of: {', '.join(map(str, known))} (one file without a name is train)"
            yield key, f"is {config[key]}, and data_files has no such rows", fix


# ---- what is asked, and how it is judged ----


def output_type(config: dict[str, Any]) -> str:
    """What the task asks of a model."""
    return config.get("output_type") or "generate_until"


def check_asked(config: dict[str, Any]) -> Complaints:
    """What is asked of the model."""
    kind = output_type(config)
    if kind not in METRICS:
        yield "output_type", f"is {kind}", f"take one of: {', '.join(METRICS)}"
        return
    needed = {
        "multiple_choice": ("doc_to_text", "doc_to_target", "doc_to_choice"),
        "loglikelihood_rolling": ("doc_to_target",),
    }
    for key in needed.get(kind, ("doc_to_text", "doc_to_target")):
        if config.get(key) is None:
            yield key, f"is missing, and output_type {kind} needs it", f'add it: {key}: "{{{{a column of the rows}}}}"'
    count = config.get("num_fewshot", 0)
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        yield "num_fewshot", f"is {count!r}", "give a whole number from 0"


def check_metrics(config: dict[str, Any]) -> Complaints:
    """What the answers are judged by."""
    known = METRICS.get(output_type(config))
    if known is None:
        return
    lists = {"metric_list": config.get("metric_list")}
    for place, one in enumerate(config.get("filter_list") or []):
        if isinstance(one, dict) and "metric_list" in one:
            lists[f"filter_list[{place}].metric_list"] = one["metric_list"]
    if not lists["metric_list"]:
        yield (
            "metric_list",
            "names no metric",
            f"add metric_list: [{{metric: {known[0]}}}]; there are: {', '.join(known)}",
        )
    for key, found in lists.items():
        if found and not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
            yield key, f"is {found!r}", f"write a list: [{{metric: {known[0]}}}]"
            continue
        for one in found or []:
            yield from check_metric(key, one, known, coded=is_code(config.get("process_results")))


def check_metric(key: str, one: dict[str, Any], known: tuple[str, ...], coded: bool) -> Complaints:
    """One metric; where Python judges the answers (`coded`), its names are its own."""
    name, aggregation = one.get("metric"), one.get("aggregation")
    if one.get("hf_evaluate"):
        yield f"{key}.hf_evaluate", "fetches a metric's code from the hub", f"take one of: {', '.join(known)}"
    if name is None:
        yield key, "holds an entry without metric", f"write metric: and one of: {', '.join(known)}"
    elif not is_code(name) and name not in known and not coded:
        every = {one for names in METRICS.values() for one in names}
        why = "judges no such answers" if name in every else "is none that the harness brings along"
        yield key, f"{name} {why}", f"take one of: {', '.join(known)}"
    if aggregation is not None and not is_code(aggregation) and aggregation not in AGGREGATIONS:
        yield f"{key}.aggregation", f"is {aggregation}", f"take one of: {', '.join(AGGREGATIONS)}"


def is_code(value: Any) -> bool:
    """Whether a value is a `!function`."""
    return hasattr(value, "said")


def is_installed(said: str) -> bool:
    """Whether a function is of the harness, which is not installed here, or of Python's own library."""
    top = said.partition(".")[0]
    return top == "lm_eval" or (top != said and importlib.util.find_spec(top) is not None)


# ---- templates, and the columns that they name ----


def check_templates(config: dict[str, Any], columns: list[str] | None) -> Complaints:
    """Jinja that does not parse, and columns that the rows do not have."""
    for key in TEMPLATES:
        value = config.get(key)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield from check_template(key, text, columns)


def check_template(key: str, text: str, columns: list[str] | None) -> Complaints:
    """One template."""
    environment = jinja2.Environment()
    try:
        tree = environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        yield key, f"is no Jinja: {error.message} (line {error.lineno} of it)", "close every {{ with }} and {% with %}"
        return
    named = sorted(meta.find_undeclared_variables(tree) - set(environment.globals))
    lacking = [name for name in named if columns is not None and name not in columns and "defined" not in text]
    if lacking:
        yield key, f"names {', '.join(lacking)}, which the rows do not have", f"they have: {', '.join(columns)}"


def columns_of(config: dict[str, Any]) -> list[str] | None:
    """The columns of the rows that are asked; None where they are made by code, or read as only the harness knows.

    Raises InputError for rows that cannot be read.
    """
    options, split = config.get("dataset_kwargs"), config.get("test_split") or config.get("validation_split") or ""
    if is_code(config.get("process_docs")) or not isinstance(options, dict) or set(options) != {"data_files"}:
        return None
    if config.get("dataset_path") not in ("json", "csv", "parquet"):
        return ["text"] if config.get("dataset_path") == "text" else None
    rows = [row for path in data_files(config, split) if Path(path).is_file() for _, row in read_file(Path(path))]
    return list(dict.fromkeys(column for row in rows for column in row)) or None
