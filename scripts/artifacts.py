"""The models and data sets in the store of this machine: which there are and who uses them, verify, remove.

    python -m scripts.artifacts list
    python -m scripts.artifacts verify --kind model [--name owner/name] [--revision REVISION]
    python -m scripts.artifacts remove --kind dataset --name owner/name [--revision REVISION] [--yes] [--force]

Behind `make models`, `make verify-model`, `make remove-model` and the same of data; scripts.cluster.cluster_artifacts
does it on a cluster. Exit status: 0 well; 1 something is damaged; 2 what was given is wrong, or a run is in the way.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scripts import store_artifacts
from scripts.transfer_view import View, amount
from train.errors import InputError, problem, run_program
from train.stored import VARIABLE

WORDS = {"model": "MODEL", "dataset": "DATA"}
TARGETS = {"model": "model", "dataset": "data"}  # make fetch-…, verify-…, remove-…
SHORTEST = 4  # digits of a revision
SHOWN = 12


class Here:
    """The store of this machine; the same three questions as of a cluster's."""

    word = ""  # what the make line needs besides

    def __init__(self, store: Path, runs: Path):
        self.store, self.runs = store, runs

    def list(self) -> dict:
        """What scripts.store_artifacts says of the store."""
        return store_artifacts.inventory(self.store, self.runs)

    def verify(self, path: str, tell: Callable[[int], None]) -> dict[str, str]:
        """Of each damaged file its name and what is wrong; `tell` hears how many bytes more were read."""
        return store_artifacts.verify(self.store / path, tell)

    def remove(self, path: str) -> int:
        """Remove it; returns the bytes. Raises Refusal where somebody fetches it."""
        return store_artifacts.take_away(self.store, self.store / path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--store", default=os.environ.get(VARIABLE) or "store", help="directory of the store")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    arguments = parser.parse_args()
    store = Path(arguments.store)
    if "://" in arguments.store or (store.exists() and not store.is_dir()):
        raise InputError(problem("STORE", arguments.store, "is no directory", "give the directory of a store"))
    return answer(Here(store.absolute(), arguments.runs_dir.absolute()), arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that this machine's and a cluster's store have in common."""
    parser.add_argument("action", choices=("list", "verify", "remove"))
    parser.add_argument("--kind", choices=WORDS, default="model")
    parser.add_argument("--name", default="", help="owner/name; verify without it takes all")
    parser.add_argument("--revision", default="", help="commit, its first digits, branch or tag")
    parser.add_argument("--yes", action="store_true", help="remove without a question")
    parser.add_argument("--force", action="store_true", help="remove although finished runs used it")
    parser.add_argument("--json", action="store_true", help="list as JSON")


def answer(place, arguments: argparse.Namespace) -> int:
    """Do what was asked with the store at `place`; returns the exit status."""
    found = place.list()
    if arguments.action == "list":
        print(json.dumps(found, indent=1) if arguments.json else "\n".join(table(found, place.word)))
        return 0
    if arguments.action == "verify":
        return verify(place, chosen(found["artifacts"], arguments, place.word))
    remove(place, found, arguments)
    return 0


# ---- what there is ----


def table(found: dict, word: str) -> list[str]:
    """The lines that a person reads."""
    if not found["artifacts"] and not found["incoming"]:
        return [f"nothing yet; make fetch-model{word} MODEL=owner/name brings a model"]
    wide = max(len(entry["name"]) for entry in found["artifacts"] + found["incoming"]) + 2
    head = f"{'kind':9}{'name':{wide}}{'revision':14}{'size':>9}  {'licence':14}{'fetched':18}used by"
    lines = [head] + [line_of(entry, wide, word) for entry in found["artifacts"]]
    for entry in found["incoming"]:
        by = f"being fetched by {entry['by']}" if entry["by"] else "half fetched by nobody now: the next fetch goes on"
        size = amount(entry["bytes"])
        lines.append(f"{entry['kind']:9}{entry['name']:{wide}}{entry['revision'][:SHOWN]:14}{size:>9}  {by}")
    taken = sum(entry["bytes"] for entry in found["artifacts"] + found["incoming"])
    return [*lines, f"{amount(taken)} in all, {amount(found['free'])} free"]


def line_of(entry: dict, wide: int, word: str) -> str:
    """One line of the table."""
    runs = ", ".join(
        one["name"] + ("" if one["state"] == "complete" else f" ({one['state']})") for one in entry["runs"]
    )
    licence = entry["licence"] or "unknown"
    fetched = (entry["fetched"] or "by hand")[:16].replace("T", " ")
    damaged = f"  DAMAGED: make verify-{TARGETS[entry['kind']]}{word} says more" if entry["wrong_size"] else ""
    return (
        f"{entry['kind']:9}{entry['name']:{wide}}{entry['revision'][:SHOWN] or '-':14}{amount(entry['bytes']):>9}  "
        f"{licence!s:14}{fetched:18}{runs or 'no run'}{damaged}"
    )


def chosen(entries: list[dict], arguments: argparse.Namespace, word: str) -> list[dict]:
    """The entries that name and revision mean. Raises InputError where there are none."""
    kind, name, revision = arguments.kind, arguments.name, arguments.revision
    mine = [entry for entry in entries if entry["kind"] == kind]
    named = [entry for entry in mine if name in ("", entry["name"])]
    found = [entry for entry in named if not revision or revision in (entry["revision"], *entry["references"])]
    if revision and not found and len(revision) >= SHORTEST:
        found = [entry for entry in named if entry["revision"].startswith(revision)]
    if found or not name:
        return found
    if named:
        there = ", ".join(sorted(entry["revision"][:SHOWN] for entry in named))
        raise InputError(problem("REVISION", revision, f"{name} is not there in it", f"there are: {there}"))
    there = ", ".join(sorted({entry["name"] for entry in mine})) or f"none; make fetch-{TARGETS[kind]}{word} brings one"
    raise InputError(problem(WORDS[kind], name, "is not in the store", f"there are: {there}"))


# ---- verify ----


def verify(place, entries: list[dict]) -> int:
    """Read every file again; 1 where one is damaged, after it was said how to mend it."""
    if not entries:
        print("nothing to verify")
        return 0
    status = 0
    for entry in entries:
        what = f"{entry['name']} {entry['revision'][:SHOWN]}".strip()
        if not entry["fetched"]:
            print(f"{what}: brought by hand, without a manifest: there is nothing to compare it with")
            continue
        with View(f"verifying {what}", entry["bytes"]) as view:
            wrong = place.verify(entry["path"], view.add)
        for name, reason in wrong.items():
            print(f"{what}: {name} {reason}")
        if wrong:
            status = 1
            print(f"  damaged files are set aside; mend it: {mend(entry, place.word)}")
        else:
            files = "1 file" if entry["files"] == 1 else f"{entry['files']} files"
            print(f"{what}: {files}, {amount(entry['bytes'])}, as fetched")
    return status


def mend(entry: dict, word: str) -> str:
    """The make line that fetches again what is damaged."""
    source = entry["source"] if isinstance(entry["source"], dict) else {}
    line = f"make fetch-{TARGETS[entry['kind']]}{word} {WORDS[entry['kind']]}="
    if "hub" in source:
        fetch = f"{line}{entry['name']} REVISION={entry['revision']}"
        return fetch + (f"; without network there make deliver {WORDS[entry['kind']]}={entry['name']}" if word else "")
    if "url" in source:
        return f"{line}{source['url']} SHA256={entry['sha256']}"
    if entry["kind"] == "dataset" and "path" in source and not word:
        return f"{line}{source['path']}, from where that file lies"
    return f"bring it again as it was brought: make deliver {WORDS[entry['kind']]}=…"


# ---- remove ----


def remove(place, found: dict, arguments: argparse.Namespace) -> None:
    """Remove one model or data set, after its name was typed. Raises InputError where it may not go."""
    kind, name = arguments.kind, arguments.name
    if not name:
        raise InputError(
            problem(WORDS[kind], "", "is not given", "name what is to go; make models lists what is there")
        )
    incoming = [entry | {"runs": [], "references": []} for entry in found["incoming"]]
    entries = chosen(found["artifacts"] + incoming, arguments, place.word)
    if len(entries) > 1:
        there = ", ".join(entry["revision"][:SHOWN] for entry in entries)
        what = f"{name} is there in {len(entries)} revisions"
        raise InputError(problem("REVISION", arguments.revision, what, f"give one of them: {there}"))
    entry = entries[0]
    refuse_used(entry, arguments.force)
    what = f"{kind} {name} {entry['revision'][:SHOWN]}".strip() + f" ({amount(entry['bytes'])})"
    if not arguments.yes:
        if not sys.stdin.isatty():
            line = f"make remove-{TARGETS[kind]}{place.word} {WORDS[kind]}={name} YES=1"
            raise InputError(problem(WORDS[kind], name, "removing needs a yes", line))
        if input(f"remove {what} for good? Type its name: ").strip() != name:
            print("nothing removed")
            return
    try:
        freed = place.remove(entry["path"])
    except store_artifacts.Refusal as refusal:
        raise InputError(problem(WORDS[kind], name, str(refusal), "wait until it is there, or stop that")) from None
    print(f"removed {what}: {amount(freed)} free again")


def refuse_used(entry: dict, force: bool) -> None:
    """Raise InputError while a run needs it: always one that is not over, with `force` none that is."""
    open_runs = [f"{run['name']} ({run['state']})" for run in entry["runs"] if run["state"] != "complete"]
    if open_runs:
        fix = "let them end, or make delete-run RUN=… first; FORCE=1 does not help here"
        what = f"is used by runs that are not over: {', '.join(open_runs)}"
        raise InputError(problem(WORDS[entry["kind"]], entry["name"], what, fix))
    if entry["runs"] and not force:
        names = ", ".join(run["name"] for run in entry["runs"])
        fix = "their adapters need it to be used or merged again; FORCE=1 removes it all the same"
        raise InputError(problem(WORDS[entry["kind"]], entry["name"], f"was used by finished runs: {names}", fix))


if __name__ == "__main__":
    run_program(main)
