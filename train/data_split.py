"""Which rows are trained on and which are held out: decided by the seed and the rows' text alone.

Rows are drawn by a hash of seed and text and not by a shuffled index, so that the same rows give the same split on
every machine and release, and a row stays on its side when others are added.
"""

import hashlib
from collections.abc import Iterable
from types import SimpleNamespace

from train.errors import InputError, problem
from train.render import Rendered


def split_rows(
    rows: list[Rendered], recipe: SimpleNamespace, source: str, where: object
) -> tuple[list[Rendered], list[Rendered]]:
    """Training and validation rows, equal rows always on one side. Raises InputError where none would be left."""
    size = recipe.validation_size
    if not size:
        return rows, []
    wanted = max(1, round(size * len(rows))) if size < 1 else int(size)
    if wanted >= len(rows):
        what = f"is {size:g}, but {source} holds {len(rows)} row{'s' if len(rows) > 1 else ''}"
        raise InputError(problem(where, "validation_size", what, "take fewer, or a share such as 0.1"))
    groups: dict[str, list[Rendered]] = {}
    for row in rows:
        groups.setdefault(row.text, []).append(row)
    held: set[int] = set()
    for text in sorted(groups, key=lambda text: draw(recipe.seed, "split", text)):
        if len(held) + len(groups[text]) <= wanted:
            held.update(row.number for row in groups[text])
    if not held:
        what = f"wants {wanted} of {len(rows)} rows, but equal rows stay together and each group of them is larger"
        raise InputError(problem(where, "validation_size", what, "remove the duplicates, or give validation_file"))
    return [row for row in rows if row.number not in held], [row for row in rows if row.number in held]


def choose_rows(rows: list[Rendered], count: int | None, seed: int) -> list[Rendered]:
    """At most `count` rows drawn with the seed, in the order of their source."""
    if count is None or count >= len(rows):
        return rows
    drawn = sorted(rows, key=lambda row: draw(seed, "choice", f"{row.number} {row.text}"))[:count]
    return sorted(drawn, key=lambda row: row.number)


def draw(seed: int, purpose: str, text: str) -> bytes:
    """A text's place in the order that the seed gives for a purpose."""
    return hashlib.sha256(f"{seed} {purpose} {text}".encode()).digest()


def duplicates(rows: Iterable[Rendered]) -> list[tuple[int, int]]:
    """For each row that equals an earlier one: the earlier row's number and its own."""
    first: dict[str, int] = {}
    return [(earlier, row.number) for row in rows if (earlier := first.setdefault(row.text, row.number)) != row.number]
