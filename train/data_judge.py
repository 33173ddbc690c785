"""Judge tokenised rows: which are kept, cut or dropped, and which would train something wrong without a word."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from train.data_files import named_rows
from train.data_tokens import Codec, Tokens, encode_rows
from train.errors import InputError, problem
from train.render import Rendered, Style

# Kind of fault -> what is wrong with the rows, and the fix. {detail} is what the row's own case adds.
FAULTS = {
    "no answer": ("no answer, so the model would learn to stop at once", "write the answer"),
    "no text": ("no text", "write some"),
    "stop token inside": (
        "the answer's own text holds the stop token {detail}, where generation would end",
        "remove it: a stop token is put behind every answer anyway",
    ),
    "two system messages": ("a system message of its own beside system_prompt", "remove one of the two"),
    "refused by the template": (
        "the model's chat template refuses it: {detail}",
        "bring the messages into the order that it takes",
    ),
    "prompt rewritten": (
        "the model's chat template prints the turns before an answer otherwise when it asks for that answer, so the "
        "prompt that generation sees does not begin the row",
        "give a row for each answer if it rewrites earlier turns; begin the answer as it does if it opens the answer",
    ),
    "answer changed": (
        "the model's chat template drops or changes a part of the answer",
        "give a row for each answer, and write the answer as the template prints it",
    ),
    "no stop token": (
        "an answer without stop token ({detail}), so the model would not learn to stop",
        "add what the template ends with to eos_token_id in the model's generation_config.json, or take a model whose "
        "template ends every answer",
    ),
    "doubled BOS": (
        "begins with {detail} twice, which the model has never seen",
        "remove it from the rows, the prompts or the chat template: one is put there already",
    ),
    "no trained token": ("nothing that carries loss", "write the answer"),
    "in validation too": (
        "in train and in validation, so the validation loss would flatter",
        "remove them from one of the two",
    ),
}
CUT = "cut before the answer"
LONG = "over max_length"


@dataclass
class Part:
    """Train or validation after judging: rows kept with their tokens, and the numbers of the others by reason."""

    label: str
    source: str
    rows: list[Rendered] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of every tokenised row, before anything was cut or dropped
    truncated: list[int] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    faults: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def blame(self, fault: tuple[str, str], number: int) -> None:
        """Note a row's fault."""
        self.faults.setdefault(fault, []).append(number)


def judge_rows(
    rows: list[Rendered], label: str, source: str, style: Style, codec: Codec, recipe: SimpleNamespace
) -> Part:
    """Tokenise rows and judge each. A row over max_length is dropped or cut as the recipe says, which is no fault."""
    part = Part(label, source)
    for row in rows:
        if row.fault:
            part.blame(row.fault, row.number)
    sound = [row for row in rows if not row.fault]
    everything = recipe.train_on_inputs or recipe.data_format == "text"
    for row, tokens in zip(sound, encode_rows(sound, codec, style.chat is not None, everything, label), strict=True):
        part.lengths.append(len(tokens.ids))
        long = len(tokens.ids) > recipe.max_length
        fault = find_fault(row, tokens, codec)
        if long and recipe.overlong == "drop":
            part.dropped.setdefault(LONG, []).append(row.number)
        elif fault:
            part.blame(fault, row.number)
        elif long:
            cut_row(part, row, tokens, recipe.max_length)
        else:
            part.rows.append(row)
            part.tokens.append(tokens)
    return part


def find_fault(row: Rendered, tokens: Tokens, codec: Codec) -> tuple[str, str] | None:
    """What would train wrong in a tokenised row, if anything."""
    if codec.bos is not None and list(tokens.ids[:2]) == [codec.bos, codec.bos]:
        return "doubled BOS", str(codec.tokenizer.bos_token)
    if tokens.stop is None:
        stops = " or ".join(stop_texts(codec)) or "the model names none"
        return "no stop token", f"{stops}; behind it stands {behind(row)!r}"
    return None if tokens.loss.any() else ("no trained token", "")


def stop_texts(codec: Codec) -> list[str]:
    """The stop tokens as text; an id that the tokenizer does not know has none."""
    return [text for text in codec.tokenizer.convert_ids_to_tokens(list(codec.stops)) if text]


def behind(row: Rendered) -> str:
    """What the template prints behind the last answer, in at most 40 characters."""
    tail = row.text[row.starts[-1] :]
    return tail.rpartition(row.answer.strip())[2][:40]


def cut_row(part: Part, row: Rendered, tokens: Tokens, limit: int) -> None:
    """Keep the first `limit` tokens of a row, or drop the row where no trained token is among them."""
    ids, loss = tokens.ids[:limit], tokens.loss[:limit]
    if min(tokens.starts) >= limit or not loss.any():
        part.dropped.setdefault(CUT, []).append(row.number)
        return
    part.truncated.append(row.number)
    part.rows.append(row)
    part.tokens.append(Tokens(ids, loss, tokens.starts, None, tokens.split))


def find_overlap(train: list[Rendered], validation: list[Rendered]) -> list[int]:
    """The numbers of training rows that are in validation too."""
    held = {row.text for row in validation}
    return [row.number for row in train if row.text in held]


def settle(parts: list[Part], style: Style, recipe: SimpleNamespace, where: object) -> None:
    """Raise InputError for faulty rows, or with bad_rows: drop leave them out; raise it too where no row is left."""
    problems = []
    if recipe.bad_rows == "drop":
        for part in parts:
            for (kind, _), numbers in part.faults.items():
                part.dropped.setdefault(kind, []).extend(numbers)
    else:
        problems = fault_messages(parts, style, where)
    problems += [message for part in parts if not part.rows and (message := nothing_left(part, recipe, where))]
    if problems:
        raise InputError(problems)


def fault_messages(parts: list[Part], style: Style, where: object) -> list[str]:
    """One message for each kind of fault and source, with the rows' numbers and the first one's detail."""
    merged: dict[tuple[str, str], tuple[str, list[int]]] = {}
    for part in parts:
        for (kind, detail), numbers in part.faults.items():
            merged.setdefault((part.source, kind), (detail, []))[1].extend(numbers)
    messages = []
    for (source, kind), (detail, numbers) in merged.items():
        what, fix = FAULTS[kind]
        if kind == "no stop token" and style.chat is None:
            fix = "take a model whose tokenizer names an end-of-text token (eos_token)"
        fix = f"{fix}; or leave such rows out: bad_rows: drop in {where}"
        messages.append(problem(source, named_rows(sorted(set(numbers))), what.format(detail=detail), fix))
    return messages


def nothing_left(part: Part, recipe: SimpleNamespace, where: object) -> str | None:
    """The message for a part of which no row is left, unless its faulty rows are named already."""
    if part.faults and recipe.bad_rows == "error":
        return None
    long = part.dropped.get(LONG, []) + part.dropped.get(CUT, [])
    reasons = ", ".join(f"{len(numbers)} {reason}" for reason, numbers in part.dropped.items())
    if len(long) < sum(map(len, part.dropped.values())) or not part.lengths:
        return problem(part.source, part.label, f"no row is left: {reasons or 'there were none'}", "correct the rows")
    what = (
        f"is {recipe.max_length}, and no {part.label} row of {part.source} fits: the shortest has {min(part.lengths)} "
        f"tokens, the median {int(np.median(part.lengths))}, the longest {max(part.lengths)}"
    )
    fix = f"raise it, for instance to {max(part.lengths)}"
    if LONG in part.dropped:
        fix += ", or cut the rows: overlong: truncate"
    return problem(where, "max_length", what, fix)
