"""A tokenizer in GGUF's words: tokens, kinds, merges or scores, special tokens, BOS and EOS flags, chat template."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data_tokens import load_codec
from train.errors import InputError, problem

# How text is cut before the merges: llama.cpp has code of its own for each, so the pattern must be one it knows.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {QWEN2: "qwen2", QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
SPACE = "\u2581"


@dataclass(frozen=True)
class Vocabulary:
    """What is written: `kind` is "gpt2" (byte-level) or "llama" (SentencePiece), with merges or scores."""

    kind: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    space_first: bool
    ids: dict[str, int]  # bos, eos, unk, pad, eot, eom
    add_bos: bool
    stops: list[int]
    template: str | None


def read_vocabulary(model: Path, vocab_size: int) -> Vocabulary:
    """The tokenizer of a model. Raises InputError where GGUF has no words for it."""
    codec = load_codec(model)
    tokenizer = codec.tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    inner = content["model"]
    fix = "convert it with llama.cpp's own script"
    if inner["type"] != "BPE":
        what = f"{inner['type']} cannot be exported to GGUF; BPE can, byte-level or SentencePiece's"
        raise InputError(problem(model / "tokenizer.json", "model.type", what, fix))
    byte_level = not inner.get("byte_fallback")
    added = {token["id"]: token for token in content["added_tokens"]}
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    kinds = [kind_of(number, names.get(number), added, tokenizer.unk_token_id, byte_level)
             for number in range(vocab_size)]  # fmt: skip
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in inner["merges"]]
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    others = [stop for stop in codec.stops if stop != ids["eos"]]
    ids |= dict(zip(("eot", "eom"), others, strict=False))
    return Vocabulary(
        kind="gpt2" if byte_level else "llama",
        pre=pattern_of(content, model) if byte_level else "default",
        tokens=tokens,
        kinds=kinds,
        merges=merges if byte_level else [],
        scores=[] if byte_level else scores_of(tokens, inner["merges"]),
        space_first=puts_space_first(content),
        ids={name: number for name, number in ids.items() if number is not None},
        add_bos=bool(codec.prefix) and codec.prefix[0] == codec.bos,
        stops=list(codec.stops),
        template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def kind_of(number: int, text: str | None, added: dict[int, dict], unknown: int | None, byte_level: bool) -> int:
    """GGUF's kind of a token."""
    if text is None:
        return UNUSED
    if number in added and (byte_level or number != unknown):
        return CONTROL if added[number]["special"] else USER_DEFINED
    if number == unknown:
        return NORMAL if byte_level else UNKNOWN
    is_byte = not byte_level and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return BYTE if is_byte else NORMAL


def scores_of(tokens: list[str], merges: list) -> list[float]:
    """SentencePiece's scores, from the order of the merges: of two pairs the one merged earlier scores higher."""
    ranks: dict[str, float] = {}
    for rank, pair in enumerate(merges):
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        ranks.setdefault(left + right, -float(rank))
    return [ranks.get(token, -1e6) for token in tokens]


def pattern_of(content: dict[str, Any], model: Path) -> str:
    """llama.cpp's name for how text is cut. Raises InputError for a way that it has no code for."""
    cutter = content.get("pre_tokenizer") or {}
    parts = cutter.get("pretokenizers", [cutter])
    patterns = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    if not patterns and any(part.get("type") == "ByteLevel" and part.get("use_regex", True) for part in parts):
        return "gpt-2"
    if len(patterns) == 1 and patterns[0] in PATTERNS:
        return PATTERNS[patterns[0]]
    what = f"text is cut by a pattern that is not known here: {patterns or [part.get('type') for part in parts]}"
    fix = f"known are those of {', '.join(PATTERNS.values())} and gpt-2; take llama.cpp's own script"
    raise InputError(problem(model / "tokenizer.json", "pre_tokenizer", what, fix))


def puts_space_first(content: dict[str, Any]) -> bool:
    """Whether a space is put before a text, as Llama 2's tokenizer does and Gemma's does not."""
    normalizer = content.get("normalizer") or {}
    if any(part.get("type") == "Prepend" for part in normalizer.get("normalizers", [normalizer])):
        return True
    cutter = content.get("pre_tokenizer") or {}
    return cutter.get("type") == "Metaspace" and cutter.get("prepend_scheme") != "never"


def add_vocabulary(writer: Any, words: Vocabulary) -> None:
    """Write it."""
    writer.add_tokenizer_model(words.kind)
    writer.add_tokenizer_pre(words.pre)
    texts = zip(words.tokens, words.kinds, strict=True)
    # As llama.cpp wants it: tokens that people put in are plain text there.
    writer.add_token_list([text.replace(SPACE, " ") if kind == USER_DEFINED else text for text, kind in texts])
    writer.add_token_types(words.kinds)
    if words.kind == "llama":
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.space_first)
    else:
        writer.add_token_merges(words.merges)
    for name, number in words.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(words.add_bos)
    writer.add_add_eos_token(False)
    if words.template:
        writer.add_chat_template(words.template)
