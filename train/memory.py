"""How much memory a training needs, known before a weight is read. Used by the checks before a run.

Parameters are counted on a model without storage; activations are traced on it (train.memory_trace). What cannot be
counted, the libraries of each process and the holes of the C allocator, are two constants from real runs.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from train.errors import InputError, problem, see

PROCESS = 600_000_000  # Python with torch, transformers, PEFT and datasets loaded
FOUR_BIT = {True: 0.5 + 1 / 64, False: 0.5 + 4 / 64}  # a weight and its share of its block's scale, by double_quant
LIGHTER = {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}
BROADCAST = 250_000_000  # DDP copies the weights to the other ranks in pieces of this size


def estimate(
    recipe: SimpleNamespace, config: dict[str, Any], ranks: int, dtype_bytes: int, known: dict | None = None
) -> dict[str, Any]:
    """Bytes that each rank needs, from the content of config.json alone.

    Keys: the parts by purpose; the moments `loading`, `training`, `validation`, `saving`, each a sum of parts;
    `per_rank`, the greatest of these; `all_ranks`; `parameters` and `trained_parameters`.
    Resident size, without pages of a weight file that were only converted (the kernel takes them back). Over the 23
    real runs that the constants were chosen on it was 8 % too low to 24 % too high, on three others 6 to 31 % too high;
    some are in tests/unit/test_memory.py. `known` keeps what was traced between calls that differ in other things.
    Raises InputError where the model does not run with the recipe's attention or adapter.
    """
    import torch

    from train.memory_trace import count_parameters, read_config, trace_evaluation, trace_training

    dtype, shape = torch.bfloat16 if dtype_bytes == 2 else torch.float32, read_config(config)
    known = {} if known is None else known

    def once(function: Callable, *facts: Any) -> Any:
        key = (function, recipe.method == "full", *facts)
        if key not in known:
            known[key] = function(recipe, shape, dtype)
        return known[key]

    size = (recipe.max_length, recipe.gradient_checkpointing)
    rows = (recipe.per_device_train_batch_size, recipe.per_device_eval_batch_size)
    count = once(count_parameters)
    traced = once(trace_training, rows[0], *size)
    parts = held_parts(recipe, count, ranks, dtype_bytes)
    parts["activations"], parts["working"], parts["validation_batch"] = traced.forward, traced.working, 0
    if recipe.eval_strategy != "no":
        parts["validation_batch"] = once(trace_evaluation, *rows, *size)
    moments = worst_moments(recipe, parts, count, ranks, dtype_bytes)
    per_rank = max(moments.values())
    return {**parts, **moments, "per_rank": per_rank, "all_ranks": ranks * per_rank,
            "parameters": count.total, "trained_parameters": count.trained}  # fmt: skip


def held_parts(recipe: SimpleNamespace, count: Any, ranks: int, dtype_bytes: int) -> dict[str, int]:
    """What a rank holds from the first to the last step, and its gradients. Trained weights are float32."""
    sharded = recipe.fsdp and ranks > 1
    share = ranks if sharded else 1
    frozen = (count.total - count.trained) * dtype_bytes
    if recipe.method == "qlora":
        frozen += round(count.linear * (FOUR_BIT[recipe.bnb_4bit_use_double_quant] - dtype_bytes))
    state = {"sgd": 0, "adafactor": 4 * count.edges}.get(recipe.optim, 8 * count.trained)
    trained = 4 * count.trained // share
    full = recipe.method == "full"
    # FSDP gathers a layer, prefetches the next, and keeps what is outside the layers (embeddings) gathered.
    whole = (2 * count.layer + count.outside) * dtype_bytes if sharded else 0
    unreduced = 4 * (count.layer + count.outside) if sharded and full else 0
    return {
        "process": PROCESS,
        "weights": frozen // share + (trained if full else 0),
        "adapter": 0 if full else trained,
        "gradients": trained,
        "gradient_buckets": 4 * count.trained if ranks > 1 and not sharded else 0,
        "optimizer": state // share,
        "gathered": whole + unreduced,
        "dequantised": 2 * count.largest * dtype_bytes if recipe.method == "qlora" else 0,
    }


def worst_moments(
    recipe: SimpleNamespace, parts: dict[str, int], count: Any, ranks: int, dtype_bytes: int
) -> dict[str, int]:
    """The moments at which most is held, and how much."""
    from train.memory_trace import HOLES

    kept = sum(parts[name] for name in ("process", "weights", "adapter", "optimizer", "gradient_buckets"))
    computing = kept + parts["gathered"] + parts["dequantised"]
    step = parts["activations"] + parts["working"]
    if recipe.global_batch_size > recipe.per_device_train_batch_size * ranks:
        step += parts["gradients"]  # from the second micro-batch on they are there all the time
    full, sharded = recipe.method == "full", bool(recipe.fsdp and ranks > 1)
    unsharded = (4 if full else dtype_bytes) * count.total  # each rank loads all weights before it keeps its share
    loading = parts["process"] + parts["weights"] + parts["adapter"] + (unsharded if sharded else 0)
    return {
        "loading": loading + (min(BROADCAST, unsharded) if ranks > 1 and not sharded else 0),
        "training": computing + max(step, round(HOLES * parts["gradients"]) + parts["working"]),
        "validation": computing + parts["validation_batch"],
        # Full weights are gathered in float32 where they are sharded, and copied to the dtype of the base's files.
        "saving": kept + ((4 if sharded else 0) + 2) * count.trained,
    }


def check_memory(
    recipe: SimpleNamespace,
    config: dict[str, Any],
    ranks: int,
    dtype_bytes: int,
    available: int,
    where: object,
    machines: int = 1,
) -> list[str]:
    """A problem with the numbers and the changes that would fit, if the training needs more than is available.

    `ranks` counts the processes of all machines, which have as many each; `available` is the memory of one machine.
    """
    known: dict = {}
    try:
        needed = estimate(recipe, config, ranks, dtype_bytes, known)
    except InputError as error:
        return error.problems
    available *= machines
    if needed["all_ranks"] <= available:
        return []
    processes = f"{ranks} processes x {gigabytes(needed['per_rank'])}" if ranks > 1 else "1 process"
    what = (
        f"{recipe.method} of {needed['parameters'] / 1e6:,.0f} million parameters needs about "
        f"{gigabytes(needed['all_ranks'])} of memory ({processes}: {largest_parts(needed)}), and "
        f"{gigabytes(available)} are available{f' on {machines} machines' if machines > 1 else ''}"
    )
    fitting: list[str] = []
    for changes in remedies(recipe, ranks):
        for words, values, processes in changes:
            total = estimate(changed(recipe, values), config, processes, dtype_bytes, known)["all_ranks"]
            fitting += [f"{words} ({gigabytes(total)})"] if total <= available else []
        if fitting:
            break
    fix = "; or ".join(fitting) if fitting else "take a smaller model or a machine with more memory: no setting fits"
    return [problem(where, "memory", what, fix + see("rank-killed-for-memory"))]


def remedies(recipe: SimpleNamespace, ranks: int) -> Iterator[list[tuple[str, dict[str, Any], int]]]:
    """Changes that save memory, each in words, as keys of the recipe, and with the number of processes.

    First single ones, gentlest first; the next list is for the case that none of the one before is enough.
    """
    small = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    again = {} if recipe.use_ipex else {"gradient_checkpointing": True}
    shardable = recipe.method != "qlora" and not (recipe.use_dora or recipe.modules_to_save or recipe.use_ipex)
    fewer: list[tuple[str, dict[str, Any], int]] = []
    if ranks > 1:
        fewer = [("fsdp: true", {"fsdp": True}, ranks)] if shardable and not recipe.fsdp else []
        fewer.append(("NPROC=1", {}, 1))
    checkpointing = [(in_words(again), again, ranks)] if again and not recipe.gradient_checkpointing else []
    yield [(in_words(small), small, ranks), *checkpointing, *fewer]
    least = small | again
    yield [(in_words(least), least, ranks), *((f"{said} with {in_words(least)}", values | least, processes)
                                             for said, values, processes in fewer)]  # fmt: skip
    other: list[dict[str, Any]] = [{"max_length": 256}] if recipe.max_length > 256 else []
    other += [{"method": method} for method in LIGHTER[recipe.method]]
    end = " with NPROC=1" if ranks > 1 else ""
    yield [(in_words(values | least) + end, values | least | {"fsdp": False}, 1) for values in other]


def in_words(values: dict[str, Any]) -> str:
    """Keys and values as the recipe spells them."""
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in values.items())


def changed(recipe: SimpleNamespace, values: dict[str, Any]) -> SimpleNamespace:
    """The recipe with other values."""
    return SimpleNamespace(**{**vars(recipe), **values})


def largest_parts(needed: dict[str, Any]) -> str:
    """The parts that make up most of a rank's memory, largest first."""
    names = ("weights", "optimizer", "gradients", "activations", "working", "validation_batch", "gathered", "process")
    most = sorted(names, key=lambda name: needed[name], reverse=True)[:4]
    return ", ".join(f"{name.replace('_', ' ')} {gigabytes(needed[name])}" for name in most)


def gigabytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB"
