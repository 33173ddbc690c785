"""What the data tests are made of: small tokenizers of several kinds, recipes, files of rows."""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from train.errors import InputError
from train.prepare import prepare_data
from train.prepared import Prepared, load_prepared
from train.recipe import check_values, with_defaults

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As Qwen3's: the answer to the last question gets an empty thought, earlier answers none.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MODELS = {
    "chatml": {"chat": CHATML},
    "thinking": {"chat": THINKING},
    "llama": {"chat": LLAMA, "bos": "<s>", "eos": "</s>", "kind": "pieces"},
    "plain": {"chat": None, "eos": "<|endoftext|>"},
    "plain with BOS": {"chat": None, "bos": "<s>", "eos": "</s>"},
    "plain pieces": {"chat": None, "bos": "<s>", "eos": "</s>", "kind": "pieces"},
}
ROW = {"instruction": "Add.", "input": "1 and 2", "output": "It is 3."}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
TEXT = [
    "The answer to the question about the capital of France is Paris, and the summary of the dialogue is short.",
    "def f(x):\n    return x + 1\n\nprint(f(2))", "### Instruction:\nSay it.\n\n### Response:\nIt was said. 1234567890",
    "user assistant system tool message: Guten Tag, schöne Grüße; ¿qué tal? 東京 🙂",
]  # fmt: skip


@cache
def bytes_tokenizer() -> str:
    """A byte-level BPE tokenizer as text, cut as GPT-2 cuts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer.to_str()


@cache
def pieces_tokenizer() -> str:
    """A tokenizer in the manner of Llama 2: a space before every text, spaces as ▁, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False)
    words = [f"▁{word}" for text in TEXT for word in text.split() if word.isascii()]
    tokenizer.train_from_iterator(words * 3, trainer)
    model = json.loads(tokenizer.to_str())
    for byte in fallback:
        model["model"]["vocab"].setdefault(byte, len(model["model"]["vocab"]))
    return json.dumps(model)


def make_model(
    directory: Path, chat: str | None = CHATML, bos: str | None = None, eos: str | None = "<|im_end|>",
    kind: str = "bytes", config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A model's directory with tokenizer and config, without weights. With `bos` the tokenizer adds it itself."""
    backend = Tokenizer.from_str(bytes_tokenizer() if kind == "bytes" else pieces_tokenizer())
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(directory)
    values = {
        "model_type": "qwen3", "vocab_size": len(tokenizer) + 24, "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps({**values, **(config or {})}))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def make_models(factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory for each of MODELS."""
    return {name: make_model(factory.mktemp("model"), **options) for name, options in MODELS.items()}


def make_recipe(**values: Any) -> SimpleNamespace:
    """A checked recipe with its defaults."""
    values = {"model_name_or_path": "model", "global_batch_size": 4, **values}
    assert check_values(values, "train.yaml") == []
    return with_defaults(values)


def write_rows(path: Path, rows: list[Any]) -> str:
    """A .jsonl file; returns its path as a recipe names it."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prepare(directory: Path, rows: list[Any], model: Path, **recipe: Any) -> tuple[dict[str, Any], Prepared]:
    """Rows written, prepared and loaded again."""
    recipe = make_recipe(train_file=write_rows(directory / "rows.jsonl", rows), **recipe)
    check = prepare_data(recipe, model, directory / "data")
    return check, load_prepared(directory / "data")


def failure(directory: Path, rows: list[Any], model: Path, **recipe: Any) -> str:
    """The message with which rows are refused."""
    with pytest.raises(InputError) as caught:
        prepare(directory, rows, model, **recipe)
    return str(caught.value)


def shown(rows: Any, index: int, model: Path) -> tuple[str, str]:
    """The text of a prepared row, and the text of those of its tokens that carry loss."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    item = rows[index]
    ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
    trained = [label for label in labels if label != -100]
    return tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(trained, skip_special_tokens=False)


def questions(count: int) -> list[dict[str, str]]:
    """Instruction rows that all differ."""
    return [{"instruction": f"Say number {n}.", "input": "", "output": f"It is {n}."} for n in range(1, count + 1)]
