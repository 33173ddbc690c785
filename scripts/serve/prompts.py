"""Requests as the tokens that the model was trained on; stands where transformers' server has its tokenizer."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import BatchEncoding

from train.generate import prompt_ids
from train.render import choose_style, fill_prompt

# How a model is asked: in its chat template; one question at a time in its recipe's plain prompt; or by text alone.
CHAT, QUESTION, TEXT = "chat", "question", "text"
ONE_QUESTION = "was trained on single plain prompts: send one message, of role user"
NO_CHAT = "has no chat template, and no run tells how to ask it: use /v1/completions with a prompt"


class Refused(ValueError):
    """A request that this model cannot answer, and why."""


class Prompts:
    """A tokenizer that turns messages into a prompt's ids the way train/render.py and train/generate.py do."""

    def __init__(self, tokenizer: Any, recipe: SimpleNamespace | None, positions: int | None):
        self.tokenizer_of_model, self.positions = tokenizer, positions
        trained = recipe and recipe.data_format != "text"
        self.style = choose_style(recipe, tokenizer, (), "train.yaml") if trained else None
        in_template = self.style.chat is not None if self.style else bool(tokenizer.chat_template)
        self.kind = CHAT if in_template else QUESTION if self.style else TEXT
        self.length = 0  # of the prompt that was asked for last, which the same turn of the event loop answers

    def __getattr__(self, name: str) -> Any:
        if name in ("tokenizer", "tokenizer_of_model"):  # there is no processor around a tokenizer
            raise AttributeError(name)
        return getattr(self.tokenizer_of_model, name)

    def framed(self, text: str) -> str:
        """A question in the prompt that the recipe put around a row's."""
        if self.style is None or self.style.data_format == "messages":
            return text
        return fill_prompt({"instruction": text, "prompt": text, "dialogue": text}, self.style)

    def apply_chat_template(self, messages: list[dict], tools: list | None = None, **more: Any) -> BatchEncoding:
        """The ids of a conversation with the words that open an answer. Raises Refused where there is no such form."""
        if self.kind == TEXT:
            raise Refused(NO_CHAT)
        if self.kind == QUESTION:
            if len(messages) != 1 or messages[0]["role"] != "user":
                raise Refused(ONE_QUESTION)
            return self.encoded(prompt_ids(self.tokenizer_of_model, [self.framed(messages[0]["content"])])[0])
        turns = [one | {"content": self.framed(one["content"])} if one["role"] == "user" else one for one in messages]
        if self.style and self.style.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.style.system}, *turns]
        own = {key: value for key, value in more.items() if key not in RESERVED}
        text = self.tokenizer_of_model.apply_chat_template(
            turns, tools=tools, tokenize=False, add_generation_prompt=True, **own
        )
        return self.encoded(prompt_ids(self.tokenizer_of_model, [text], ())[0])

    def __call__(self, prompt: str, return_tensors: str | None = None, **more: Any) -> BatchEncoding:
        """The ids of a plain prompt; what asks for no tensors is generate(), about stop strings."""
        if return_tensors is None:
            return self.tokenizer_of_model(prompt, **more)
        return self.encoded(prompt_ids(self.tokenizer_of_model, [prompt])[0])

    def encoded(self, ids: list[int]) -> BatchEncoding:
        """Ids as a model takes them. Raises Refused where the context has no room for an answer."""
        if not ids:
            raise Refused("was given an empty prompt")
        if self.positions and len(ids) >= self.positions:
            raise Refused(f"takes {self.positions} tokens, and the prompt has {len(ids)}")
        self.length = len(ids)
        tokens = torch.tensor([ids])
        return BatchEncoding({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """Text with spaces as they are (train/generate.py); what parses an answer wants its special tokens too."""
        return self.tokenizer_of_model.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )


# What transformers' server says to a tokenizer itself, and a request may not say in its chat_template_kwargs.
RESERVED = (
    "add_generation_prompt", "chat_template", "load_audio_from_video", "num_frames", "return_dict", "return_tensors",
    "tokenize", "tools",
)  # fmt: skip
