"""The card of what is published: README.md with the hub's metadata, and facts from the run's files alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader

from scripts.publish.licence import Judgement
from scripts.publish.origin import Origin, local_name
from train import report_facts as facts
from train.recipe import dump_recipe, schema
from train.rouge import NAMES
from train.yaml_file import read_mapping

TEMPLATE = "card.md.j2"
METHODS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tuning"}
# Defaults that decide what is learned, in the schema's order; the others only decide how fast, or what is shown.
WITHOUT_EFFECT = {"Several processes", "After training"}
ALSO_WITHOUT = {"attn_implementation", "per_device_eval_batch_size", "gradient_checkpointing", "save_strategy",
                "save_steps", "save_total_limit", "report_to", "use_ipex"}  # fmt: skip
FIGURES = (("eval_loss", "validation loss"), ("perplexity", "perplexity"))


def write_card(run: Path, parts: dict[str, Any], about: dict[str, Any]) -> str:
    """The text of README.md.

    `parts` is the run as train.report reads it. `about` has name (title), what (adapter, merged, model), base, rows
    (Origin), licence (Judgement), legal (names of the licence's files), allowed (sentences), code, curve (bool).
    """
    loader = FileSystemLoader(Path(__file__).parent)  # Markdown: nothing is escaped as in a page of HTML
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"cell": cell, "fenced": fenced, "percent": facts.percent, "duration": facts.duration,
                            "moment": facts.moment, "local": local_name, "figure": figure}  # fmt: skip
    record = parts["record"]
    return environment.get_template(TEMPLATE).render(
        **about,
        metadata=yaml.safe_dump(metadata(record, about), sort_keys=False, allow_unicode=True),
        verdict=facts.verdict(parts)[1],
        record=record,
        recipe=record["recipe"],
        training=parts["training"] or {},
        check=parts["check"],
        method=METHODS[record["recipe"]["method"]],
        given=given_recipe(run, record, about["base"], about["rows"]),
        defaults=list(defaults(run, record)),
        before_after=list(before_after(parts)),
        checks=facts.checks(parts),
        measured_adapter=bool((parts["after"] or {}).get("adapter")),
    )


def metadata(record: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """What the hub reads at the top of a card. A base or data set that is not on the hub is not named to it."""
    adapter, base, rows = about["what"] == "adapter", about["base"], about["rows"]
    judged: Judgement = about["licence"]
    known = {"license": judged.identifier if judged.title else "unknown"}
    if base.hub:
        known |= {"base_model": base.name, "base_model_relation": "adapter" if adapter else "finetune"}
    if rows.hub:
        known["datasets"] = [rows.name]
    return known | {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tunefleet", record["recipe"]["method"], *([] if record["recipe"]["method"] == "full" else ["peft"])],
    }


def given_recipe(run: Path, record: dict[str, Any], base: Origin, rows: Origin) -> str:
    """The run's own train.yaml, with names for the directories of one machine, and paths cut to their last part."""
    values = stated(run, record)
    for key, origin in (("model", base), ("dataset", rows)):
        name = "model_name_or_path" if key == "model" else "dataset_name"
        if name in values:
            values[name] = origin.name
            values |= {f"{key}_revision": origin.revision} if origin.hub and origin.revision else {}
    for key in ("train_file", "validation_file"):
        if isinstance(values.get(key), str):
            values[key] = local_name(values[key])
    return dump_recipe(values)


def stated(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The values that the run's recipe states; of a run without train.yaml those that differ from the defaults."""
    if (run / "train.yaml").is_file():
        return dict(read_mapping(run / "train.yaml", "train.yaml", "", "")[0])
    usual = {key: spec.get("default") for key, spec in schema()["properties"].items()}
    return {key: value for key, value in record["recipe"].items() if value not in (None, usual.get(key))}


def defaults(run: Path, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys the recipe left at their defaults, and the values, as far as they decided what was learned."""
    values, said = record["recipe"], stated(run, record)
    for key, spec in schema()["properties"].items():
        value = values.get(key)
        if (
            key in said
            or value in (None, [], {}, "")
            or key in ALSO_WITHOUT
            or key.startswith("prompt_")
            or spec.get("x-group") in WITHOUT_EFFECT
        ):
            continue
        if key.startswith("bnb_") and values["method"] != "qlora":
            continue
        if spec.get("x-group") == "Method" and key != "method" and values["method"] == "full":
            continue
        if key.startswith("dataset_") and not values.get("dataset_name"):
            continue
        yield key, facts.shown(value)


def before_after(parts: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Figure, before, after: of the same rows, by the base and by what was trained."""
    both = (parts["before"] or {}, parts["after"] or {})
    for key, name in FIGURES:
        if any(one.get(key) is not None for one in both):
            yield (name, *(facts.short(one[key]) if one.get(key) is not None else "unknown" for one in both))
    if any(one.get("exact_match") for one in both):
        yield ("exact match", *(matched(one.get("exact_match")) for one in both))
    if any(one.get("rouge") for one in both):
        for key, name in NAMES.items():
            yield (name, *(f"{one['rouge'][key]:.3f}" if one.get("rouge") else "unknown" for one in both))


def matched(found: dict[str, Any] | None) -> str:
    """A figure of exact match with its counts."""
    return f"{found['matched']:,} of {found['rows']:,} ({facts.percent(found['share'])})" if found else "unknown"


def figure(value: float | None) -> str:
    """A loss in four figures."""
    return f"{value:.4g}" if isinstance(value, int | float) else "not measured"


def cell(value: Any) -> str:
    """A value for one cell of a table: one line, and no bar that would end the cell."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def fenced(text: str, language: str) -> str:
    """A block of code, fenced with more backticks than any run of them inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def say(origin: Origin) -> str:
    """An origin in a line: name, and revision where it has one; or that it is nothing the hub knows."""
    if origin.hub:
        return f"`{origin.name}`, revision {f'`{origin.revision}`' if origin.revision else 'unknown'}"
    revision = f", revision `{origin.revision}`" if origin.revision else ""
    return f"`{origin.name}`{revision}{origin.place and f' ({origin.place})'}"
