"""What is compared: ours and the others, each with what differs from its own defaults."""

from dataclasses import dataclass, field
from typing import Any

from train.recipe import schema

# Our rows in our order, so that each step trains on the rows of ours' step; what is packed keeps its own order.
IN_ORDER = {"train_sampling_strategy": "sequential"}


@dataclass(frozen=True)
class Variant:
    """One row of the table. `trainer` is ours, trl or plain; an `extra` row runs in the first round only."""

    name: str
    words: str
    trainer: str
    options: dict[str, Any] = field(default_factory=dict)
    extra: bool = False

    @property
    def packed(self) -> bool:
        """Whether it packs rows by itself, in an order of its own."""
        return bool(self.options.get("packing")) and self.trainer != "ours"


def variants() -> list[Variant]:
    """All variants, ours first; without the row for `packing: false` where recipes do not know that key."""
    can_unpack = "packing" in schema()["properties"]
    unpacked = Variant("ours-unpacked", "tunefleet, packing: false", "ours", {"packing": False}, extra=True)
    return [
        Variant("ours", "tunefleet", "ours"),
        *([unpacked] if can_unpack else []),
        Variant("trl", "TRL SFTTrainer", "trl", IN_ORDER),
        Variant("trl-packing", "TRL SFTTrainer, packing", "trl", {"packing": True}),
        Variant("plain", "transformers Trainer + PEFT", "plain", IN_ORDER),
        Variant("trl-fast", "TRL, gradient_checkpointing=False, bf16 weights", "trl",
                {**IN_ORDER, "gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"}}, extra=True),
        Variant("trl-packing-fast", "TRL, packing, gradient_checkpointing=False, bf16 weights", "trl",
                {"packing": True, "gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"}},
                extra=True),
    ]  # fmt: skip
