"""The X-ray's figures of prepared rows. data_check.json holds them:

format, key           version of the arrays; hash of everything they were made of
digest                hash of the arrays: two runs with the same digest train on the same tokens
sources               by file: size and sha256
rows                  by part (train, validation): source, read, filtered (left by row_filter), held_out, not_drawn
                      (left by max_train_samples or max_eval_samples), dropped by reason, truncated, kept
tokens, lengths       by part, of the kept rows: total, trained, share; min, mean, p50, p90, p95, p99, max
histogram             of all rows before any was cut or dropped: counts[i] of edges[i] < length <= edges[i + 1], and
                      over, those above max_length
padding_waste         share of a batch of per_device_train_batch_size rows in random order that is padding
steps_per_epoch, steps   optimiser steps of global_batch_size rows; steps counts max_steps or num_train_epochs
duplicates            in train: count, and pairs [earlier row, row]
overlap, empty_answers, split_boundaries, special_tokens_in_text   rows left out of train since validation has them;
                      left out without answer; whose prompt and answer would have shared a token; that spell a special
                      token in their own text
data_format, prompt, loss_on   prompt: "chat template" or "plain"; loss_on: "answers" or "everything"
bos                   token, first (whether each row begins with it), by whom it is put there
stop                  in_loss, tokens (that end answers), known (to tokenizer and configs), obeyed (by generate()
                      without being told), rows_without (cut rows)
vocabulary            tokens of the tokenizer, rows of the model's embedding
samples               three rows as pieces of text, each with whether it carries loss
notes                 sentences on what is no error but worth a look
seconds, rows_per_second   of the whole preparation; of reading, rendering and tokenising

A count of rows is {"count": n, "rows": the first ten numbers}.
"""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from train.data_judge import Part, stop_texts
from train.data_split import duplicates
from train.data_tokens import Codec
from train.render import Rendered, Style

LISTED = 10
BARS = 14
PERCENTILES = (50, 90, 95, 99)


def figures(parts: list[Part], style: Style, codec: Codec, recipe: SimpleNamespace) -> dict[str, Any]:
    """Everything in data_check.json that follows from the tokens."""
    train = parts[0]
    twice = duplicates(train.rows)
    steps = math.ceil(len(train.rows) / recipe.global_batch_size)
    return {
        "rows": {part.label: row_figures(part) for part in parts},
        "tokens": {part.label: token_figures(part) for part in parts},
        "lengths": {part.label: length_figures([len(tokens.ids) for tokens in part.tokens]) for part in parts},
        "histogram": histogram([length for part in parts for length in part.lengths], recipe.max_length),
        "max_length": recipe.max_length,
        "padding_waste": padding_waste(train, recipe.per_device_train_batch_size, recipe.seed),
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "global_batch_size": recipe.global_batch_size,
        "steps_per_epoch": steps,
        "steps": recipe.max_steps or math.ceil(steps * recipe.num_train_epochs),
        "duplicates": {"count": len(twice), "rows": [list(pair) for pair in twice[:LISTED]]},
        "overlap": listed(train.dropped.get("in validation too", [])),
        "empty_answers": listed([n for part in parts for n in part.dropped.get("no answer", [])]),
        "split_boundaries": listed(split_rows(parts)),
        "data_format": recipe.data_format,
        "prompt": "chat template" if style.chat is not None else "plain",
        "loss_on": "everything" if recipe.train_on_inputs or recipe.data_format == "text" else "answers",
        "bos": bos_figures(parts, codec, style),
        "stop": stop_figures(parts, codec),
        "vocabulary": {"tokenizer": len(codec.tokenizer), "model": codec.vocabulary},
        "samples": samples(train, codec),
    }  # fmt: skip


def split_rows(parts: list[Part]) -> list[int]:
    """The rows whose prompt and answer would have shared a token."""
    return [row.number for part in parts for row, tokens in zip(part.rows, part.tokens, strict=True) if tokens.split]


def listed(numbers: list[int]) -> dict[str, Any]:
    """A count with the first row numbers."""
    return {"count": len(numbers), "rows": numbers[:LISTED]}


def row_figures(part: Part) -> dict[str, Any]:
    """How many rows of a part are kept, cut and dropped, and why."""
    return {
        "source": part.source,
        "kept": len(part.rows),
        "truncated": listed(part.truncated),
        "dropped": {reason: listed(sorted(numbers)) for reason, numbers in part.dropped.items()},
    }


def token_figures(part: Part) -> dict[str, Any]:
    """Tokens of a part, and the share that carries loss."""
    total = sum(len(tokens.ids) for tokens in part.tokens)
    trained = sum(int(tokens.loss.sum()) for tokens in part.tokens)
    return {"total": total, "trained": trained, "share": trained / total if total else 0.0}


def length_figures(lengths: list[int]) -> dict[str, float]:
    """Smallest, mean and largest length, and percentiles."""
    if not lengths:
        return {}
    percentiles = {f"p{p}": int(np.percentile(lengths, p, method="higher")) for p in PERCENTILES}
    return {"min": min(lengths), "mean": round(float(np.mean(lengths)), 1), **percentiles, "max": max(lengths)}


def histogram(lengths: list[int], limit: int) -> dict[str, Any]:
    """Counts of lengths in at most 14 bars of a round width, and of those over the limit."""
    top = min(max(lengths, default=1), limit)
    scales = (10**power * digit for power in range(7) for digit in (1, 2, 3, 4, 5, 6, 8))
    width = next(scale for scale in scales if scale * BARS >= top)
    edges = [*range(0, top, width), top if top == limit else math.ceil(top / width) * width]
    within = [
        length - 1 for length in lengths if length <= limit
    ]  # numpy's bars include their left edge, ours the right
    counts, _ = np.histogram(within, bins=np.array(edges)) if len(edges) > 1 else (np.array([]), None)
    return {"edges": edges, "counts": [int(count) for count in counts], "over": len(lengths) - len(within)}


def padding_waste(part: Part, size: int, seed: int) -> float:
    """Share of padding in batches of `size` rows in a random order, where each batch is as long as its longest row."""
    lengths = np.array([len(tokens.ids) for tokens in part.tokens])
    np.random.default_rng(seed).shuffle(lengths)
    batches = [lengths[first : first + size] for first in range(0, len(lengths), size)]
    padded = sum(int(batch.max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / padded if padded else 0.0


def bos_figures(parts: list[Part], codec: Codec, style: Style) -> dict[str, Any]:
    """The token at a row's beginning, and who puts it there."""
    if codec.bos is None:
        return {"token": None, "first": False, "by": None}
    first = all(tokens.ids[0] == codec.bos for part in parts for tokens in part.tokens)
    by = ("chat template" if style.chat is not None else "tokenizer") if first else None
    return {"token": codec.tokenizer.bos_token, "first": first, "by": by}


def stop_figures(parts: list[Part], codec: Codec) -> dict[str, Any]:
    """Whether each row's answers end in a trained stop token, and in which."""
    found: dict[int, int] = {}
    without = []
    for part in parts:
        for row, tokens in zip(part.rows, part.tokens, strict=True):
            if tokens.stop is None:
                without.append(row.number)
            else:
                found[tokens.stop] = found.get(tokens.stop, 0) + 1
    names = [codec.tokenizer.convert_ids_to_tokens(stop) for stop in sorted(found, key=lambda stop: -found[stop])]
    obeyed = not found or bool(found.keys() & set(codec.model_stops))
    return {
        "in_loss": bool(found),
        "tokens": names,
        "obeyed": obeyed,
        "known": stop_texts(codec),
        "rows_without": listed(without),
    }


def samples(part: Part, codec: Codec) -> list[dict[str, Any]]:
    """Three rows as the model sees them: the first, one of median length, the longest."""
    by_length = sorted(range(len(part.rows)), key=lambda index: len(part.tokens[index].ids))
    chosen = list(dict.fromkeys([0, by_length[len(by_length) // 2], by_length[-1], *range(len(part.rows))]))[:3]
    return [sample(part, index, codec) for index in chosen]


def sample(part: Part, index: int, codec: Codec) -> dict[str, Any]:
    """One row as pieces of text that carry loss or not; special tokens are shown as they are."""
    row, tokens = part.rows[index], part.tokens[index]
    cuts = [0, *(np.flatnonzero(np.diff(tokens.loss)) + 1).tolist(), len(tokens.ids)]
    # Each piece is what it adds to the text: decoded alone, SentencePiece would take away the space before it.
    texts = [codec.tokenizer.decode(tokens.ids[:cut].tolist()) for cut in cuts]
    pieces = [
        {"text": whole.removeprefix(before), "loss": bool(tokens.loss[cut])}
        for (before, whole), cut in zip(pairwise(texts), cuts, strict=False)
    ]
    trained = int(tokens.loss.sum())
    return {"part": part.label, "row": row.number, "tokens": len(tokens.ids), "trained": trained, "pieces": pieces}


def notes(
    rows: list[Rendered], parts: list[Part], style: Style, codec: Codec, recipe: SimpleNamespace, check: dict[str, Any]
) -> list[str]:
    """What is no error but worth a look, a sentence each."""
    said = []
    template = style.chat.get_chat_template() if style.chat is not None else ""
    if "strftime_now" in template:
        said.append("The chat template prints today's date into every row; another day prepares other tokens.")
    if template and codec.prefix and not check["bos"]["first"]:
        said.append("The tokenizer puts a token of its own before a text, but the chat template does not print it.")
    if not check["stop"]["obeyed"]:
        said.append(
            f"Answers end in {check['stop']['tokens'][0]}, but the model's generation_config.json does not stop there; "
            "give generate() that token as eos_token_id."
        )
    if check["split_boundaries"]["count"]:
        said.append(
            f"In {check['split_boundaries']['count']} rows the prompt's end and the answer's beginning would have been "
            "one token; they were tokenised apart, as generation will see them. Does the prompt end with a space?"
        )
    empty = sum(not row.prompt.strip() for row in rows if row.starts) if recipe.data_format == "completion" else 0
    if empty:
        said.append(f"{empty} rows have an empty prompt.")
    if len(parts) > 1 and recipe.data_format != "text":
        asked = {row.prompt for row in parts[0].rows}
        same = sum(row.prompt in asked for row in parts[1].rows)
        if same:
            said.append(f"{same} validation prompts are asked in train too, with another answer.")
    return said
