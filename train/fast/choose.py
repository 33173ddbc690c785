"""Which of the fast paths a model can take without changing what it learns; each is tried before it is used."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from train.fast.attention import CannotPack
from train.fast.forward import PackedForward, take_packs
from train.fast.gated import lean_feed_forwards
from train.fast.lora import fuse_adapters
from train.fast.norm import lean_norms
from train.fast.packs import LEAST_SHARED, Pack, Row, make_pack, sort_rows

# Largest relative difference of a row's hidden states in a pack and alone: what rounding explains, far below what
# another row's tokens or another position make.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}


@dataclass
class FastPath:
    """What is switched on, and in words what is not and why."""

    packing: bool = False
    shared_prefixes: bool = False
    fused_adapters: int = 0
    lean_norms: int = 0
    lean_feed_forwards: int = 0
    autocast: bool = True  # whether bf16 is computed under autocast; not where no trained weight needs it
    notes: list[str] = field(default_factory=list)

    def in_words(self) -> list[str]:
        """A line for what is on, and one for each thing that is not."""
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
    if recipe.method != "full":
        path.fused_adapters, reasons = fuse_adapters(model)
        path.notes += [f"adapters computed by PEFT, not fused: {reason}" for reason in reasons]
        path.autocast = bool(reasons) or bool(recipe.modules_to_save)
        if not path.autocast:
            path.lean_norms = lean_norms(model)
            path.lean_feed_forwards = lean_feed_forwards(model, dtype)
    if not recipe.packing:
        path.notes.append("packing is off: the recipe says packing: false")
        return path
    try:
        forward = take_packs(model)
    except CannotPack as why:
        path.notes.append(f"packing is off, since {why}")
        return path
    # Without numbers, where only the memory is reckoned, there is nothing to try.
    reason = None if next(model.parameters()).is_meta else try_out(model, forward, recipe.max_length)
    if reason:
        forward.undo()
        path.notes.append(f"packing is off, since {reason}")
        return path
    path.packing, path.shared_prefixes = True, forward.can_share
    if not forward.can_share:
        path.notes.append(f"shared prefixes are off: {forward.attention} cannot share them")
    return path


def try_out(model: torch.nn.Module, forward: PackedForward, longest: int) -> str | None:
    """Why rows in a pack are not computed as they are alone, None where they are: found out on a few made-up rows."""
    draw = np.random.default_rng(0)
    vocabulary = forward.body.get_input_embeddings().weight.shape[0]

    def tokens(count: int) -> np.ndarray:
        return draw.integers(0, vocabulary, count).astype(np.int32)

    prefix = tokens(LEAST_SHARED + 4)
    watched = [np.concatenate([prefix, tokens(9)]), tokens(13)]
    changing = [np.concatenate([prefix, tokens(7)]) for _ in range(2)]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            alone = [hidden_in_pack(forward, [row], row, False, device) for row in watched]
            plain = [plain_hidden(forward, row, device) for row in watched]
            packed = [[hidden_in_pack(forward, [*watched, other], row, forward.can_share, device) for row in watched]
                      for other in changing]  # fmt: skip
            loss, plain_loss = losses(forward, watched[1], device)
    except CannotPack as why:
        return str(why)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"the model refuses a pack ({type(error).__name__}: {str(error).strip().splitlines()[0][:120]})"
    finally:
        model.train(training)
    limit = ROUNDING.get(alone[0].dtype, ROUNDING[torch.bfloat16])
    for row in range(len(watched)):
        for others in packed:
            if difference(others[row], plain[row]) > limit or difference(alone[row], plain[row]) > limit:
                return f"a row's states in a pack differ from those alone by {difference(others[row], plain[row]):.1%}"
        if difference(packed[0][row], packed[1][row]) > limit / 10:
            return "rows in a pack see each other, by other ways than attention"
    if abs(loss - plain_loss) > limit * abs(plain_loss):
        return f"its output layer does more than is known here (loss {loss:.4f} instead of {plain_loss:.4f})"
    window = forward.windows.unseen()
    if window and window < longest:  # the rows above may be shorter than it
        return f"its masks have windows of {window} tokens that its attention is not told of"
    return None


def as_row(ids: np.ndarray) -> Row:
    """A row of which every token but the first carries loss."""
    return Row(ids, np.concatenate([[0], np.ones(len(ids) - 1)]).astype(np.uint8))


def hidden_in_pack(forward: PackedForward, rows: list[np.ndarray], row: np.ndarray, share: bool, device: Any) -> Any:
    """The hidden states [n - 1, size] that predict one row's tokens, out of a pack of several."""
    ordered = sort_rows([as_row(ids) for ids in rows])
    pack = make_pack(ordered, share)
    marked = [one if np.array_equal(one.ids, row) else Row(one.ids, np.zeros_like(one.loss)) for one in ordered]
    wanted = make_pack(marked, share)
    return forward.hidden(pack.to(device))[wanted.sources[wanted.weights > 0].to(device)]


def plain_hidden(forward: PackedForward, row: np.ndarray, device: Any) -> torch.Tensor:
    """The same from the model alone."""
    ids = torch.from_numpy(row.astype(np.int64)).to(device)
    return forward.body(input_ids=ids[None], use_cache=False).last_hidden_state[0, :-1]


def losses(forward: PackedForward, row: np.ndarray, device: Any) -> tuple[float, float]:
    """The loss of a row through a pack, and from the model's own logits."""
    pack: Pack = make_pack([as_row(row)], False).to(device)
    ids = torch.from_numpy(row.astype(np.int64)).to(device)
    logits = forward.original(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    return forward(pack=pack).item(), torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of two tensors."""
    return ((one.float() - other.float()).norm() / other.float().norm().clamp_min(1e-12)).item()
