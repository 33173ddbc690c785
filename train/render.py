"""A row as the text that the model will see: in its own chat template, or a plain prompt with the answer behind it."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jinja2.exceptions import TemplateError

from train.errors import InputError, problem
from train.recipe import schema
from train.rows import Row

ANSWER = {"instruction": "output", "completion": "completion", "dialogue": "summary", "text": "text"}
MARK = "\ue000message"  # begins with a character of private use, which no data holds and no template trims
CHAT_PROMPTS = {"prompt_with_input": "{instruction}\n\n{input}", "prompt_without_input": "{instruction}"}


@dataclass(frozen=True)
class Style:
    """How rows become text: the prompts by recipe key, the system message, and the chat template's owner or None."""

    data_format: str
    prompts: dict[str, str]
    system: str | None
    chat: Any | None  # the tokenizer whose chat template is used
    stops: tuple[str, ...]  # what an answer must not hold: generation would end there


@dataclass(frozen=True)
class Rendered:
    """A row's text. Each answer begins at one of `starts`, so the text before it is the prompt that generation sees.

    `fault` is None, or says why the row cannot be trained on (a key of data_judge.FAULTS, and a detail).
    """

    number: int
    text: str
    starts: tuple[int, ...]
    answer: str
    fault: tuple[str, str] | None = None

    @property
    def prompt(self) -> str:
        """The text up to the last answer."""
        return self.text[: self.starts[-1]] if self.starts else ""


def choose_style(recipe: SimpleNamespace, tokenizer: Any, stops: tuple[str, ...], where: object) -> Style:
    """Decide between chat template and plain prompts. Raises InputError where the recipe and the model disagree."""
    has_template = bool(tokenizer.chat_template)
    chat = has_template if recipe.use_chat_template == "auto" else recipe.use_chat_template
    chat = chat and recipe.data_format != "text"
    problems = []
    fix = "take a model with a chat template (an instruct model), or "
    if chat and not has_template:
        what = "is true, but the model's tokenizer has no chat template"
        problems.append(problem(where, "use_chat_template", what, fix + "leave it out: plain prompts are used then"))
    if recipe.data_format == "messages" and not chat:
        what = "is messages, but no chat template is used to turn them into text"
        problems.append(problem(where, "data_format", what, fix + "give rows of another shape"))
    if recipe.system_prompt and not chat:
        what = "is given, but no chat template is used"
        problems.append(problem(where, "system_prompt", what, fix + "put the sentence into the prompt's template"))
    if isinstance(tokenizer.chat_template, dict) and chat and "default" not in tokenizer.chat_template:
        names = ", ".join(tokenizer.chat_template)
        what = f"the model has several chat templates ({names}) and none is called default"
        problems.append(problem(where, "use_chat_template", what, "name one of them default in the model's directory"))
    if problems:
        raise InputError(problems)
    return Style(recipe.data_format, prompts(recipe, chat), recipe.system_prompt, tokenizer if chat else None, stops)


def prompts(recipe: SimpleNamespace, chat: bool) -> dict[str, str]:
    """The prompts of the recipe. A chat model is asked plainly where the recipe gives no prompt of its own: the
    schema's default (Alpaca's frame) stands in for the chat template that a base model lacks."""
    chosen = {key: getattr(recipe, key) for key in ("prompt_with_input", "prompt_without_input", "prompt_template")}
    defaults = schema()["properties"]
    for key, plain in CHAT_PROMPTS.items():
        if chat and chosen[key] == defaults[key]["default"]:
            chosen[key] = plain
    return chosen


def render_row(row: Row, style: Style) -> Rendered:
    """The text of a row, and where its answers begin."""
    if style.data_format == "messages":
        return render_chat(row, row.fields["messages"], style)
    answer = row.fields[ANSWER[style.data_format]]
    if style.data_format == "text":
        return Rendered(row.number, answer, (0,), answer, None if answer.strip() else ("no text", ""))
    prompt = fill_prompt(row.fields, style)
    if not answer.strip():
        return Rendered(row.number, prompt, (), "", ("no answer", ""))
    if style.chat is None:
        return Rendered(row.number, prompt + answer, (len(prompt),), answer, stop_inside(answer, style))
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return render_chat(row, turns, style)


def fill_prompt(fields: dict[str, str], style: Style) -> str:
    """The prompt's text of an instruction, completion or dialogue row."""
    if style.data_format != "instruction":
        return style.prompts["prompt_template"].format(**fields)
    if fields.get("input", "").strip():
        return style.prompts["prompt_with_input"].format(**fields)
    return style.prompts["prompt_without_input"].format(**fields)


def stop_inside(answer: str, style: Style) -> tuple[str, str] | None:
    """The fault of an answer whose own text holds a stop token."""
    held = next((stop for stop in style.stops if stop in answer), None)
    return ("stop token inside", held) if held else None


def render_chat(row: Row, turns: list[dict[str, Any]], style: Style) -> Rendered:
    """A conversation in the model's chat template. Every assistant turn is an answer."""
    replies = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    last = turns[replies[-1]]["content"]

    def faulty(kind: str, detail: str = "") -> Rendered:
        return Rendered(row.number, "\n".join(turn["content"] for turn in turns), (), last, (kind, detail))

    if any(not turns[index]["content"].strip() and not turns[index].get("tool_calls") for index in replies):
        return faulty("no answer")
    if style.system:
        if turns[0]["role"] == "system":
            return faulty("two system messages")
        turns = [{"role": "system", "content": style.system}, *turns]
        replies = [index + 1 for index in replies]
    try:
        text = to_template(style, turns)
        before = [to_template(style, turns[:index], ask=True) for index in replies]
        limits = [len(answer_and_header(style, turns, index)) for index in replies[:-1]]
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        return faulty("refused by the template", str(error).splitlines()[0] if str(error) else type(error).__name__)
    if any(not text.startswith(prompt) for prompt in before):
        return faulty("prompt rewritten")
    starts = tuple(len(prompt) for prompt in before)
    ends = [*map(min, limits, starts[1:]), len(text)]
    for index, start, limit in zip(replies, starts, ends, strict=True):
        fault = turn_fault(turns[index]["content"], text[start:limit], index == replies[-1], style)
        if fault:
            return faulty(*fault)
    return Rendered(row.number, text, starts, last)


def answer_and_header(style: Style, turns: list[dict[str, Any]], index: int) -> str:
    """The text up to where the message behind an answer begins to speak."""
    following = {**turns[index + 1], "content": MARK}
    return to_template(style, [*turns[: index + 1], following]).partition(MARK)[0]


def turn_fault(content: str, printed: str, is_last: bool, style: Style) -> tuple[str, str] | None:
    """What is wrong with an answer as the template prints it, up to the header of the next message.

    Behind an answer without a stop token the next one found would be that of the next message, and that message would
    be trained on.
    """
    fault = stop_inside(content, style)
    if fault:
        return fault
    if squeeze(content) not in squeeze(printed):
        return "answer changed", ""
    if not is_last and not any(stop in printed for stop in style.stops):
        tail = printed.rpartition(content.strip())[2][:40]
        return "no stop token", f"{' or '.join(style.stops)}; behind it stands {tail!r}"
    return None


def to_template(style: Style, turns: list[dict[str, Any]], ask: bool = False) -> str:
    """The chat template's text of some turns; `ask` adds the words that open an answer."""
    return style.chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)


def squeeze(text: str) -> str:
    """The text without white space, which templates trim and add."""
    return "".join(text.split())
