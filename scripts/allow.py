"""The words by which a person allows what a program refuses: `ALLOW="word word"`."""

from train.errors import InputError, problem


def read_allowed(text: str, words: dict[str, str]) -> set[str]:
    """The words that were given, of `words` and what each means. Raises InputError for one that is none of them."""
    given = set(text.replace(",", " ").split())
    if unknown := sorted(given - set(words)):
        known = "; ".join(f"{word}: {meaning}" for word, meaning in words.items())
        raise InputError(problem("ALLOW", " ".join(unknown), "allows nothing here", f"known words: {known}"))
    return given
