"""Where the base model lies on this machine, and whether what lies there can be trained. Nothing is downloaded here."""

import json
from pathlib import Path
from types import SimpleNamespace

from train.errors import InputError, problem
from train.in_store import fetch_command, find_by_name, find_in_cache

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def find_model(recipe: SimpleNamespace, where: object) -> Path:
    """The directory of the recipe's base model: by its name in the store, itself a directory, or in the hub's cache.

    Raises InputError when it is in none of these places.
    """
    name, revision = recipe.model_name_or_path, recipe.model_revision
    found = find_by_name("model", name, revision)
    if found or Path(name).is_dir():
        return found or Path(name)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path:
        fix = "give a directory with config.json and safetensors weights, or a name that make models lists: MODEL=…"
        raise InputError(problem(where, "model_name_or_path", f"{name} is no directory", fix))
    found = find_in_cache("model", name, revision)
    if found:
        return found
    wanted = f"{name} at revision {revision}" if revision else name
    fix = (
        f"fetch it: {fetch_command('model', name, revision)} (a gated model: accept its licence on its hub page and "
        "set HF_TOKEN first), or give a directory: MODEL=…"
    )
    raise InputError(problem(where, "model_name_or_path", f"{wanted} is not on this machine", fix))


def check_model(directory: Path, method: str) -> list[str]:
    """Every reason why the model in `directory` cannot be trained by `method`; an empty list for none."""
    config_path = directory / "config.json"
    if not config_path.is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:6]) or "nothing"
        fix = "give the directory that holds config.json, tokenizer and *.safetensors"
        return [problem(directory, "", f"has no config.json (it holds {found})", fix)]
    try:
        config = json.loads(config_path.read_text())
    except (OSError, ValueError) as error:
        return [problem(config_path, "", f"is not JSON: {error}", "fetch the model again")]
    problems = check_config(config_path, config, method)
    problems += check_weights(directory)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        fix = f"put the base's tokenizer beside the weights ({', '.join(TOKENIZER_FILES[:2])} …)"
        problems.append(problem(directory, "", "has no tokenizer", fix))
    return problems


def check_config(path: Path, config: dict, method: str) -> list[str]:
    """Problems of a model's config.json."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        fix = "take a model whose code is part of transformers; code that comes with weights is never run"
        what = f"{model_type!r} is unknown to transformers" if model_type else "is missing"
        return [problem(path, "model_type", what, fix)]
    problems = []
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        fix = "take a causal language model"
        problems.append(problem(path, "model_type", f"{model_type} generates no text", fix))
    quantised = config.get("quantization_config")
    if quantised:
        kind = quantised.get("quant_method", "quantised")
        fix = "take the unquantised original; method qlora quantises it to 4 bit while loading"
        problems.append(problem(path, "quantization_config", f"the weights are already quantised ({kind})", fix))
    if method == "full" and config.get("is_encoder_decoder"):
        problems.append(problem(path, "is_encoder_decoder", "is true", "take a decoder-only model"))
    return problems


def check_weights(directory: Path) -> list[str]:
    """Problems of the safetensors files: absent, pickled instead, missing in the index, cut short."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
        if pickles:
            what = f"holds pickled weights only ({', '.join(pickles[:3])}), which can run code when loaded"
            fix = "take a revision with *.safetensors, or convert it once on a machine you can lose"
            return [problem(directory, "", what, fix)]
        return [problem(directory, "", "holds no *.safetensors", "fetch the model again, weights included")]
    problems = []
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return [problem(index, "weight_map", "is missing or broken", "fetch the model again")]
        for name in named:
            if not (directory / name).is_file():
                problems.append(problem(index, name, "is named but not there", "fetch the model again"))
    for path in files:
        what = cut_short(path)
        if what:
            problems.append(problem(path, "", what, "fetch this file again"))
    return problems


def cut_short(path: Path) -> str | None:
    """What is wrong with the size of a safetensors file, by its own header; None when it is whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"is cut short: {size} bytes hold no whole header"
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return "has a broken header"
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    wanted = 8 + length + end
    return None if size == wanted else f"has {size} bytes, its header says {wanted}"
