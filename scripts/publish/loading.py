"""The Python that loads what is published and asks it something; it stands in the card and is run by a test."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scripts.publish.origin import Origin
from train.render import Style, fill_prompt, prompts

PLACEHOLDERS = {
    "instruction": "Write here what it shall do.",
    "input": "",
    "prompt": "Write here what it shall go on with.",
    "dialogue": "Write here the conversation.",
}


def snippet(parts: dict[str, Any], result: Path, base: Origin, place: str) -> str:
    """The code. `place` is what from_pretrained is given: the name on the hub, or "." in the directory itself."""
    recipe = SimpleNamespace(**parts["record"]["recipe"])
    chat = asks_in_chat(parts, result, recipe)
    where = f'place = "{place}"' + ("  # run it in the directory that holds this card" if place == "." else "")
    lines = load_adapter(base, where) if result.name == "adapter" else load_whole(where)
    content = question(recipe, chat)
    if chat:
        system = [{"role": "system", "content": recipe.system_prompt}] if recipe.system_prompt else []
        turns = [*system, {"role": "user", "content": content}]
        lines += [f"messages = {literal(turns)}", "inputs = tokenizer.apply_chat_template(",
                  '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"', ")"]  # fmt: skip
    else:
        lines += [f"prompt = {literal(content)}", 'inputs = tokenizer(prompt, return_tensors="pt")']
    lines.append(f"output = model.generate(**inputs, max_new_tokens={recipe.max_new_tokens}, do_sample=False)")
    lines.append('print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))')
    return "\n".join(lines)


def load_whole(where: str) -> list[str]:
    """Lines that load a model which is whole in itself."""
    return ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", where,
            'model = AutoModelForCausalLM.from_pretrained(place, dtype="auto")',
            "tokenizer = AutoTokenizer.from_pretrained(place)", ""]  # fmt: skip


def load_adapter(base: Origin, where: str) -> list[str]:
    """Lines that load the base and put the adapter on it."""
    revision = f', revision="{base.revision}"' if base.hub and base.revision else ""
    here = "" if base.hub else "  # the directory of the base model"
    return ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
            where, f"base = {literal(base.name)}{here}",
            f'model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype="auto")',
            "model = PeftModel.from_pretrained(model, place)",
            "tokenizer = AutoTokenizer.from_pretrained(place)", ""]  # fmt: skip


def asks_in_chat(parts: dict[str, Any], result: Path, recipe: SimpleNamespace) -> bool:
    """Whether the model was trained on its chat template: as the check of the rows found, or the recipe decides."""
    if parts["check"]:
        return parts["check"]["prompt"] == "chat template"
    if recipe.data_format == "text" or recipe.use_chat_template != "auto":
        return recipe.use_chat_template is True and recipe.data_format != "text"
    config = result / "tokenizer_config.json"
    inside = json.loads(config.read_text()) if config.is_file() else {}
    return (result / "chat_template.jinja").is_file() or bool(inside.get("chat_template"))


def question(recipe: SimpleNamespace, chat: bool) -> str:
    """What the model is asked: the recipe's own prompt around a placeholder."""
    if recipe.data_format in ("messages", "text"):
        return "Write here what you ask." if recipe.data_format == "messages" else "Write here how the text begins."
    style = Style(recipe.data_format, prompts(recipe, chat), None, None, ())
    return fill_prompt(PLACEHOLDERS, style)


def literal(value: Any) -> str:
    """A text or a list of them as Python reads it; JSON's spelling is Python's for both."""
    return json.dumps(value, ensure_ascii=False)
