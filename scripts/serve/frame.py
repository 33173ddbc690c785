"""What a run's recipe puts around a question, for a server that does not know the recipe (vLLM)."""

import json
from types import SimpleNamespace

import yaml

from train.recipe import with_defaults
from train.render import MARK, choose_style, fill_prompt

PLAIN = ["", ""]


def frame_of(recipe: str, chat_template: str, tokenizer_config: str) -> dict[str, object]:
    """How a run is asked, by its files: `asked` chat or text, `frame` to be joined by the question, `system`.

    The tokenizer itself puts before a plain prompt what it put there in training.
    """
    values = with_defaults(yaml.safe_load(recipe))
    has_template = bool(chat_template or json.loads(tokenizer_config or "{}").get("chat_template"))
    if values.data_format == "text":
        return {"asked": "chat" if has_template else "text", "frame": PLAIN, "system": ""}
    style = choose_style(values, SimpleNamespace(chat_template=has_template), (), "train.yaml")
    frame = PLAIN
    if values.data_format != "messages":
        frame = fill_prompt({"instruction": MARK, "prompt": MARK, "dialogue": MARK}, style).split(MARK)
    return {"asked": "chat" if style.chat else "text", "frame": frame, "system": style.system or ""}
