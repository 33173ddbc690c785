"""What every variant is measured on: a model with random weights, a tokenizer, rows; made here from a seed.

The model has TinyLlama's geometry and some of its layers. The tokenizer is learnt from the rows, with just so
many tokens that one stands for about four characters, as with Llama's own and English; the model's vocabulary is
TinyLlama's 32,000.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from train.errors import InputError, problem
from train.recipe import dump_recipe, schema

TOKENIZER_SIZE = 3000
TINYLLAMA = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
    "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SEED = 42
VALIDATION_ROWS = 32
GLOBAL_BATCH = 32
MICRO_BATCH = 4
MAX_LENGTH = 512


def find_rows(data: str, shared: str) -> Path:
    """The rows to measure on: DATA's, or the test equipment's. Raises InputError where there are none."""
    path = Path(data) if data else Path(shared) / "data" / "medical_meadow_1000.json"
    if path.is_file():
        return path
    what = "there is no such file" if data else "the real rows of the test equipment are not on this machine"
    fix = "give rows of instruction, input and output: make bench DATA=rows.json"
    raise InputError(problem("DATA" if data else path, data, what, fix))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of instruction, input and output. Raises InputError where the file holds none, or too few to measure on."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
        rows = [{key: row.get(key) or "" for key in ("instruction", "input", "output")} for row in rows]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        what = f"holds no rows of instruction, input and output: {type(error).__name__}: {error}"
        raise InputError(problem("DATA", str(path), what, "give a .json or .jsonl file of such rows")) from None
    rows = [row for row in rows if row["instruction"] and row["output"]]
    least = VALIDATION_ROWS + GLOBAL_BATCH
    if len(rows) < least:
        what = f"holds {len(rows)} rows with an instruction and an output"
        raise InputError(problem("DATA", str(path), what, f"give at least {least}"))
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows as a file that the product reads."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def render(row: dict[str, str]) -> str:
    """A row's prompt, in the recipe's default words: what the others are given, which render nothing themselves."""
    name = "prompt_with_input" if row["input"] else "prompt_without_input"
    return schema()["properties"][name]["default"].format(instruction=row["instruction"], input=row["input"])


def make_model(directory: Path, geometry: dict[str, int], texts: list[str]) -> None:
    """A Llama with random bfloat16 weights and a tokenizer learnt from the texts; nothing where it is there already."""
    if (directory / "config.json").exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    aside = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    torch.manual_seed(SEED)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(LlamaConfig(**{**TINYLLAMA, **geometry}))
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(aside)
    make_tokenizer(texts).save_pretrained(aside)
    aside.rename(directory)


def make_tokenizer(texts: list[str]) -> Any:
    """A byte-level tokenizer that puts <s> before a text, as Llama's does, and has no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def write_recipe(path: Path, changes: dict[str, Any]) -> Path:
    """The recipe of a measured run: the product's defaults but for what makes it short, and the changes."""
    values = {
        "data_format": "instruction", "max_length": MAX_LENGTH, "overlong": "drop", "bad_rows": "drop",
        "global_batch_size": GLOBAL_BATCH, "per_device_train_batch_size": MICRO_BATCH, "seed": SEED,
        "eval_strategy": "no", "load_best_model_at_end": False, "report_to": [], "generate_samples": 0,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_recipe(values | changes))
    return path


def choose_rows(prepared: Any, rows: list[dict[str, str]], steps: int) -> tuple[list[dict], list[dict]]:
    """Training and validation rows out of those that survived preparation: as many as the steps take, and a few.

    Row numbers of prepared rows count from 1.
    """
    train = [rows[int(number) - 1] for number in prepared.train.rows]
    validation = [rows[int(number) - 1] for number in prepared.validation.rows]
    return train[: min(steps, len(train) // GLOBAL_BATCH) * GLOBAL_BATCH], validation


def rows_in_order(prepared: Any, rows: list[dict[str, str]], order: list[int]) -> list[dict[str, Any]]:
    """What the others are given: prompt and answer as text, and the tokens that ours makes of them, in ours' order."""
    given = []
    for index in order:
        tokens, row = prepared.train[index], rows[int(prepared.train.rows[index]) - 1]
        ids, labels = tokens["input_ids"].tolist(), tokens["labels"].tolist()
        given.append({"prompt": render(row), "completion": row["output"], "input_ids": ids, "labels": labels})
    return given


def tokens_by_step(given: list[dict[str, Any]]) -> list[int]:
    """Real tokens of each optimiser step."""
    lengths = [len(row["input_ids"]) for row in given]
    return [sum(lengths[start : start + GLOBAL_BATCH]) for start in range(0, len(lengths), GLOBAL_BATCH)]


def flop_per_token(model: Path) -> float:
    """FLOP of a plain LoRA step a token: forward 2 and the inputs' gradient 2 for each weight that multiplies.

    The input embedding multiplies nothing; attention's scores are left out, as in a run's own share.
    """
    from safetensors import safe_open

    count = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.keys() if "embed_tokens" not in name]  # noqa: SIM118 (no mapping)
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return 4.0 * count
