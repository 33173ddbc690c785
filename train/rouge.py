"""ROUGE: how much of the wanted answers' words, pairs of words and word order the generated ones have.

torchmetrics counts (docs/decisions/0018-rouge-by-torchmetrics.md); only what compares answers imports it.
"""

import re
from typing import Any

NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def rouge(generated: list[str], wanted: list[str]) -> dict[str, Any]:
    """The mean F1 of each measure over the rows, from 0 to 1, and their number. An empty answer counts 0."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(generated, wanted, rouge_keys=tuple(NAMES), normalizer=words)
    return {key: float(found[f"{key}_fmeasure"]) for key in NAMES} | {"rows": len(wanted)}


def words(text: str) -> str:
    """A text's words in small letters, parted by blanks.

    The usual rule, of Google's rouge-score, knows the letters a to z alone: all other writing would count 0. On English
    both are the same.
    """
    return re.sub(r"[\W_]+", " ", text.lower())


def in_words(found: dict[str, Any]) -> str:
    """The measures in one line."""
    return f"{', '.join(f'{name} {found[key]:.3f}' for key, name in NAMES.items())} over {found['rows']} answers"
