"""A LoRA adapter's directory, read and judged: what it changes in its base, tensor by tensor, or why it is refused.

Which modules an adapter targets, with which rank and scale, is asked from PEFT itself: it injects the adapter into the
base's structure without weights, and the adapter's file must hold exactly the tensors that PEFT then expects.
"""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.base_model import RECORD, Base, identity_problems, read_base, read_json, skeleton, stored_tensors
from train.bits import all_finite
from train.errors import InputError, attempt, problem
from train.files import hash_file
from train.libraries import without_bitsandbytes
from train.safetensors_io import FLOAT_DTYPES, Shard, Tensor, blocks, read_rows, read_shard

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
NAMES_SHOWN = 3
# Fields that a merge takes into account, and those that say nothing about the merged weights (last two lines).
HANDLED = {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias",
           "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
           "peft_type", "task_type", "init_lora_weights",
           "lora_dropout", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
           "eva_config", "runtime_config"}  # fmt: skip
# Ways to start an adapter that leave the base as it is; all others (pissa, olora, loftq, corda, lora_ga) change it,
# and mica freezes half of the adapter (peft 0.21.2, tuners/lora/layer.py, update_layer).
HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")
PLAIN_LORA = "train with plain LoRA, rsLoRA or DoRA on linear layers"
RETRAIN = "save the adapter again from the finished training"


@dataclass(frozen=True)
class Target:
    """One tensor of the base that the adapter changes.

    kind: 'lora' (W + scale * BA), 'dora' (that, each output's row scaled to the length in `magnitude`) or 'replace'
    (the tensor `a` as it is). `a` [r, in], `b` [out, r] and `magnitude` [out] are keys in the adapter's file.
    `transposed`: the base stores W as [in, out] (Conv1D and embeddings). `parameter` is the model's name for it.
    """

    tensor: Tensor
    parameter: str
    kind: str
    a: str
    b: str = ""
    magnitude: str = ""
    scale: float = 1.0
    transposed: bool = False


@dataclass(frozen=True)
class Adapter:
    """A judged adapter: `weights` are its tensors, `record` what it says about its base (None: it says nothing)."""

    path: Path
    config: dict[str, Any]
    weights: Shard
    targets: tuple[Target, ...]
    record: dict[str, Any] | None


def read_pair(base_path: Path, adapter_path: Path) -> tuple[Base, Adapter]:
    """Read a base and an adapter and judge whether they fit. Raises InputError with everything that does not."""
    problems: list[str] = []
    base = attempt(problems, read_base, base_path)
    config = attempt(problems, read_config, adapter_path)
    weights = attempt(problems, read_weights, adapter_path)
    record = None
    if (adapter_path / RECORD).is_file():
        record = attempt(problems, read_json, adapter_path / RECORD, RETRAIN)
    if base and record:
        known = {name: {"size": shard.size} for name, shard in base.shards.items()}
        known["config.json"] = {"sha256": hash_file(base_path / "config.json")}
        problems += identity_problems(record, known, adapter_path / RECORD)
    if problems:
        raise InputError(problems)
    return base, Adapter(adapter_path, config, weights, tuple(find_targets(base, config, weights)), record)


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises InputError naming every field that a merge would not honour."""
    with without_bitsandbytes():
        from peft import LoraConfig

    where = adapter / CONFIG
    config = read_json(where, "give the directory of an adapter as PEFT saves it")
    if config.get("peft_type") != "LORA":
        raise InputError(problem(where, "peft_type", f"{config.get('peft_type')} cannot be merged here", PLAIN_LORA))
    problems = []
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        what = f"{config['task_type']} is not supported, only CAUSAL_LM"
        problems.append(problem(where, "task_type", what, "give an adapter of a causal language model"))
    if config.get("init_lora_weights", True) not in HARMLESS_INITS:
        fix = "make it plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        what = f"{config['init_lora_weights']} changes the base or the adapter's formula at its start"
        problems.append(problem(where, "init_lora_weights", what, fix))
    for field in dataclasses.fields(LoraConfig):
        made = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if made else field.default
        if field.name not in HANDLED and config.get(field.name, default) != default:
            problems.append(problem(where, field.name, f"{config[field.name]!r} is not supported", PLAIN_LORA))
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in sorted(config.keys() - known - HANDLED):
        if config[name]:
            problems.append(problem(where, name, "is a field that this release of PEFT does not know", PLAIN_LORA))
    if problems:
        raise InputError(problems)
    return config


def read_weights(adapter: Path) -> Shard:
    """The adapter's tensors. Raises InputError for pickles, dtypes that cannot be computed with, NaN and infinity."""
    where = adapter / WEIGHTS
    if not where.is_file():
        pickled = (adapter / "adapter_model.bin").is_file()
        what = "holds only pickled weights (adapter_model.bin)" if pickled else f"has no {WEIGHTS}"
        fix = "convert to safetensors: load it with PeftModel.from_pretrained and save it again" if pickled else RETRAIN
        raise InputError(problem(adapter, "", what, fix))
    shard = read_shard(where)
    problems = []
    with where.open("rb") as file:
        for tensor in shard.tensors:
            if tensor.dtype not in FLOAT_DTYPES:
                what = f"is stored as {tensor.dtype}; a merge needs F32, F16 or BF16"
                problems.append(problem(where, tensor.name, what, RETRAIN))
            elif not all(all_finite(read_rows(file.fileno(), tensor, *rows)) for rows in blocks(tensor)):
                fix = "train again with a lower learning rate, or take an earlier checkpoint"
                problems.append(problem(where, tensor.name, "holds NaN or infinity", fix))
    if problems:
        raise InputError(problems)
    return shard


def find_targets(base: Base, config: dict[str, Any], weights: Shard) -> list[Target]:
    """The base's tensors that the adapter changes, in the base's order of names.

    Raises InputError for every tensor that is missing, has no place or another shape, is tied, or is converted.
    """
    from peft import get_peft_model_state_dict

    model = skeleton(base)
    stored = stored_tensors(model, base)
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    peft_model = inject(model, config, weights)
    # save_embedding_layers=False: its default would look for the base on a hub.
    expected = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    problems = key_problems({name: tuple(value.shape) for name, value in expected.items()}, base, weights, stored)
    targets = []
    for wanted in adapted(peft_model, problems, weights.path.parent / CONFIG):
        tensor = place(wanted, stored, shapes, tied, weights.path.parent / CONFIG, problems)
        if tensor is not None:
            targets.append(Target(tensor, **wanted))
    if problems:
        raise InputError(problems)
    return sorted(targets, key=lambda target: target.tensor.name)


def inject(model: Any, config: dict[str, Any], weights: Shard) -> Any:
    """PEFT's model for this configuration around a model without weights. Raises InputError with PEFT's own words."""
    with without_bitsandbytes():
        from peft import LoraConfig, get_peft_model

    where = weights.path.parent / CONFIG
    known = {field.name for field in dataclasses.fields(LoraConfig)} - {"runtime_config"}
    values = {name: value for name, value in config.items() if name in known}
    # How the adapter was started is over; a plain start needs no weights of the base.
    values.update(init_lora_weights=True, eva_config=None)
    if config.get("bias", "none") != "none":
        held = [tensor.name for tensor in weights.tensors if tensor.name.endswith(".bias")]
        if held:
            what = f"{config['bias']} is not supported: the adapter holds trained biases ({held[0]})"
            raise InputError(problem(where, "bias", what, "train with bias: none"))
        values["bias"] = "none"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of tied and transposed layers, which are judged below
            with without_bitsandbytes():
                return get_peft_model(model, LoraConfig(**values), low_cpu_mem_usage=True)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        fix = "give the base that the adapter was trained on, and its own adapter_config.json"
        raise InputError(problem(where, "", f"PEFT cannot apply it to the base: {first}", fix)) from None


def adapted(peft_model: Any, problems: list[str], where: Path) -> list[dict[str, Any]]:
    """Everything that PEFT changes in the model, as the fields of Target except `tensor`."""
    from peft.tuners.lora import Embedding, Linear, LoraLayer
    from peft.utils.other import ModulesToSaveWrapper
    from transformers.pytorch_utils import Conv1D

    found: list[dict[str, Any]] = []
    for name, module in peft_model.base_model.model.named_modules():
        key = f"{PREFIX}{name}."
        if isinstance(module, ModulesToSaveWrapper):
            parts = module.original_module.state_dict()
            found += [{"parameter": f"{name}.{part}", "kind": "replace", "a": key + part} for part in parts]
        elif isinstance(module, LoraLayer):
            layer = module.get_base_layer()
            dora = bool(module.use_dora["default"])
            if type(module) not in (Linear, Embedding) or (dora and isinstance(module, Embedding)):
                kind = f"{'DoRA on ' if dora else ''}{type(layer).__name__}"
                what = f"{name} is of a kind that cannot be merged here ({kind})"
                problems.append(problem(where, "target_modules", what, PLAIN_LORA))
                continue
            embedding = isinstance(module, Embedding)
            found.append({
                "parameter": f"{name}.weight",
                "kind": "dora" if dora else "lora",
                "a": key + ("lora_embedding_A" if embedding else "lora_A.weight"),
                "b": key + ("lora_embedding_B" if embedding else "lora_B.weight"),
                "magnitude": key + "lora_magnitude_vector" if dora else "",
                "scale": float(module.scaling["default"]),
                "transposed": embedding or isinstance(layer, Conv1D),
            })  # fmt: skip
    return found


def place(wanted: dict, stored: dict, shapes: dict, tied: set[str], where: Path, problems: list[str]) -> Tensor | None:
    """The base's tensor that holds a parameter, or None with the reason added to the problems."""
    name = wanted["parameter"]
    field = "modules_to_save" if wanted["kind"] == "replace" else "target_modules"
    sources = stored.get(name, [])
    if name in tied:
        what = f"{name} is tied to another layer, so merging would change a layer that training left as it was"
        fix = f"leave embed_tokens and lm_head out of {field}, or untie the base first (tie_word_embeddings: false)"
        problems.append(problem(where, field, what, fix))
    elif not sources:
        what = f"{name} is not stored in the base's files"
        problems.append(problem(where, field, what, "give the base that the adapter was trained on"))
    elif len(sources) > 1 or sources[0][1]:
        what = f"{name} is put together from other tensors at loading ({sources[0][0].name}, ...)"
        problems.append(problem(where, field, what, "leave this layer out of the adapter"))
    elif sources[0][0].dtype not in FLOAT_DTYPES:
        what = f"is stored as {sources[0][0].dtype}; only F32, F16 and BF16 can be merged into"
        problems.append(problem(sources[0][0].file, sources[0][0].name, what, "merge into the unquantised model"))
    elif sources[0][0].shape != shapes[name]:
        what = f"has shape {list(sources[0][0].shape)}, but config.json makes it {list(shapes[name])}"
        problems.append(problem(sources[0][0].file, sources[0][0].name, what, "download the base again"))
    else:
        return sources[0][0]
    return None


def key_problems(expected: dict[str, tuple], base: Base, weights: Shard, stored: dict) -> list[str]:
    """Where the adapter's tensors differ from those PEFT expects: missing, without a place, of another shape."""
    where = weights.path
    held = {tensor.name: tensor for tensor in weights.tensors}
    problems = []
    missing = sorted(expected.keys() - held.keys())
    if missing:
        what = f"{len(missing)} tensors that {CONFIG} and the base imply are missing"
        problems.append(problem(where, shown(missing), what, RETRAIN))
    extra = [tensor for name, tensor in held.items() if name not in expected and not repeats(tensor, base, stored)]
    if extra:
        what = f"{len(extra)} tensors have no place in the base under this {CONFIG}"
        fix = "give the base and the configuration that the adapter was trained with (a resized vocabulary is no merge)"
        problems.append(problem(where, shown([tensor.name for tensor in extra]), what, fix))
    wrong = [name for name in sorted(expected.keys() & held.keys()) if held[name].shape != expected[name]]
    if wrong:
        name = wrong[0]
        what = f"has shape {list(held[name].shape)}, but this base and {CONFIG} need {list(expected[name])}"
        more = f" ({len(wrong)} tensors like this)" if len(wrong) > 1 else ""
        problems.append(problem(where, name, what + more, "give the base that the adapter was trained on"))
    return problems


def shown(names: list[str]) -> str:
    """A few names and how many more there are."""
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def repeats(tensor: Tensor, base: Base, stored: dict[str, list[tuple[Tensor, bool]]]) -> bool:
    """Whether a tensor of the adapter is a mere copy of the base's, as PEFT saves for targeted embeddings and heads."""
    sources = stored.get(tensor.name.removeprefix(PREFIX).replace(".base_layer.", "."), [])
    twin = sources[0][0] if sources else None
    if twin is None or twin.shape != tensor.shape or twin.dtype not in FLOAT_DTYPES:
        return False
    with tensor.file.open("rb") as mine, twin.file.open("rb") as theirs:
        one, other = mine.fileno(), theirs.fileno()
        pairs = ((read_rows(one, tensor, *rows), read_rows(other, twin, *rows)) for rows in blocks(tensor))
        return all(torch.equal(left.double(), right.double()) for left, right in pairs)
