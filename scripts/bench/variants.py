"""What is compared: ours and the others, each with what differs from its own defaults."""

from dataclasses import dataclass, field
from typing import Any

from scripts.bench.equipment import MICRO_BATCH

# Our rows in our order, so that each step trains on the rows of ours' step; what is packed keeps its own order.
IN_ORDER = {"train_sampling_strategy": "sequential"}


@dataclass(frozen=True)
class Variant:
    """One row of the table. `trainer` is ours, trl or plain; an `extra` row runs in the first round only.

    The losses of each step are compared with those of the one row that is the `reference`.
    """

    name: str
    words: str
    trainer: str
    options: dict[str, Any] = field(default_factory=dict)
    extra: bool = False
    reference: bool = False
    micro_batch: int = MICRO_BATCH  # per_device_train_batch_size; gradients are accumulated to the same step

    @property
    def packed(self) -> bool:
        """Whether it packs rows by itself, in an order of its own."""
        return bool(self.options.get("packing")) and self.trainer != "ours"


def variants(dtype: str) -> list[Variant]:
    """All variants, ours first. The reference is ours in float32, padded: where all is float32, `packing: false`.

    `dtype` is what this machine computes in. Without bfloat16 in hardware the others' defaults would multiply forty
    times as slowly as float32, so they get the switch that their users would take there, and their rows say so.
    """
    half = dtype == "bfloat16"
    unpacked = Variant("ours-unpacked", "tunefleet, packing: false", "ours", {"packing": False},
                       extra=True, reference=not half)  # fmt: skip
    exact = Variant("ours-fp32", "tunefleet, packing: false, dtype: float32", "ours",
                    {"packing": False, "dtype": "float32"}, extra=True, reference=True)  # fmt: skip
    plain = IN_ORDER if half else {**IN_ORDER, "model_init_kwargs": {"dtype": "float32"}}
    default = {} if half else {"bf16": False}
    fast = {"gradient_checkpointing": False, **default}
    weights = "bf16 weights" if half else "bf16=False"
    if half:
        fast["model_init_kwargs"] = {"dtype": "bfloat16"}
    said = "" if half else ", bf16=False"
    return [
        Variant("ours", "tunefleet", "ours"),
        unpacked,
        *([exact] if half else []),
        Variant("ours-qlora", "tunefleet, method: qlora", "ours", {"method": "qlora"}, extra=True),
        Variant("trl", f"TRL SFTTrainer{said}", "trl", {**IN_ORDER, **default}),
        Variant("trl-packing", f"TRL SFTTrainer, packing{said}", "trl", {"packing": True, **default}),
        # To TRL a micro-batch of packs is one row of all their tokens with a dense mask, and 4 packs may be slower so.
        Variant("trl-packing-one", f"TRL SFTTrainer, packing, per_device_train_batch_size=1{said}", "trl",
                {"packing": True, **default}, micro_batch=1),
        Variant("plain", f"transformers Trainer + PEFT{'' if half else ', float32 weights'}", "plain", plain),
        Variant("trl-fast", f"TRL, gradient_checkpointing=False, {weights}", "trl", {**IN_ORDER, **fast}, extra=True),
        Variant("trl-packing-fast", f"TRL, packing, gradient_checkpointing=False, {weights}", "trl",
                {"packing": True, **fast}, extra=True),
    ]  # fmt: skip
