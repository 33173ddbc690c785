"""Bring a row's values to text or chat messages, and say which keys of the recipe would fit rows of another shape."""

import json
from typing import Any

from train.recipe_rules import FORMAT_FIELDS

Complaint = tuple[str, str] | None  # what is wrong with a value, and the fix
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}
# Names under which public data sets hold what a field means; a hint is made of them, never a silent choice.
USUAL_NAMES = {
    "instruction": ("question", "query", "prompt", "task"),
    "output": ("response", "answer", "completion", "target", "label"),
    "prompt": ("question", "query", "instruction", "source"),
    "completion": ("response", "answer", "output", "target", "label", "chosen"),
    "messages": ("conversations", "conversation", "chat", "dialog", "turns"),
    "dialogue": ("dialog", "conversation", "article", "document", "text"),
    "summary": ("highlights", "abstract", "tldr", "headline"),
    "text": ("content", "body", "document"),
}


def to_text(value: Any) -> tuple[str, Complaint]:
    """The value as text: null is empty, a list of texts is joined by commas; anything else is a complaint."""
    if value is None:
        return "", None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        return "", (f"is {describe(value)} where text is expected", "write it as text: in quotes")
    return value, unencodable(value)


def unencodable(text: str) -> Complaint:
    """JSON can spell half a surrogate pair, which is no character and which no tokenizer takes."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        return f"holds {half}, half of a character", "write the whole character, or remove it"
    return None


def describe(value: Any) -> str:
    """A value's kind in words."""
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return "text"
    return "a list that holds more than texts" if isinstance(value, list) else f"of type {type(value).__name__}"


def to_messages(value: Any) -> tuple[list[dict[str, Any]], Complaint]:
    """The value as chat messages with role and content; ShareGPT's from/value is understood too."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        kind = "empty" if value is None else describe(value)
        return [], (f"is {kind} where a list of messages is expected", 'write [{"role": "user", "content": "…"}, …]')
    messages = [to_message(item) for item in value]
    complaints = [complaint for _, complaint in messages if complaint]
    if complaints:
        return [], complaints[0]
    turns = [message for message, _ in messages]
    return turns, wrong_order([turn["role"] for turn in turns])


def to_message(item: dict[str, Any]) -> tuple[dict[str, Any], Complaint]:
    """One message with role and content; other keys (tool_calls, name, …) go to the chat template as they are."""
    item = {key: value for key, value in item.items() if value is not None}
    if "role" not in item and "from" in item:
        rest = {key: value for key, value in item.items() if key not in ("from", "value")}
        item = {"role": item["from"], "content": item.get("value"), **rest}
        item["role"] = SHAREGPT.get(item["role"], item["role"]) if isinstance(item["role"], str) else item["role"]
    if "role" not in item:
        return item, ("has a message without role", 'write {"role": "user", "content": "…"}')
    if item["role"] not in ROLES:
        return item, (f"has a message of role {item['role']}", f"take one of: {', '.join(ROLES)}")
    content = item.get("content", "")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        return item, (f"has a message whose content is {describe(content)}", "write the content as text")
    item["content"] = content or ""
    return item, unencodable(item["content"])


def wrong_order(roles: list[str]) -> Complaint:
    """What is wrong with the order of a conversation's roles."""
    if not roles:
        return "holds no message", "add messages, or remove the row"
    spoken = roles[1:] if roles[0] == "system" else roles
    if "system" in spoken:
        return "has a system message that is not the first", "put it first"
    if not spoken or spoken[0] != "user":
        first = f"with {spoken[0]}" if spoken else "after the system message"
        return f"begins {first} instead of a user message", "begin with a message of role user"
    if spoken[-1] != "assistant":
        return f"ends with {spoken[-1]} instead of an answer", "end with a message of role assistant"
    return None


def rename_hint(there: list[str], missing: list[str], data_format: str, source: str) -> str:
    """How to fit the recipe to rows that have other fields."""
    fits = [
        other
        for other, fields in FORMAT_FIELDS.items()
        if other != data_format and all(name in there or name == "input" for name in fields)
    ]
    if fits:
        return f"data_format: {fits[0]} reads fields that are there"
    guesses = {
        name: next((usual for usual in USUAL_NAMES.get(name, ()) if usual in there), f"<field for {name}>")
        for name in missing
    }
    known = {name: guess for name, guess in guesses.items() if guess in there}
    as_messages = next((name for name in USUAL_NAMES["messages"] if name in there), None)
    if not known and as_messages and data_format != "messages":
        return f"data_format: messages with columns: {{messages: {as_messages}}}"
    hint = f"columns: {json.dumps(guesses, ensure_ascii=False)}".replace('"', "")
    if source.lower().endswith(".csv"):
        hint += "; if the file's first line is a row already, put a line with the columns' names above it"
        if len(there) == 1 and any(mark in there[0] for mark in ";\t"):
            hint = "separate the columns by commas: they seem to be separated by semicolons or tabs"
    return hint
