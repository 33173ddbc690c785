"""How much memory a training needs, known before a weight is read. Used by the checks before a run.

Parameters are counted on a model without storage; activations are traced on it (train.memory_trace). What cannot be
counted, the libraries of each process and the holes of the C allocator, are two constants from real runs.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from train.errors import problem

PROCESS = 600_000_000  # Python with torch, transformers, PEFT and datasets loaded
ALLOCATOR = 1.3  # resident bytes for a byte of activations: glibc keeps holes between freed tensors
FOUR_BIT = {True: 0.5 + 1 / 64, False: 0.5 + 4 / 64}  # a weight and its share of its block's scale, by double_quant
BROADCAST = 250_000_000  # DDP copies the weights to the other ranks in pieces of this size


def estimate(recipe: SimpleNamespace, config: dict[str, Any], ranks: int, dtype_bytes: int) -> dict[str, Any]:
    """Bytes that each rank needs, from the content of config.json alone.

    Keys: the parts by purpose; the moments `loading`, `training`, `validation`, `saving`, each a sum of parts;
    `per_rank`, the greatest of these; `all_ranks`; `parameters` and `trained_parameters`.
    Resident size, within 25 % of real runs and rather above (figures: tests/unit/test_memory.py). Pages of a weight
    file that were only converted are not counted: the kernel takes them back when it needs them.
    """
    import torch

    from train.memory_trace import count_parameters, read_config, trace_evaluation, trace_training

    dtype = torch.bfloat16 if dtype_bytes == 2 else torch.float32
    shape = read_config(config)
    count = count_parameters(recipe, shape, dtype)
    traced = trace_training(recipe, shape, dtype)
    parts = held_parts(recipe, count, ranks, dtype_bytes)
    parts["activations"] = round(ALLOCATOR * traced.forward)
    parts["working"] = round(ALLOCATOR * traced.working)
    parts["validation_batch"] = 0
    if recipe.eval_strategy != "no":
        parts["validation_batch"] = round(ALLOCATOR * trace_evaluation(recipe, shape, dtype))
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
        "training": computing + max(step, parts["gradients"] + parts["working"]),
        "validation": computing + parts["validation_batch"],
        # Full weights are gathered in float32 where they are sharded, and copied to the dtype of the base's files.
        "saving": kept + ((4 if sharded else 0) + 2) * count.trained,
    }


def check_memory(
    recipe: SimpleNamespace, config: dict[str, Any], ranks: int, dtype_bytes: int, available: int, where: object
) -> list[str]:
    """A problem with the numbers and the changes that would fit, if the training needs more than is available."""
    needed = estimate(recipe, config, ranks, dtype_bytes)
    if needed["all_ranks"] <= available:
        return []
    processes = f"{ranks} processes x {gigabytes(needed['per_rank'])}" if ranks > 1 else "1 process"
    what = (
        f"{recipe.method} of {needed['parameters'] / 1e6:,.0f} million parameters needs about "
        f"{gigabytes(needed['all_ranks'])} of memory ({processes}: {largest_parts(needed)}), and "
        f"{gigabytes(available)} are available"
    )
    fitting = []
    for words, changed, processes in remedies(recipe, ranks):
        total = estimate(changed, config, processes, dtype_bytes)["all_ranks"]
        if total <= available:
            fitting.append(f"{words} ({gigabytes(total)})")
    fix = "; or ".join(fitting) if fitting else "take a smaller model or a machine with more memory: no setting fits"
    return [problem(where, "memory", what, fix)]


def remedies(recipe: SimpleNamespace, ranks: int) -> Iterator[tuple[str, SimpleNamespace, int]]:
    """Changes that save memory, gentlest first: in words, as a recipe, and with the number of processes."""
    small = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    words = "per_device_train_batch_size: 1 and per_device_eval_batch_size: 1"
    if (recipe.per_device_train_batch_size, recipe.per_device_eval_batch_size) != (1, 1):
        yield words, changed(recipe, small), ranks
    if not recipe.gradient_checkpointing and not recipe.use_ipex:
        yield "gradient_checkpointing: true", changed(recipe, {"gradient_checkpointing": True}), ranks
        small, words = {**small, "gradient_checkpointing": True}, f"gradient_checkpointing: true, {words}"
        yield words, changed(recipe, small), ranks
    if ranks > 1:
        yield f"NPROC=1 with {words}", changed(recipe, small), 1
    if ranks > 1 and not recipe.fsdp and recipe.method != "qlora" and not (recipe.use_dora or recipe.modules_to_save):
        yield f"fsdp: true with {words}", changed(recipe, {**small, "fsdp": True}), ranks
    if recipe.method == "full":
        yield f"method: lora with {words}", changed(recipe, {**small, "method": "lora"}), ranks
    if recipe.method != "qlora":
        four_bit = {**small, "method": "qlora", "fsdp": False}
        yield f"method: qlora with {words}", changed(recipe, four_bit), 1
    if recipe.max_length > 256:
        yield f"max_length: 256 with {words}", changed(recipe, {**small, "max_length": 256}), ranks


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
