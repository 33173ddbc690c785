"""A causal language model that takes a pack and returns its loss; called in any other way it is what it was."""

from typing import Any

import torch

from train.fast.attention import CannotPack, Windows, computes_pack, is_flash, use_packed_attention
from train.fast.loss import Shaping, prediction_loss
from train.fast.packs import Pack


def take_packs(model: torch.nn.Module) -> "PackedForward":
    """Have `model(pack=...)` return the summed loss of a pack; `model` may be PEFT's around the language model.

    Raises CannotPack, and leaves the model as it was, where its parts are not those of a plain causal language model.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = text_body(inner), inner.get_output_embeddings()
    if not getattr(inner, "_supports_attention_backend", False):
        raise CannotPack("its attention cannot be exchanged")
    if body is None or head is None or not hasattr(body, "layers"):
        raise CannotPack("it is no plain stack of layers with an output layer")
    dropout = getattr(inner.config.get_text_config(), "attention_dropout", 0.0)
    if dropout:
        raise CannotPack(f"its attention has dropout ({dropout})")
    forward = PackedForward(inner, body, head)
    forward.windows = use_packed_attention(inner)
    inner.forward = forward
    return forward


def text_body(model: Any) -> torch.nn.Module | None:
    """The stack of layers below the output layer: of a model that also sees images (Gemma 3), that of its text."""
    body = getattr(model, model.base_model_prefix, None)
    return body if body is None or hasattr(body, "layers") else body.get_decoder()


class PackedForward:
    """Takes the place of the language model's forward."""

    def __init__(self, model: Any, body: torch.nn.Module, head: torch.nn.Module):
        self.model, self.body, self.head = model, body, head
        self.original, self.attention = model.forward, model.config._attn_implementation
        self.shaping, self.windows = Shaping.of(model.config.get_text_config()), Windows()
        # The kernel of flash attention knows rows behind each other, but no tree of them.
        self.can_share = not is_flash(self.attention)

    def __call__(self, *arguments: Any, pack: Pack | None = None, **others: Any) -> Any:
        if pack is None:
            return self.original(*arguments, **others)
        hidden = self.hidden(pack).index_select(0, pack.sources)
        return prediction_loss(self.head, self.shaping, hidden, pack.targets, pack.weights)

    def hidden(self, pack: Pack) -> torch.Tensor:
        """The last hidden states [T, size] of a pack's tokens."""
        token = computes_pack.set(True)
        try:
            outputs = self.body(input_ids=pack.ids[None], position_ids=pack.positions[None], use_cache=False, pack=pack)
        finally:
            computes_pack.reset(token)
        return outputs.last_hidden_state[0]

    def undo(self) -> None:
        """Make the model what it was."""
        self.model.forward = self.original
        self.model.set_attn_implementation(self.attention)
