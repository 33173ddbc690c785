"""From a recipe's rows to the arrays that training reads: read, render, split, tokenise, judge, write.

The result is a directory that appears whole or not at all; `train.prepared` loads it. Used by train.check_data.
"""

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from train.data_figures import figures, listed, notes
from train.data_judge import Part, find_overlap, judge_rows, settle, stop_texts
from train.data_split import choose_rows, split_rows
from train.data_tokens import Codec, hash_tokenizer, load_codec
from train.errors import InputError, problem
from train.files import PROMPTS
from train.prepared import ARRAYS, CHECK, array_path, digest_arrays
from train.render import Rendered, Style, choose_style, render_row
from train.rows import Origin, Row, describe_files, find_training, find_validation, read_rows

FORMAT = 1  # raised whenever the same rows and recipe are to give other arrays, so that older ones are made again
RECIPE_KEYS = (
    "dataset_config_name", "dataset_split", "validation_size", "data_format", "columns", "row_filter",
    "system_prompt", "prompt_with_input", "prompt_without_input", "prompt_template", "use_chat_template",
    "train_on_inputs", "max_length", "overlong", "bad_rows", "max_train_samples", "max_eval_samples", "seed",
    "global_batch_size", "per_device_train_batch_size", "num_train_epochs", "max_steps",
)  # fmt: skip


def prepare_data(
    recipe: SimpleNamespace, model_dir: Path, output: Path, where: object = "train.yaml"
) -> dict[str, Any]:
    """Prepare the recipe's rows for a model in the directory `output`, and return what data_check.json holds.

    What is there already is used again (then "reused" is true in the result) if rows, recipe and tokenizer are those
    it was made of and it is undamaged. Raises InputError with everything found wrong, `where` naming the recipe.
    """
    began = time.monotonic()
    origins = [find_training(recipe, where), find_validation(recipe)]
    sources = {name: described for origin in origins if origin for name, described in describe_files(origin).items()}
    key = input_key(sources, recipe, model_dir)
    check = reusable(output, key)
    if check:
        return {**check, "reused": True}
    codec = load_codec(model_dir)
    style = choose_style(recipe, codec.tokenizer, tuple(stop_texts(codec)), where)
    check_lengths(recipe, codec, model_dir, where)
    loaded = time.monotonic()
    parts, rows, facts = make_parts(origins, style, codec, recipe, where)
    made = time.monotonic()
    settle(parts, style, recipe, where)
    check = {"format": FORMAT, "key": key, "sources": sources, **figures(parts, style, codec, recipe)}
    for part in parts:
        check["rows"][part.label].update(facts[part.label])
    check["special_tokens_in_text"] = facts["special"]
    check["notes"] = notes(rows, parts, style, codec, recipe, check) + source_notes(recipe, origins, facts)
    check["seconds"] = round(time.monotonic() - began, 2)
    check["rows_per_second"] = round(sum(len(part.lengths) for part in parts) / (made - loaded), 1)
    return {**write_prepared(parts, check, recipe, output), "reused": False}


def input_key(sources: dict[str, Any], recipe: SimpleNamespace, model_dir: Path) -> str:
    """A hash of everything that the arrays depend on."""
    inputs = {
        "format": FORMAT,
        "sources": {name: described["sha256"] for name, described in sources.items()},
        "recipe": {name: getattr(recipe, name) for name in RECIPE_KEYS},
        "tokenizer": hash_tokenizer(model_dir),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def reusable(output: Path, key: str) -> dict[str, Any] | None:
    """The stored check of a prepared directory, if it was made of these inputs and its arrays are undamaged."""
    try:
        check = json.loads((output / CHECK).read_text(encoding="utf-8"))
        fits = check["key"] == key and check["digest"] == digest_arrays(output)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return check if fits else None


def check_lengths(recipe: SimpleNamespace, codec: Codec, model_dir: Path, where: object) -> None:
    """Raise InputError where rows may be longer than the model can read."""
    if codec.positions and recipe.max_length > codec.positions:
        what = f"is {recipe.max_length}, but the model reads at most {codec.positions} tokens"
        fix = f"take at most {codec.positions} (max_position_embeddings in {model_dir}/config.json)"
        raise InputError(problem(where, "max_length", what, fix))


def make_parts(
    origins: list[Origin | None], style: Style, codec: Codec, recipe: SimpleNamespace, where: object
) -> tuple[list[Part], list[Rendered], dict[str, Any]]:
    """Read, render, split, tokenise and judge. Returns train and, if there is one, validation; all rendered rows; and
    what is known of them only here (rows read, left by row_filter, drawn)."""
    read = read_both(origins, recipe, where)
    rendered = [[render_row(row, style) for row in source.rows] for source in read]
    sources = [source.name for source in read]
    facts: dict[str, Any] = {"special": special_rows([row for source in read for row in source.rows], codec)}
    for label, source in zip(("train", "validation"), read, strict=False):
        facts[label] = {"read": source.total, "filtered": source.total - len(source.rows)}
    if recipe.validation_size:
        train, held = split_rows(rendered[0], recipe, sources[0], where)
        facts["validation"] = {"read": len(held), "filtered": 0}
        facts["train"]["held_out"] = len(held)
        rendered, sources = [train, held], [sources[0], sources[0]]
    chosen = [choose_rows(rendered[0], recipe.max_train_samples, recipe.seed)]
    chosen += [rows[: recipe.max_eval_samples] for rows in rendered[1:]]
    parts = []
    for label, source, rows, whole in zip(("train", "validation"), sources, chosen, rendered, strict=False):
        facts[label]["not_drawn"] = len(whole) - len(rows)
        parts.append(judge_rows(rows, label, source, style, codec, recipe))
    if len(parts) > 1:
        leave_overlap(parts)
    return parts, [row for rows in chosen for row in rows], facts


def read_both(origins: list[Origin | None], recipe: SimpleNamespace, where: object) -> list[Any]:
    """The rows of each source. Raises InputError with the problems of all of them."""
    read, problems = [], []
    for origin in origins:
        try:
            read += [read_rows(recipe, origin, where)] if origin else []
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return read


def leave_overlap(parts: list[Part]) -> None:
    """Blame the training rows that are in validation too, and take them out of train."""
    train, validation = parts
    both = set(find_overlap(train.rows, validation.rows))
    for number in sorted(both):
        train.blame(("in validation too", ""), number)
    kept = [(row, tokens) for row, tokens in zip(train.rows, train.tokens, strict=True) if row.number not in both]
    train.rows, train.tokens = [row for row, _ in kept], [tokens for _, tokens in kept]


def special_rows(rows: list[Row], codec: Codec) -> dict[str, Any]:
    """The rows whose own text spells a special token, which the tokenizer then takes for that token."""
    special = [token.content for token in codec.tokenizer.added_tokens_decoder.values() if token.special]
    names = sorted(map(re.escape, special), key=len, reverse=True)
    if not names:
        return listed([])
    pattern = re.compile("|".join(names))
    return listed([row.number for row in rows if any(pattern.search(text) for text in texts(row))])


def texts(row: Row) -> list[str]:
    """Every text in a row's fields."""
    values = row.fields.values()
    return [text for value in values for text in ([value] if isinstance(value, str) else [m["content"] for m in value])]


def source_notes(recipe: SimpleNamespace, origins: list[Origin | None], facts: dict[str, Any]) -> list[str]:
    """Notes on where the rows come from."""
    said = []
    if recipe.dataset_revision and Path(recipe.dataset_name).is_dir():
        said.append("dataset_revision was not checked: dataset_name is a directory, whose files' hashes are recorded.")
    if facts["special"]["count"]:
        rows = ", ".join(map(str, facts["special"]["rows"]))
        said.append(f"{facts['special']['count']} rows spell a special token in their own text (rows {rows}).")
    return said


def write_prepared(parts: list[Part], check: dict[str, Any], recipe: SimpleNamespace, output: Path) -> dict[str, Any]:
    """Write arrays, prompts and check beside `output` and rename them into place. Returns the check with its digest."""
    new, old = output.with_name(f".{output.name}.writing"), output.with_name(f".{output.name}.old")
    try:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir(parents=True)
        for part in parts:
            write_part(part, new)
        if len(parts) > 1 and recipe.data_format != "text":
            (new / PROMPTS).write_text("".join(prompt_lines(parts[1])), encoding="utf-8")
        check = {**check, "digest": digest_arrays(new)}
        (new / CHECK).write_text(json.dumps(check, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(old)
        new.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        fix = "make room or give another --output" if error.errno == 28 else "give an --output that can be written"
        raise InputError(problem(output, "", f"cannot be written: {error.strerror or error}", fix)) from None
    return check


def prompt_lines(part: Part) -> list[str]:
    """The held-out rows as generation is asked them; `prompt_ids` are just the tokens that training put first."""
    return [
        json.dumps(
            {
                "row": row.number,
                "prompt": row.prompt,
                "answer": row.answer,
                "prompt_ids": tokens.ids[: tokens.starts[-1]].tolist(),
            }
        )
        + "\n"
        for row, tokens in zip(part.rows, part.tokens, strict=True)
        if tokens.starts[-1] < len(tokens.ids)  # a cut conversation may have lost its last question
    ]


def write_part(part: Part, directory: Path) -> None:
    """The arrays of train or validation."""
    lengths = [len(tokens.ids) for tokens in part.tokens]
    values = {
        "ids": np.concatenate([tokens.ids for tokens in part.tokens]),
        "loss": np.concatenate([tokens.loss for tokens in part.tokens]),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "rows": np.array([row.number for row in part.rows]),
    }
    for name, dtype in ARRAYS.items():
        np.save(array_path(directory, part.label, name), values[name].astype(dtype))
