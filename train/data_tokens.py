"""Rows' text as tokens with the mask of those that carry loss, in batches through the Rust tokenizer."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import InputError, problem
from train.render import Rendered

BATCH = 512
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
# Everything in a model's directory that can change what tokens a row becomes, or where an answer stops.
TOKENIZER_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True)
class Codec:
    """A model's tokenizer with what else its directory says about tokens."""

    tokenizer: Any
    prefix: tuple[int, ...]  # what the tokenizer itself puts before a text: usually BOS or nothing
    end: int | None  # the token put behind a plain answer
    stops: tuple[int, ...]  # every token at which generation may be told to end
    model_stops: tuple[int, ...]  # those of them that generate() ends at without being told
    bos: int | None
    vocabulary: int | None  # rows of the model's embedding
    positions: int | None  # the longest row the model takes


@dataclass(frozen=True)
class Tokens:
    """A row's tokens and mask. `starts` are the answers' first tokens.

    `stop` is the token that ends the last answer, or None where not every answer ends in a stop token. `split` says
    that the prompt's last and the answer's first characters would have been one token.
    """

    ids: np.ndarray
    loss: np.ndarray
    starts: tuple[int, ...]
    stop: int | None
    split: bool


def hash_tokenizer(model_dir: Path) -> dict[str, str]:
    """SHA-256 of each file of the model's directory that decides about tokens."""
    files = [model_dir / name for name in TOKENIZER_FILES] + sorted(model_dir.glob("additional_chat_templates/*"))
    return {
        str(path.relative_to(model_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def load_codec(model_dir: Path) -> Codec:
    """Load the tokenizer of a model's directory. Raises InputError where there is none, or none that fits the model."""
    config, generation = read_config(model_dir, "config.json"), read_config(model_dir, "generation_config.json")
    tokenizer = load_tokenizer(model_dir)
    text_config = config.get("text_config") or {}
    vocabulary = config.get("vocab_size") or text_config.get("vocab_size")
    if vocabulary and len(tokenizer) > vocabulary:
        what = f"has {len(tokenizer)} tokens, but the model's embedding only {vocabulary} (vocab_size in config.json)"
        fix = "take the tokenizer that belongs to the model, or enlarge the embedding with resize_token_embeddings"
        raise InputError(problem(model_dir, "tokenizer", what, fix))
    in_config = end_ids(config) or end_ids(text_config)
    by_model = end_ids(generation) or in_config
    stops = tuple(dict.fromkeys([*end_ids({"eos_token_id": tokenizer.eos_token_id}), *by_model, *in_config]))
    return Codec(
        tokenizer=tokenizer,
        prefix=own_prefix(tokenizer),
        end=stops[0] if stops else None,
        stops=stops,
        model_stops=tuple(by_model),
        bos=tokenizer.bos_token_id,
        vocabulary=vocabulary,
        positions=config.get("max_position_embeddings") or text_config.get("max_position_embeddings"),
    )


def end_ids(config: dict[str, Any]) -> list[int]:
    """The ids under eos_token_id: none, one or several."""
    ids = config.get("eos_token_id")
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def read_config(model_dir: Path, name: str) -> dict[str, Any]:
    """A JSON object of the model's directory; only config.json must be there."""
    path = model_dir / name
    if not model_dir.is_dir():
        raise InputError(problem(model_dir, "", "there is no such directory", "give a model's directory with MODEL="))
    if not path.is_file():
        if name == "config.json":
            fix = "give the directory that holds config.json, the tokenizer and the weights"
            raise InputError(problem(model_dir, "", "is no model's directory: it holds no config.json", fix))
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(problem(path, "", f"is not JSON: {error}", "fetch the model again")) from None
    if not isinstance(value, dict):
        raise InputError(problem(path, "", "holds no JSON object", "fetch the model again"))
    return value


def load_tokenizer(model_dir: Path) -> Any:
    """The tokenizer, of which nothing but local files is read and no code of the model's is run."""
    if (model_dir / "tokenizer.json").exists():
        read_config(model_dir, "tokenizer.json")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust library raises nothing narrower for a tokenizer.json that it cannot read
        if type(error) is not Exception and not isinstance(error, LOADING_ERRORS):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = "fetch the model again with its tokenizer's files (tokenizer.json, tokenizer_config.json)"
        raise InputError(problem(model_dir, "tokenizer", f"cannot be loaded: {reason}", fix)) from None
    if not getattr(tokenizer, "is_fast", False):
        fix = "add a tokenizer.json: convert it once with a release of transformers that knows how"
        raise InputError(problem(model_dir, "tokenizer", "has no tokenizer.json that the Rust library reads", fix))
    # A tokenizer.json may carry the truncation and padding of the day it was saved; both would act without a word.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def own_prefix(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the tokenizer puts before any text by itself."""
    bare = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:at])


def encode_rows(rows: list[Rendered], codec: Codec, chat: bool, everything: bool, label: str) -> list[Tokens]:
    """Tokens and mask of each row; `everything` lets the prompt carry loss too. Shows its progress on a terminal."""
    from tqdm import tqdm

    encoded: list[Tokens] = []
    with tqdm(total=len(rows), desc=f"tokenising {label}", unit=" rows", disable=None, file=sys.stderr) as bar:
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            encoded += encode_batch(batch, codec, chat, everything)
            bar.update(len(batch))
    return encoded


def encode_batch(rows: list[Rendered], codec: Codec, chat: bool, everything: bool) -> Iterator[Tokens]:
    """Tokens and mask of a few rows.

    Generation sees the prompt tokenised alone, so the ids of each prompt must be the first ids of the row. Tokenised
    in one go they nearly always are; where the tokenizer joins the prompt's end with the answer's beginning to one
    token, the row is tokenised in pieces instead.
    """
    prompts = [row.text[:start] for row in rows for start in row.starts]
    coded = to_ids([row.text for row in rows] + prompts, codec)
    whole, before = coded[: len(rows)], iter(coded[len(rows) :])
    for row, ids in zip(rows, whole, strict=True):
        heads = [next(before) for _ in row.starts]
        starts = [len(head) for head in heads]
        split = any(ids[: len(head)] != head for head in heads)
        if split:
            ids, starts = encode_pieces(row, codec)
        yield mask_row(ids, starts, split, codec, chat, everything)


def to_ids(texts: list[str], codec: Codec) -> list[list[int]]:
    """The ids of each text, without what the tokenizer adds by itself."""
    return [item.ids for item in codec.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def encode_pieces(row: Rendered, codec: Codec) -> tuple[list[int], list[int]]:
    """The ids of a row cut at the beginning of each answer, and the answers' first positions in them.

    SentencePiece puts a space before every text, which a piece in mid-row must not get: later pieces are tokenised
    behind a line break that is then taken away again.
    """
    cuts = [*row.starts, len(row.text)]
    later = [row.text[a:b] for a, b in pairwise(cuts)]
    ids, newline, *rest = to_ids([row.text[: cuts[0]], "\n", *later, *("\n" + piece for piece in later)], codec)
    starts = []
    for plain, behind in zip(rest[: len(later)], rest[len(later) :], strict=True):
        starts.append(len(ids))
        ids = ids + (behind[len(newline) :] if behind[: len(newline)] == newline else plain)
    return ids, starts


def mask_row(ids: list[int], starts: list[int], split: bool, codec: Codec, chat: bool, everything: bool) -> Tokens:
    """The tokens of a row with the mask: from each answer's first token to its stop token, that one included.

    What a chat template prints behind the stop token (often a line break) is never generated and carries no loss.
    """
    if not chat:
        ids = [*codec.prefix, *ids] + ([codec.end] if codec.end is not None else [])
        starts = [start + len(codec.prefix) for start in starts]
    loss = np.zeros(len(ids), np.uint8)
    ends = []
    for start, limit in zip(starts, [*starts[1:], len(ids)], strict=True):
        end = next((i for i in range(start, limit) if ids[i] in codec.stops), None)
        ends.append(None if end is None else ids[end])
        loss[start : limit if end is None else end + 1] = 1
    if everything:
        loss[:] = 1
    loss[:1] = 0  # nothing predicts a row's first token
    return Tokens(np.array(ids, np.int32), loss, tuple(starts), None if None in ends else ends[-1], split)
