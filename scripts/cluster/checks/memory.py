"""Questions: does a pod have the memory that its processes take, and can the batch be shared out among them?"""

import json
from pathlib import Path
from types import SimpleNamespace

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer
from scripts.cluster.checks.counted import count_memory
from scripts.cluster.checks.quantity import Resources, size, words
from scripts.cluster.checks.shapes import PodSet, limits
from scripts.cluster.checks.store import ROOT, in_image
from scripts.cluster.kubectl import Refused
from train.errors import InputError, see

GPUS = ("nvidia.com/gpu", "amd.com/gpu")
GPU_MEMORY = "nvidia.com/gpu.memory"  # label by NVIDIA's feature discovery, in MiB
BF16_LABELS = tuple(
    f"feature.node.kubernetes.io/cpu-cpuid.{name}" for name in ("AMXBF16", "AVX512BF16", "BF16")
)  # by node feature discovery; its Arm flag is called so too
PARTS = ("weights", "optimizer", "gradients", "activations", "working", "validation_batch", "process")


def model_config(recipe: SimpleNamespace, inside: object) -> dict | None:
    """The model's config.json, from this checkout for the demo's, from the store for others; None where not known."""
    if in_image(recipe.model_name_or_path):
        return json.loads((ROOT / recipe.model_name_or_path / "config.json").read_text())
    if isinstance(inside, Refused) or not inside["models"]:
        return None
    return inside["models"][0].get("config")


def estimates(
    recipe: SimpleNamespace, placement: dict, trainer: PodSet, config: dict | None, cache: Path | None = None
) -> dict | str:
    """What a rank takes in bytes, by the bytes of a weight in the formats it may have; or why that is not known.

    float32 comes first, and bfloat16 is counted only where that does not fit: a large model takes seconds to count.
    `cache` is a directory that remembers what was counted.
    """
    if config is None:
        return "the model's config.json is not known"
    bounds, ranks = limits(trainer.spec), placement["nodes"] * placement["processesPerNode"]
    widths = {"bfloat16": (2,), "float32": (4,)}.get(recipe.dtype, (2,) if gpu_of(bounds) else (4, 2))
    found: dict[int, dict] = {}
    for width in widths:
        try:
            found[width] = count_memory(recipe, config, ranks, width, cache)
        except InputError as error:
            return " ".join(str(error).split())
        if found[width]["per_rank"] * placement["processesPerNode"] <= bounds.get("memory", 0):
            break
    return found


def gpu_of(bounds: Resources) -> str | None:
    """The kind of GPU that a pod's limits name."""
    return next((name for name in GPUS if bounds.get(name)), None)


def judge_memory(recipe: SimpleNamespace, placement: dict, trainer: PodSet, facts: dict) -> list[Answer]:
    """Whether the trainer's pod, or its GPUs, hold what its processes take."""
    question, found = "is the memory enough", facts["estimates"]
    if isinstance(found, str):
        return [Answer(UNKNOWN, question, f"{found}, so what a process takes cannot be counted", "see the model")]
    bounds, processes = limits(trainer.spec), placement["processesPerNode"]
    if gpu_of(bounds):
        return [judge_gpu(question, found, trainer, facts)]
    if "memory" not in bounds:
        what = f"a process takes about {size(found[min(found)]['per_rank'])}, and the pod has no limit"
        return [Answer(UNKNOWN, question, what, "PLACE=resources.limits.memory=… sets one")]
    width, why = choose_width(found, trainer, facts)
    needed = found[width]["per_rank"] * processes
    said = f"{processes} x {size(found[width]['per_rank'])} ({parts(found[width])}; {why})"
    limit = bounds["memory"]
    # Files in a memory-backed volume count for the pod too, but training on CPUs by gloo writes none there.
    if needed <= limit:
        return [Answer(PASSED, question, f"{said} of {size(limit)}")]
    fix = (
        f'PLACE="resources.requests.memory={round_up(needed)}Gi resources.limits.memory={round_up(needed)}Gi", '
        f'SET="per_device_train_batch_size=1 gradient_checkpointing=true"'
        + (", fewer processes a node" if processes > 1 else ", or more nodes with SET=fsdp=true")
    )
    what = f"a pod takes {said} = {size(needed)}, and its limit is {words('memory', limit)}: it would be killed"
    if width == max(found) and width != min(found) and found[min(found)]["per_rank"] * processes <= limit:
        what += f"; in bfloat16 it would be {size(found[min(found)]['per_rank'] * processes)}, which fits"
        return [Answer(UNKNOWN, question, what, f"SET=dtype=bfloat16 where the processors have it; {fix}")]
    return [Answer(FAILED, question, what, fix + see("rank-killed-for-memory"))]


def judge_gpu(question: str, found: dict, trainer: PodSet, facts: dict) -> Answer:
    """Whether a GPU holds a rank, where the nodes say how large theirs are."""
    from scripts.cluster.checks.scheduling import node_objection

    needed = found[min(found)]["per_rank"]
    said = f"a process takes about {size(needed)} of its GPU ({parts(found[min(found)])})"
    nodes = facts["nodes"] if isinstance(facts["nodes"], list) else []
    labels = [node["metadata"].get("labels") or {} for node in nodes if not node_objection(node, trainer.spec)]
    sizes = [int(one[GPU_MEMORY]) * 2**20 for one in labels if one.get(GPU_MEMORY, "").isdigit()]
    if not sizes:
        what = f"{said}; how much the GPUs have, no node says (label {GPU_MEMORY})"
        return Answer(UNKNOWN, question, what, "compare it with the GPUs' data sheet")
    if needed > max(sizes):
        fix = 'SET="gradient_checkpointing=true per_device_train_batch_size=1", or method=qlora'
        return Answer(FAILED, question, f"{said}, and the largest has {size(max(sizes))}", fix)
    return Answer(PASSED, question, f"{said}, which has up to {size(max(sizes))}")


def choose_width(found: dict, trainer: PodSet, facts: dict) -> tuple[int, str]:
    """The bytes of a weight to count with, and why: `dtype: auto` takes what the node's processor has."""
    from scripts.cluster.checks.scheduling import node_objection

    if len(found) == 1:
        return next(iter(found)), "bfloat16" if 2 in found else "float32 at most"
    nodes = facts["nodes"] if isinstance(facts["nodes"], list) else []
    able = [node for node in nodes if not node_objection(node, trainer.spec)]
    told = [any(label in (node["metadata"].get("labels") or {}) for label in BF16_LABELS) for node in able]
    if able and all(told):
        return 2, "bfloat16: the nodes' labels say that their processors have it"
    return 4, "float32, since no label says that every node has bfloat16"


def parts(found: dict) -> str:
    """The largest parts of a rank's memory."""
    most = sorted(PARTS, key=lambda name: found.get(name, 0), reverse=True)[:4]
    return ", ".join(f"{name.replace('_', ' ')} {size(found[name])}" for name in most if found.get(name))


def round_up(amount: int) -> int:
    """Whole GiB, with a tenth to spare."""
    return -(-int(amount * 1.1) // 2**30)


def judge_batch(recipe: SimpleNamespace, placement: dict) -> list[Answer]:
    """Whether the global batch can be cut for every number of nodes the run may have."""
    from train.processes import check_batch

    question, processes = "can the batch be shared out", placement["processesPerNode"]
    least, most = placement.get("minNodes") or placement["nodes"], placement["nodes"]
    sizes = range(min(least, most), most + 1)
    for nodes in reversed(sizes):
        try:
            check_batch(recipe, nodes * processes, "train.yaml")
        except InputError as error:
            what, _, fix = error.problems[0].removeprefix("train.yaml: ").partition("\n  fix: ")
            elastic = f" when {nodes} of {most} nodes are there" if nodes < most else ""
            return [Answer(FAILED, question, what + elastic, fix + (", or minNodes" if elastic else ""))]
    worlds = " or ".join(str(nodes * processes) for nodes in sizes)
    return [Answer(PASSED, question, f"{recipe.global_batch_size} rows a step among {worlds} processes")]
