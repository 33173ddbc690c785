"""Which of the fast paths a model can take without changing what it learns; each is tried before it is used."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from train.fast import gated, lora, norm
from train.fast.attention import CannotPack
from train.fast.forward import take_packs
from train.fast.trial import REFUSALS, Trial, refusal
from train.processes import from_every_process


@dataclass
class FastPath:
    """What is switched on, and in words what is not and why, and what is not as without it."""

    packing: bool = False
    shared_prefixes: bool = False
    fused_adapters: int = 0
    lean_norms: int = 0
    lean_feed_forwards: int = 0
    autocast: bool = True  # whether bf16 is computed under autocast; not where no trained weight needs it
    notes: list[str] = field(default_factory=list)

    def in_words(self) -> list[str]:
        """A line for what is on, and one for each note."""
        packs = "rows share packs, " + ("common beginnings once" if self.shared_prefixes else "each on its own")
        parts = [packs] if self.packing else []
        for count, what in ((self.fused_adapters, "adapters fused into their layers"), (self.lean_norms, "lean norms"),
                            (self.lean_feed_forwards, "lean feed-forward blocks")):  # fmt: skip
            parts += [f"{count} {what}"] if count else []
        return [f"fast: {'; '.join(parts)}"] * bool(parts) + self.notes

    def as_dict(self) -> dict[str, Any]:
        """As the run's record holds it."""
        return vars(self)


def choose_path(recipe: SimpleNamespace, model: torch.nn.Module, dtype: torch.dtype) -> FastPath:
    """Switch on what the recipe and the model allow; `model` is changed to compute that way, in `dtype`."""
    path = FastPath()
    if recipe.use_ipex:
        path.notes.append("packing is off: use_ipex brings kernels of its own")
        return path
    try:
        # Without numbers, where only the memory is reckoned, there is nothing to try.
        trial = None if next(model.parameters()).is_meta else Trial(model)
    except REFUSALS as error:
        path.notes.append(f"packing is off, since {refusal('the model refuses a made-up row', error)}")
        return path
    if recipe.method != "full":
        replace_parts(path, recipe, model, dtype)
    pack_rows(path, recipe, model, trial)
    # Packs were tried with the parts; what fails there is the packs' fault or the parts'.
    fault = trial.fault_of_parts() if trial and path.fused_adapters and not path.packing else None
    if fault:
        put_back(path, model)
        path.notes = [f"adapters computed by PEFT, not fused: {fault}"]
        pack_rows(path, recipe, model, trial)
    return path


def replace_parts(path: FastPath, recipe: SimpleNamespace, model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Fuse the adapters, and let the frozen parts around them keep less."""
    path.fused_adapters, reasons = lora.fuse_adapters(model)
    path.notes += [f"adapters computed by PEFT, not fused: {reason}" for reason in reasons]
    path.autocast = bool(reasons) or bool(recipe.modules_to_save)
    if not path.autocast:
        path.lean_norms = norm.lean_norms(model)
        path.lean_feed_forwards = gated.lean_feed_forwards(model, dtype)


def put_back(path: FastPath, model: torch.nn.Module) -> None:
    """Let the model compute with its own parts again."""
    for module in model.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, lora.FusedForward | norm.LeanForward | gated.LeanForward):
            module.forward = forward.original
    path.fused_adapters = path.lean_norms = path.lean_feed_forwards = 0
    path.autocast = True


def pack_rows(path: FastPath, recipe: SimpleNamespace, model: torch.nn.Module, trial: Trial | None) -> None:
    """Have the model take packs, if it computes the same in them."""
    if not recipe.packing:
        path.notes.append("packing is off: the recipe says packing: false")
        return
    try:
        forward = take_packs(model)
    except CannotPack as why:
        path.notes.append(f"packing is off, since {why}")
        return
    reason = trial and trial.fault_of_packs(forward)
    window = forward.windows.unseen()
    if not reason and window and window < recipe.max_length:  # the trial's rows may be shorter than it
        reason = f"its masks have windows of {window} tokens that its attention is not told of"
    if reason:
        forward.undo()
        path.notes.append(f"packing is off, since {reason}")
        return
    path.packing, path.shared_prefixes = True, forward.can_share
    if path.shared_prefixes and recipe.method != "full" and recipe.lora_dropout:
        path.notes.append("rows that begin alike share the dropout of their beginning, too (lora_dropout)")
    if not forward.can_share:
        path.notes.append(f"shared prefixes are off: {forward.attention} cannot share them")


def take_what_all_can(path: FastPath, model: torch.nn.Module, world: int) -> FastPath:
    """The path without what another process cannot; the model likewise.

    They compute in step, and their machines may differ.
    """
    own = (path.packing, path.shared_prefixes, not path.autocast)
    every = from_every_process((*own, path.notes), world)
    packing, shared, narrow = (all(one[number] for one in every) for number in range(3))
    if own == (packing, shared, narrow):
        return path
    path.notes += [f"process {rank}: {note}" for rank, (*_, notes) in enumerate(every)
                   for note in notes if note not in path.notes]  # fmt: skip
    if path.packing and not packing:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.forward.undo()
    if not path.autocast and not narrow:
        put_back(path, model)
    path.packing, path.shared_prefixes = packing, shared
    return path
