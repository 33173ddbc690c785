"""Whether a run may be given away: complete, its files still those that were made, its merge proven."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.publish.objections import Objection, objection
from scripts.runs import run_status
from train import checkpoint
from train.errors import InputError, problem
from train.files import hash_file

KINDS = ("merged", "model", "adapter")  # what can be published; the best first
Tell = Callable[[int], None]  # hears the bytes of each file that was read
PROOF = Path("merged", "merge.json")


def choose(run: Path, what: str) -> Path:
    """The directory of the result to publish. Raises InputError where the run has none such."""
    there = [kind for kind in KINDS if (run / kind).is_dir()]
    if what and what not in KINDS:
        fix = f"take one of: {', '.join(KINDS)}"
        raise InputError(problem("WHAT", what, "cannot be published", fix))
    if not there:
        fix = f"bring the run to its end: make run; from a cluster: make results RUN={run.name}"
        raise InputError(problem(run, "", "has no result: neither merged, model nor adapter", fix))
    if what and what not in there:
        fix = f"publish what is there: WHAT={there[0]}; or bring it: make results RUN={run.name} WHAT={what}"
        raise InputError(problem(run, "", f"has no {what}", fix))
    return run / (what or there[0])


def examine(run: Path, result: Path, parts: dict[str, Any], tell: Tell) -> tuple[list[Objection], dict]:
    """What speaks against publishing `result`, and the entries {name: {"size", "sha256"}} of its files as they are now.

    `parts` is the run as train.report reads it; `tell` hears the bytes of each file that was hashed.
    """
    found = []
    status = run_status(run)
    if status != "complete":
        fix = f"bring it to its end with the same make run, or make results RUN={run.name} where it is on a cluster"
        found.append(objection("incomplete", run, f"is not complete ({status})", fix, f"The run is {status}."))
    now = {name: entry_of(result / name, tell) for name in files_of(result)}
    found += changed(result, now)
    recipe = parts["record"]["recipe"]
    if recipe["method"] != "full" and (recipe["merge"] or result.name == "merged"):
        found += unproven(run, parts, tell)
    return found, now


def files_of(directory: Path) -> list[str]:
    """The names of a directory's files, hidden ones left out."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))


def entry_of(path: Path, tell: Tell) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    entry = {"size": path.stat().st_size, "sha256": hash_file(path)}
    tell(entry["size"])
    return entry


def changed(result: Path, now: dict[str, dict[str, Any]]) -> list[Objection]:
    """Files that are not what the training or the merge wrote, by the hashes it wrote beside them."""
    record = "merge.json" if result.name == "merged" else checkpoint.MANIFEST
    try:
        made = json.loads((result / record).read_text())
        made = made["files"] if result.name == "merged" else made
        hashes = {name: entry["sha256"] for name, entry in made.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        what = f"has no readable {record}, which says what was made"
        fix = "merge or train again: delete this directory, and the same make run makes it anew"
        return [objection("changed", result, what, fix, f"What was made is not recorded: {result.name} {what}.")]
    different = [name for name in hashes if name in now and now[name]["sha256"] != hashes[name]]
    problems = {"differ from what was made": different, "are gone": sorted(hashes.keys() - now.keys()),
                "were put there since": sorted(now.keys() - hashes.keys() - {record})}  # fmt: skip
    told = [f"{', '.join(names)} {what}" for what, names in problems.items() if names]
    if not told:
        return []
    fix = f"delete {result}, and the same make run makes it anew; or make results again"
    text = f"holds changed files: {'; '.join(told)}"
    return [objection("changed", result, text, fix, f"Files were changed after they were made: {'; '.join(told)}.")]


def unproven(run: Path, parts: dict[str, Any], tell: Tell) -> list[Objection]:
    """What the proof of the merge lacks: itself, a passed check, this adapter, this base."""
    proof, where = parts["merge"], run / PROOF
    if not proof:
        fix = f"delete {run / 'merged'}, and the same make run merges and proves again"
        return [objection("proof", where, "is not there: the merge is not proven", fix, "The merge is not proven.")]
    wrong = [f"{check['check']}: {check['result']}" for check in proof.get("checks", []) if check["result"] != "passed"]
    if not proof.get("checks"):
        wrong.append("it holds no checks")
    adapter = run / "adapter"
    for name, entry in proof.get("adapter", {}).get("files", {}).items():
        path = adapter / name
        if path.is_file() and entry_of(path, tell) != {"size": entry["size"], "sha256": entry["sha256"]}:
            wrong.append(f"it was made with another {adapter.name}/{name}")
    recorded = (parts["record"].get("base_model") or {}).get("files")
    if not recorded:
        wrong.append("the run's record does not say which base it was trained on")
    elif proof.get("base", {}).get("files") != recorded:
        wrong.append("it is about another base than the run was trained on")
    if not wrong:
        return []
    fix = f"delete {run / 'merged'}, and the same make run merges and proves again"
    text = "; ".join(wrong)
    return [objection("proof", where, f"does not prove the merge: {text}", fix, f"The merge is not proven: {text}.")]
