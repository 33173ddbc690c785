"""Tries the fast ways on the model itself before it is trained: a few made-up rows, forward and backward."""

from contextlib import contextmanager

import numpy as np
import torch

from train.fast.attention import CannotPack
from train.fast.forward import PackedForward, text_body
from train.fast.packs import LEAST_SHARED, Row, make_pack, sort_rows

# Largest relative difference of a row's hidden states in a pack and alone: what rounding explains, far below what
# another row's tokens or another position make.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
# Gradients go through all layers twice: their mean difference over the trained matrices may be so many times that.
SLOPES = 3
# Numbers of a trained matrix up to which its gradient is compared: LoRA's, norms' and biases', not a whole layer's.
SMALL = 1 << 21
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)


class Trial:
    """Made-up rows, and what the model computes of them before anything in it is replaced."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = next(model.parameters()).device
        draw, vocabulary = np.random.default_rng(0), self.inner.get_input_embeddings().weight.shape[0]

        def tokens(count: int) -> np.ndarray:
            return draw.integers(0, vocabulary, count).astype(np.int32)

        prefix = tokens(LEAST_SHARED + 4)
        self.rows = [as_row(np.concatenate([prefix, tokens(9)])), as_row(tokens(13))]
        others = [np.concatenate([prefix, tokens(7)]) for _ in range(2)]
        self.others = [Row(ids, np.zeros(len(ids), np.uint8)) for ids in others]
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.trained = [weight for weight in trained if weight.numel() <= SMALL] or trained[-1:]
        self.plain = self.alone()

    def alone(self) -> tuple[list[torch.Tensor], float, list[torch.Tensor]]:
        """Each row's hidden states [n - 1, size], the summed loss and its gradients, through its own logits."""
        loss = torch.zeros((), device=self.device)
        with self.watched() as states:
            for row in self.rows:
                ids = torch.from_numpy(row.ids.astype(np.int64)).to(self.device)
                logits = self.inner(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
                loss = loss + torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
            return [state[:-1] for state in states], loss.item(), self.slopes(loss)

    def packed(self, forward: PackedForward, other: Row, slopes: bool) -> tuple[list, float, list[torch.Tensor]]:
        """The same of the rows in a pack with another one that carries no loss; gradients if they are wanted."""
        ordered = sort_rows([*self.rows, other])
        with self.watched() as states:
            loss = forward(pack=make_pack(ordered, forward.can_share).to(self.device))
            (state,) = states
            found = []
            for row in self.rows:
                marked = [one if one is row else Row(one.ids, np.zeros_like(one.loss)) for one in ordered]
                wanted = make_pack(marked, forward.can_share)
                found.append(state[wanted.sources[wanted.weights > 0].to(self.device)])
            return found, loss.item(), self.slopes(loss) if slopes else []

    @contextmanager
    def watched(self):
        """The hidden states of each call of the model meanwhile, without dropout, with gradients."""
        states: list[torch.Tensor] = []
        body = text_body(self.inner) or self.inner
        hook = body.register_forward_hook(lambda module, given, output: states.append(output[0][0].detach()))
        training = self.model.training
        self.model.eval()
        try:
            with torch.enable_grad():
                yield states
        finally:
            hook.remove()
            self.model.train(training)

    def slopes(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of the loss; zero for what it does not depend on."""
        found = torch.autograd.grad(loss, self.trained, allow_unused=True)
        return [
            torch.zeros_like(weight) if one is None else one for weight, one in zip(self.trained, found, strict=True)
        ]

    def fault_of_parts(self) -> str | None:
        """Why the parts that were replaced do not compute what the model's own do, None where they do."""
        try:
            return self.fault(*self.alone(), "with them")
        except REFUSALS as error:
            return refusal("the model refuses them", error)

    def fault_of_packs(self, forward: PackedForward) -> str | None:
        """Why rows in a pack are not computed as they are alone, None where they are."""
        try:
            first, loss, slopes = self.packed(forward, self.others[0], slopes=True)
            second, *_ = self.packed(forward, self.others[1], slopes=False)
        except CannotPack as why:
            return str(why)
        except REFUSALS as error:
            return refusal("the model refuses a pack", error)
        fault = self.fault(first, loss, slopes, "in a pack")
        if fault is None and any(difference(*pair) > self.limit() / 10 for pair in zip(first, second, strict=True)):
            return "rows in a pack see each other, by other ways than attention"
        return fault

    def fault(self, states: list[torch.Tensor], loss: float, slopes: list[torch.Tensor], where: str) -> str | None:
        """What differs from the plain model by more than rounding, None where nothing does."""
        own_states, own_loss, own_slopes = self.plain
        far = max(difference(*pair) for pair in zip(states, own_states, strict=True))
        if not far <= self.limit():
            return f"a row's states {where} differ from those alone by {far:.1%}"
        if not abs(loss - own_loss) <= self.limit() * abs(own_loss):
            return f"its output layer does more than is known here (loss {loss:.4f} instead of {own_loss:.4f})"
        pairs = [pair for pair in zip(slopes, own_slopes, strict=True) if pair[0].any() or pair[1].any()]
        far = sum(difference(*pair) for pair in pairs) / max(len(pairs), 1)
        return None if far <= SLOPES * self.limit() else f"its gradients {where} differ from those alone by {far:.1%}"

    def limit(self) -> float:
        """What rounding explains in the model's number format."""
        return ROUNDING.get(self.plain[0][0].dtype, ROUNDING[torch.bfloat16])


def as_row(ids: np.ndarray) -> Row:
    """A row of which every token but the first carries loss."""
    return Row(ids, np.concatenate([[0], np.ones(len(ids) - 1)]).astype(np.uint8))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of two tensors."""
    return ((one.float() - other.float()).norm() / other.float().norm().clamp_min(1e-12)).item()


def refusal(what: str, error: Exception) -> str:
    """An error of the model's own code in a line."""
    said = (str(error).strip().splitlines() or [""])[0][:120]
    return f"{what} ({type(error).__name__}: {said})"
