"""Rules between the keys of a recipe, which the schema cannot say in words a person can act on.

Each rule takes the values as given (without defaults) and yields (key, problem, fix).
"""

import string
from collections.abc import Iterator
from typing import Any

# The fields of a row that each data_format reads; `columns` may rename just these.
FORMAT_FIELDS = {
    "instruction": ("instruction", "input", "output"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "dialogue": ("dialogue", "summary"),
    "text": ("text",),
}
TEMPLATE_FIELDS = {
    "prompt_with_input": {"instruction": {"instruction", "input"}},
    "prompt_without_input": {"instruction": {"instruction"}},
    "prompt_template": {"completion": {"prompt"}, "dialogue": {"dialogue"}},
}
LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora",
             "rank_pattern", "alpha_pattern", "modules_to_save")  # fmt: skip
Complaints = Iterator[tuple[str, str, str]]


def complaints(values: dict[str, Any]) -> Complaints:
    """Every broken rule. Yields (key, problem, fix)."""
    for rule in (check_data_keys, check_templates, check_method_keys, check_schedule_keys):
        yield from rule(values)


def has_validation(values: dict[str, Any]) -> bool:
    """Whether the recipe says where validation rows come from."""
    return bool(values.get("validation_file") or values.get("validation_size"))


def check_data_keys(values: dict[str, Any]) -> Complaints:
    """Rules between the keys that say which rows there are."""
    if "train_file" in values and "dataset_name" in values:
        yield "train_file", "is given beside dataset_name", "keep the one to train on"
    if "train_file" not in values and "dataset_name" not in values:
        yield (
            "train_file",
            "is missing, and so is dataset_name",
            "say which rows to train on (or DATA=file on the make line)",
        )
    for key in ("dataset_config_name", "dataset_revision", "dataset_split"):
        if key in values and "dataset_name" not in values:
            yield key, "means nothing without dataset_name", "remove it"
    if values.get("validation_size") and "validation_file" in values:
        yield "validation_size", "is given beside validation_file", "keep one of them"
    size = values.get("validation_size", 0)
    if size >= 1 and size != int(size):
        yield "validation_size", f"is {size}", "give a share below 1 or a whole number of rows"
    data_format = values.get("data_format", "instruction")
    for field in values.get("columns", {}):
        if field not in FORMAT_FIELDS[data_format]:
            fields = ", ".join(FORMAT_FIELDS[data_format])
            yield (
                "columns",
                f"renames {field}, but data_format {data_format} reads {fields}",
                f"rename one of: {fields}",
            )
    if data_format == "text":
        for key in ("exact_match", "rouge", "system_prompt"):
            if values.get(key):
                yield key, "needs rows with a prompt and an answer, but data_format is text", "remove it"
        if values.get("use_chat_template") is True:
            yield "use_chat_template", "is true, but data_format text is trained as it stands", "remove it"
    if values.get("system_prompt") and values.get("use_chat_template") is False:
        yield "system_prompt", "is given, but use_chat_template is false", "put the sentence into the prompt template"


def check_templates(values: dict[str, Any]) -> Complaints:
    """Placeholders of the prompt templates."""
    data_format = values.get("data_format", "instruction")
    for key, by_format in TEMPLATE_FIELDS.items():
        if key not in values:
            continue
        if data_format not in by_format:
            yield key, f"is not used by data_format {data_format}", "remove it"
            continue
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(values[key]) if name is not None}
        except ValueError as error:
            yield key, f"has an unmatched brace: {error}", "double a brace that is meant as text: {{ or }}"
            continue
        wanted = by_format[data_format]
        if found - wanted:
            names = ", ".join(f"{{{name}}}" for name in sorted(found - wanted))
            yield (
                key,
                f"holds {names}",
                f"use {', '.join(f'{{{name}}}' for name in sorted(wanted))}; double other braces",
            )
        if wanted - found:
            names = ", ".join(f"{{{name}}}" for name in sorted(wanted - found))
            yield key, f"lacks {names}, so that field would never be seen", f"add {names}"


def check_method_keys(values: dict[str, Any]) -> Complaints:
    """Rules between the keys of the method."""
    method = values.get("method", "lora")
    for key in (*LORA_KEYS, "merge"):
        if method == "full" and key in values:
            yield key, "means nothing with method full", "remove it, or take method lora"
    for key in ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
        if method != "qlora" and key in values:
            yield key, f"means nothing with method {method}", "remove it, or take method qlora"
    if method == "qlora" and values.get("fsdp"):
        yield "fsdp", "cannot shard 4-bit weights on CPUs", "take method lora, or leave fsdp out"
    if values.get("use_dora") and values.get("fsdp"):
        yield "fsdp", "cannot be combined with use_dora", "leave one of them out"
    for key in ("fsdp", "gradient_checkpointing"):
        if values.get(key) and values.get("use_ipex"):
            yield key, "cannot be combined with use_ipex", "leave one of them out"
    if values.get("modules_to_save") and values.get("fsdp"):
        yield "modules_to_save", "cannot be combined with fsdp", "leave one of them out"


def check_schedule_keys(values: dict[str, Any]) -> Complaints:
    """Rules between batch, length of training, validation and checkpoints."""
    micro, total = values.get("per_device_train_batch_size", 4), values.get("global_batch_size", 32)
    if total % micro:
        near = sorted({max(micro, total - total % micro), total + micro - total % micro})
        yield (
            "global_batch_size",
            f"{total} is not a multiple of per_device_train_batch_size {micro}",
            f"take {' or '.join(map(str, near))}, or another per_device_train_batch_size",
        )
    if "max_steps" in values and "num_train_epochs" in values:
        yield "max_steps", "is given beside num_train_epochs", "keep one of them"
    warmup = values.get("warmup_steps", 0)
    if warmup > 1 and warmup != int(warmup):
        yield "warmup_steps", f"is {warmup}", "give a share below 1 or a whole number of steps"
    for what in ("eval", "save"):
        if f"{what}_steps" in values and values.get(f"{what}_strategy", "epoch") != "steps":
            yield f"{what}_steps", f"means nothing without {what}_strategy: steps", f"add {what}_strategy: steps"
        if values.get(f"{what}_strategy") == "steps" and f"{what}_steps" not in values:
            yield f"{what}_strategy", f"is steps, but {what}_steps is missing", f"add {what}_steps"
    if not has_validation(values):
        for key in ("eval_strategy", "eval_steps", "load_best_model_at_end", "max_eval_samples", "exact_match",
                    "rouge"):  # fmt: skip
            if values.get(key) and values[key] != "no":
                yield key, "needs validation rows, and there are none", "add validation_size: 0.1 or validation_file"
    elif values.get("load_best_model_at_end", True):
        yield from check_best_model(values)


def check_best_model(values: dict[str, Any]) -> Complaints:
    """The best checkpoint can be known only where each checkpoint has a validation loss."""
    evals, saves = values.get("eval_strategy", "epoch"), values.get("save_strategy", "epoch")
    fix = f"make both {saves}, or set load_best_model_at_end: false"
    if evals != saves:
        yield "eval_strategy", f"is {evals} but save_strategy is {saves}: the best checkpoint could not be known", fix
    elif evals == "steps" and values.get("save_steps", 1) % values.get("eval_steps", 1):
        yield (
            "save_steps",
            f"{values['save_steps']} is not a multiple of eval_steps {values['eval_steps']}: "
            "the best checkpoint could not be known",
            "make it a multiple, or set load_best_model_at_end: false",
        )
