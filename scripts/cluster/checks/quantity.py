"""Kubernetes quantities (`16`, `500m`, `64Gi`) as numbers, and numbers as a person reads them."""

import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

UNITS = {"": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}
UNITS |= {unit: Fraction(1000**power) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
UNITS |= {f"{unit}i": Fraction(1024**power) for power, unit in enumerate(("K", "M", "G", "T", "P", "E"), 1)}
PATTERN = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([numkMGTPE]i?|[K]i))?$")
BYTES = ("memory", "ephemeral-storage", "storage")

Resources = dict[str, Fraction]


@lru_cache(4096)  # thousands of pods ask for the same few amounts
def number(text: object) -> Fraction:
    """The quantity as an exact number."""
    match = PATTERN.match(str(text))
    if not match:
        raise ValueError(f"{text!r} is no quantity")
    digits, exponent, unit = match.groups()
    return Fraction(digits + (exponent or "")) * UNITS[unit or ""]


def numbers(quantities: dict | None) -> Resources:
    """A map of quantities (requests, limits, allocatable, quota) as numbers."""
    return {name: number(text) for name, text in (quantities or {}).items()}


def words(resource: str, amount: Fraction) -> str:
    """An amount of a resource: `16 cpu`, `64.0 GiB memory`, `8 nvidia.com/gpu`."""
    if resource.rpartition(".")[2] in BYTES or resource.startswith("hugepages-"):
        return f"{size(amount)} {resource}"
    return f"{round(float(amount), 3):g} {resource}"


def bare(resource: str, amounts: Resources) -> str:
    """One of several amounts without the resource's name, where that is said already; nothing of it is 0."""
    return words(resource, amounts.get(resource, Fraction(0))).removesuffix(f" {resource}")


def size(amount: Fraction | int) -> str:
    """Bytes, in the unit that fits."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if abs(amount) >= factor:
            return f"{float(amount) / factor:.1f} {unit}"
    return f"{float(amount) / 1024:.0f} KiB"


def several(amounts: Resources) -> str:
    """Amounts in words, joined by commas."""
    return ", ".join(words(name, amount) for name, amount in amounts.items()) or "nothing"


def total(parts: Iterable[Resources]) -> Resources:
    """The sum of several amounts."""
    result: Resources = {}
    for part in parts:
        for name, amount in part.items():
            result[name] = result.get(name, Fraction(0)) + amount
    return result


def greatest(parts: Iterable[Resources]) -> Resources:
    """The greatest of several amounts, resource by resource."""
    result: Resources = {}
    for part in parts:
        for name, amount in part.items():
            result[name] = max(result.get(name, Fraction(0)), amount)
    return result
