"""Give away what a run learned, with a card: `make publish RUN=… TO=…`.

    python -m scripts.publish.publish --run demo-13b7f276 --to published/demo
    python -m scripts.publish.publish --run demo-13b7f276 --to hub:owner/name --what adapter [--allow "licence proof"]

TO is a directory, s3://bucket/prefix or hub:owner/name. Refused with every reason at once: a run that is not complete
or was changed, a merge that is not proven, a licence of the base that forbids it. The same again does nothing.
Exit status: 0 published or there already, 1 the other side failed, 2 refused.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from scripts.allow import read_allowed
from scripts.publish import contents, curve, licence, sound, targets, to_directory
from scripts.publish.card import say, write_card
from scripts.publish.contents import Contents
from scripts.publish.loading import snippet
from scripts.publish.objections import WORDS, weigh
from scripts.publish.origin import DEMO, ROOT, Origin, find_base, find_rows
from scripts.publish.targets import PublishFailed, Target
from scripts.runs import lock_run
from scripts.transfer_view import View, amount
from train.errors import InputError, attempt, problem, run_program
from train.report import read_run
from train.run_names import find_run


def main() -> int:
    arguments = parse_arguments()
    problems: list[str] = []
    if arguments.on == "cluster":
        fix = f"bring the run here first: make results RUN={arguments.run or '…'}; then the same without ON=cluster"
        problems.append(problem("ON", "cluster", "publishes nothing: what is published lies on this machine", fix))
    run = attempt(problems, find_run, arguments.runs_dir, arguments.run)
    target = attempt(problems, targets.parse, arguments.to)
    allowed = attempt(problems, read_allowed, arguments.allow, WORDS)
    if problems:
        raise InputError(problems)
    try:
        with lock_run(run):
            return publish(run, target, arguments.what, allowed)
    except PublishFailed as failed:
        print(f"failed: {failed}; the same command goes on", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", help="name of the run")
    parser.add_argument("--to", default="", help="directory, s3://bucket/prefix or hub:owner/name")
    parser.add_argument("--what", default="", help="merged, model or adapter; empty: the first of these that is there")
    parser.add_argument("--allow", default="", help="what may be overridden, by name")
    parser.add_argument("--on", default="here", help="here; a run on a cluster is copied first")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args()


def publish(run: Path, target: Target, what: str, allowed: set[str]) -> int:
    """Examine the run, put the publication together and bring it to its target; returns the exit status."""
    # ---- everything that speaks against it, all at once ----
    problems: list[str] = check_target(target, run)
    parts = attempt(problems, read_run, run)
    result = attempt(problems, sound.choose, run, what)
    if not parts or not result:
        raise InputError(problems)
    base, rows = find_base(parts["record"], run / "merged"), find_rows(parts["record"])
    with View(f"examine {result}", sum(path.stat().st_size for path in result.rglob("*") if path.is_file())) as view:
        objections, entries = sound.examine(run, result, parts, view.add)
    legal = licence.legal_files(base.directory, run / "merged", result, ROOT if base.name == DEMO else None)
    judged = licence.judge(base.licence, result.name, target.name, list(legal))
    said = weigh(objections + judged.objections, allowed, problems)
    if problems:
        raise InputError(problems)
    # ---- the publication, and what lies at the target ----
    code = snippet(parts, result, base, target.place if target.kind == "hub" else ".")
    about = {"name": target.name, "what": result.name, "base": base, "rows": rows, "licence": judged, "allowed": said,
             "code": code, "say": say}  # fmt: skip
    whole = put_together(run, result, parts, entries, legal, about)
    there, objections = module_of(target).look(target.place, whole)
    if there:
        print(f"{target}: this very publication is there already ({whole.revision})")
        return 0
    weigh(objections, allowed, problems)
    if problems:
        raise InputError(problems)
    # ---- there ----
    print(f"{result} -> {target}: {len(whole.files)} files, {amount(whole.size)}", flush=True)
    for sentence in said:
        print(f"allowed: {sentence}")
    print(f"published {bring(target, whole, run)} ({whole.revision})")
    return 0


def check_target(target: Target, run: Path) -> list[str]:
    """What is wrong with the target, as far as it shows before the publication is put together."""
    if target.kind == "directory":
        return to_directory.check(target.place, run)
    return module_of(target).check(target.place) if target.kind == "hub" else []


def module_of(target: Target) -> Any:
    """What knows this kind of target; S3's and the hub's libraries take a second to load."""
    if target.kind == "hub":
        from scripts.publish import to_hub

        return to_hub
    if target.kind == "s3":
        from scripts.publish import to_s3

        return to_s3
    return to_directory


def put_together(
    run: Path, result: Path, parts: dict[str, Any], entries: dict[str, dict], legal: dict[str, Path],
    about: dict[str, Any],
) -> Contents:  # fmt: skip
    """Card, curve, proof and the result's files, with their hashes."""
    base: Origin = about["base"]
    made = contents.rename_base(result, entries, base)
    picture = curve.draw(parts["metrics"])
    if picture:
        made[contents.CURVE] = picture
    if parts["merge"] and parts["merge"].get("checks"):
        made[contents.PROOF] = contents.proof_of(parts["merge"], base)
    notice = about["licence"].notice
    if notice and not any(name.upper().startswith(contents.NOTICE) for name in legal):
        made[contents.NOTICE] = f"{notice}\n".encode()
    shown = sorted({*legal, *({contents.NOTICE} & made.keys())})
    card = write_card(run, parts, about | {"legal": shown, "curve": picture is not None})
    made[contents.CARD] = card.encode()
    record = parts["record"]
    facts = {
        "licence": about["licence"].identifier if about["licence"].title else None,
        "source": f"published by tunefleet from run {record.get('name')}",
        "published": {"run": record.get("name"), "identity": record.get("identity"), "what": result.name,
                      "allowed": about["allowed"]},
        "base": {"name": base.name, "revision": base.revision,
                 "files": (record.get("base_model") or {}).get("files")},
    }  # fmt: skip
    return contents.pack(about["name"], contents.collect(result, entries, made, legal), entries, facts)


def bring(target: Target, whole: Contents, run: Path) -> str:
    """Put the publication at its target; returns what to tell of it."""
    module = module_of(target)
    if target.kind == "hub":
        return module.put(target.place, whole, f"Publish {whole.manifest['published']['what']} of {run.name}")
    return module.put(target.place, whole, run) if target.kind == "s3" else module.put(target.place, whole)


if __name__ == "__main__":
    run_program(main)
