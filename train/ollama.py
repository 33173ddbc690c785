"""Ollama's Modelfile beside a GGUF: TEMPLATE, where it can be derived from the chat template and proven, and stops."""

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from train.data_tokens import load_tokenizer
from train.gguf_tokenizer import Vocabulary

ASK, ANSWER, RULE = "\x01ask\x01", "\x01answer\x01", "\x01rule\x01"


def modelfile(model: Path, words: Vocabulary) -> tuple[str, str]:
    """The Modelfile's text, and in a sentence what its template is."""
    tokenizer = load_tokenizer(model)
    template, said = None, "no chat template: the prompt goes to the model as it is"
    if words.template:
        template = derive(tokenizer)
        said = "TEMPLATE derived from the chat template and compared with it, and stops"
        if template is None:
            said = "stops only: the chat template says more than a TEMPLATE can; Ollama takes the GGUF's own"
    else:
        template = "{{ .Prompt }}"
    lines = ["FROM ./model.gguf"]
    lines += [f'TEMPLATE """{template}"""'] if template else []
    lines += [f'PARAMETER stop "{words.tokens[stop]}"' for stop in words.stops]
    return "\n".join(lines) + "\n", said


def derive(tokenizer: Any) -> str | None:
    """Ollama's template for a system line and turns of prompt and answer; None where the chat template is no such."""
    bos = tokenizer.bos_token or ""

    def told(*turns: tuple[str, str], ask: bool = True) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return text.removeprefix(bos)  # the runtime puts it there itself

    try:
        alone = told(("user", ASK))
        ruled = told(("system", RULE), ("user", ASK))
        twice = told(("user", ASK), ("assistant", ANSWER), ("user", ASK))
    except (TemplateError, ValueError, TypeError):
        return None
    if alone.count(ASK) != 1 or ruled.count(RULE) != 1 or not ruled.endswith(alone) or '"""' in ruled:
        return None
    turn, closing = twice.removeprefix(alone + ANSWER), ""
    if turn == twice or not turn.endswith(alone):
        return None
    closing = turn.removesuffix(alone)
    before, after = ruled.removesuffix(alone).split(RULE)
    opening, rest = alone.split(ASK)
    if "{{" in alone + ruled + closing:
        return None
    rule = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ end }}}}"
    return rule + f"{{{{ if .Prompt }}}}{opening}{{{{ .Prompt }}}}{rest}{{{{ end }}}}{{{{ .Response }}}}{closing}"
