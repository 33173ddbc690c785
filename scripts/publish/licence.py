"""What the base's licence says of giving away what was made from it, and the files that go along."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from scripts.publish.objections import Objection, objection

TABLE = Path(__file__).with_name("licences.yaml")
WHERE = "licence of the base"
# Files of a base that are its licence, whatever their suffix: LICENSE, LICENCE.txt, NOTICE, USE_POLICY.md, COPYING …
LEGAL = re.compile(r"(licen[cs]e|notice|use[_-]?policy|acceptable[_-]?use|copying|terms)", re.IGNORECASE)
LEGAL_SUFFIXES = {"", ".md", ".txt", ".pdf", ".rst"}


@dataclass(frozen=True)
class Judgement:
    """`title` of the licence (empty: unknown), its conditions and warnings for the card, what speaks against
    publishing, and the text of a NOTICE file to write, if it wants one."""

    identifier: str
    title: str = ""
    conditions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    objections: list[Objection] = field(default_factory=list)
    notice: str = ""


@cache
def read_table() -> dict[str, Any]:
    """licences.yaml: {"conditions": word -> sentence, "licences": identifier -> entry}."""
    return yaml.safe_load(TABLE.read_text())


def judge(identifier: str | None, what: str, name: str, legal_files: list[str]) -> Judgement:
    """Judge a licence by its identifier on the hub (None: unknown) for what is published: adapter, merged or model.

    `name` is the name the publication will have, `legal_files` are the licence's files that go along.
    """
    table = read_table()
    entry = table["licences"].get((identifier or "").lower())
    if entry is None:
        said = f"is {identifier}, which scripts/publish/licences.yaml does not know" if identifier else "is unknown"
        fix = (
            "write `license: <identifier>` between two --- lines at the top of README.md beside the base's weights, "
            "or fetch the base with make fetch-model, which records it"
        )
        if identifier:
            fix = "read it, and add it to that table if it allows this"
        refused = objection("licence", WHERE, said, fix, f"The licence of the base {said}.")
        return Judgement(identifier or "unknown", objections=[refused])
    title, conditions = entry["title"], [table["conditions"][word] for word in entry.get("conditions", [])]
    judged = Judgement(identifier, title, conditions, notice=entry.get("notice", ""))
    if entry.get("noncommercial"):
        judged.warnings.append(f"Not for commercial use: so the base's licence says ({title}).")
    if entry.get("noderivatives") and what == "adapter":
        text = f"{title} forbids to give away a changed base. Here is only the adapter, without the base's weights."
        judged.warnings.append(text)
    elif entry.get("noderivatives"):
        said = f"({title}) forbids to give away changed weights"
        judged.objections.append(
            objection("licence", WHERE, said, "publish WHAT=adapter", f"The licence of the base {said}.")
        )
    begins = entry.get("name_begins")
    if begins and not plain(name).startswith(plain(begins)):
        said = f"({title}) wants a name that begins with {begins}, and this one is {name}"
        fix = f"give TO another last part, such as {begins}-{name}"
        judged.objections.append(objection("licence", WHERE, said, fix, f"The licence of the base {said}."))
    if entry.get("notice") and not any(is_licence_text(file) for file in legal_files):
        judged.warnings.append(f"No text of the licence lies beside the base, and {title} wants a copy to go along.")
    return judged


def plain(name: str) -> str:
    """A name without what is only typography: Llama 3, Llama-3 and llama_3 are one."""
    return re.sub(r"[\s_.-]+", "-", name).lower()


def is_licence_text(file: str) -> bool:
    """Whether a file's name says that it holds the licence itself."""
    return re.match(r"licen[cs]e|copying|terms", file, re.IGNORECASE) is not None


def legal_files(*directories: Path | None) -> dict[str, Path]:
    """The licence's files that lie in these directories, by name; an earlier directory goes first."""
    found: dict[str, Path] = {}
    for directory in directories:
        for path in sorted(directory.iterdir()) if directory and directory.is_dir() else []:
            if path.is_file() and path.suffix.lower() in LEGAL_SUFFIXES and LEGAL.match(path.stem):
                found.setdefault(path.name, path)
    return found


def header(readme: Path) -> dict[str, Any]:
    """The YAML between two --- lines at the top of a model card; empty where there is none that can be read."""
    try:
        match = re.match(r"---\r?\n(.*?)\r?\n---", readme.read_text(encoding="utf-8"), re.DOTALL)
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def licence_in(readme: Path) -> str | None:
    """The licence that a model card names; of `other`, the name it gives. None where it names none, or several."""
    content = header(readme)
    return one_licence(content.get("license"), content.get("license_name"))


def one_licence(given: Any, name: Any = None) -> str | None:
    """The identifier in what a card or a manifest says: text, or a list of one; of `other` the name beside it."""
    licence = given[0] if isinstance(given, list) and len(given) == 1 else given
    if licence == "other":
        licence = name or "other"
    return licence if isinstance(licence, str) and licence not in ("", "unknown") else None
