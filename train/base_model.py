"""A base model's directory: its weight files, its structure without weights, and the record that identifies it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.errors import InputError, attempt, problem
from train.files import hash_file
from train.safetensors_io import Shard, Tensor, read_shard, without_duplicates

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
RECORD = "base_model.json"  # lies in an adapter's directory and says which base the adapter was trained on
HASH_THREADS = 4


@dataclass(frozen=True)
class Base:
    """A checked base: `shards` by file name, `tensors` by name, `index` the bytes of the index file or None."""

    path: Path
    config: dict[str, Any]
    shards: dict[str, Shard]
    tensors: dict[str, Tensor]
    index: bytes | None


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError when it is absent, unreadable or no object."""
    try:
        value = json.loads(path.read_text(), object_pairs_hook=without_duplicates)
    except FileNotFoundError:
        raise InputError(problem(path, "", "there is no such file", fix)) from None
    except (OSError, ValueError) as error:
        raise InputError(problem(path, "", f"is not readable JSON: {error}", fix)) from None
    if not isinstance(value, dict):
        raise InputError(problem(path, "", "is not a JSON object", fix))
    return value


def describe_base(base: Path, name: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The record that identifies a base: its name, revision, and size and SHA-256 of config.json and each weight file.

    `name` defaults to the directory's name. The training writes it as base_model.json beside the adapter.
    Raises InputError for a directory that is no model with safetensors weights.
    """
    files = [base / "config.json", *weight_files(base)]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = pool.map(hash_file, files)
        described = {
            file.name: {"size": file.stat().st_size, "sha256": digest}
            for file, digest in zip(files, hashes, strict=True)
        }
    return {"name": name or base.resolve().name, "revision": revision, "files": described}


def weight_files(base: Path) -> list[Path]:
    """The safetensors files that transformers would load from a directory. Raises InputError where it has none."""
    if not (base / "config.json").is_file():
        fix = "give the directory of a model as save_pretrained writes it"
        raise InputError(problem(base, "", "is not a model's directory: it has no config.json", fix))
    single, index = (base / SINGLE).is_file(), (base / INDEX).is_file()
    if single and index:
        raise InputError(problem(base, "", f"has both {SINGLE} and {INDEX}", "remove the one that is stale"))
    if single:
        return [base / SINGLE]
    if index:
        return [base / name for name in sorted(set(read_weight_map(base / INDEX).values()))]
    pickles = sorted(path.name for path in base.glob("*.bin"))
    what = f"has only pickled weights ({pickles[0]})" if pickles else f"has neither {SINGLE} nor {INDEX}"
    fix = "convert to safetensors: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
    raise InputError(problem(base, "", what, fix))


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name from an index file. Raises InputError for names that leave the directory."""
    weight_map = read_json(index, "download or copy the file again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(problem(index, "weight_map", "is missing or empty", "download or copy the file again"))
    outside = [name for name in weight_map.values() if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise InputError(problem(index, "weight_map", f"{outside[0]} is not a file name", "write plain file names"))
    return weight_map


def read_base(base: Path) -> Base:
    """Read every header of a base. Raises InputError with everything that is missing, truncated or contradictory."""
    files = weight_files(base)
    problems: list[str] = []
    config = attempt(problems, read_json, base / "config.json", "copy the base again") or {}
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "of an unnamed kind")
        fix = "merge into the unquantised model that it was made from"
        what = f"the base is quantised ({method}); a merged weight would have to be rounded to its grid again"
        problems.append(problem(base / "config.json", "quantization_config", what, fix))
    if (base / "adapter_config.json").exists():
        what = "lies in the base's directory, so transformers would load an adapter together with the base"
        problems.append(problem(base / "adapter_config.json", "", what, "move it out of the base's directory"))
    absent = [file for file in files if not file.is_file()]
    problems += [problem(base / INDEX, file.name, "this file is missing", "download the base again") for file in absent]
    shards = [attempt(problems, read_shard, file) for file in files if file not in absent]
    tensors = collect(base, [shard for shard in shards if shard], problems)
    if problems:
        raise InputError(problems)
    index = (base / INDEX).read_bytes() if (base / INDEX).is_file() else None
    return Base(base, config, {shard.path.name: shard for shard in shards}, tensors, index)


def collect(base: Path, shards: list[Shard], problems: list[str]) -> dict[str, Tensor]:
    """All tensors by name; adds a problem for each that is held twice or differs from what the index says."""
    tensors: dict[str, Tensor] = {}
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        if tensor.name in tensors:
            what = f"is held by {tensors[tensor.name].file.name} as well"
            problems.append(problem(tensor.file, tensor.name, what, "download the base again"))
        tensors[tensor.name] = tensor
    if (base / INDEX).is_file() and not problems:
        listed = read_weight_map(base / INDEX)
        for name in sorted(listed.keys() | tensors.keys()):
            held = tensors[name].file.name if name in tensors else "no file"
            if listed.get(name, "no file") != held:
                what = f"the index places it in {listed.get(name, 'no file')}, but {held} holds it"
                problems.append(problem(base / INDEX, name, what, "download the base again"))
    return tensors


def skeleton(base: Base) -> Any:
    """The base's transformers model without weights (meta device). Raises InputError for an unknown architecture."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError, ImportError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"transformers cannot build a causal language model from it: {first}"
        fix = "use a model that this transformers release knows; models with code of their own are not supported"
        raise InputError(problem(base.path / "config.json", "model_type", what, fix)) from None


def stored_tensors(model: Any, base: Base) -> dict[str, list[tuple[Tensor, bool]]]:
    """For each parameter of a model: the tensors it is loaded from, and whether each is converted on the way.

    Names in files differ from names in models (a prefix, or experts fused at loading); the mapping is transformers'
    own, applied as its loader does (core_model_loading.convert_and_load_state_dict_in_model, release 5.23).
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    held = model.state_dict()
    stored: dict[str, list[tuple[Tensor, bool]]] = {}
    for name, tensor in base.tensors.items():
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, held)
        if renamed not in held and name in held:
            renamed, pattern = rename_source_key(name, [], [], model.base_model_prefix, held)
        stored.setdefault(renamed, []).append((tensor, pattern is not None))
    return stored


def identity_problems(described: dict[str, Any], hashes: dict[str, dict[str, Any]], where: Path) -> list[str]:
    """Where a base differs from the one an adapter was trained on.

    `described` is the record in `where`; `hashes` holds, by file name, the size and, where already known, the sha256
    of the base's files. A hash that is not known is not compared.
    """
    problems = []
    fix = f"merge into the base it was trained on: {described.get('name')}, revision {described.get('revision')}"
    expected = described.get("files", {})
    for name in sorted(expected.keys() | hashes.keys()):
        if name not in hashes or name not in expected:
            side = "this base lacks it" if name not in hashes else "the adapter's base did not have it"
            problems.append(problem(where, name, f"the adapter belongs to another base: {side}", fix))
            continue
        for key in ("size", "sha256"):
            got = hashes[name].get(key)
            if got is not None and got != expected[name].get(key):
                what = f"the adapter belongs to another base: {key} {expected[name].get(key)} there, {got} here"
                problems.append(problem(where, name, what, fix))
                break
    return problems
