"""Whether two trainings gave the same: hashes of the result, else how far losses and weights are apart, and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.chain import result_directory, result_files
from scripts.record_diff import CAUSES, causes, grouped
from scripts.runs import read_record
from train.errors import InputError, problem
from train.report import read_metrics

UNRECORDED = "changes of this checkout that are in no commit, other packages, the system's libraries"


def verdict(run: Path, again: Path) -> int:
    """Say whether the result of `again` is that of `run`; returns 0 where the weights are the same, else 1."""
    records = [read_record(directory / "run.json") for directory in (run, again)]
    was, now = (files_of(directory, record) for directory, record in zip((run, again), records, strict=True))
    what = result_directory(records[0]["recipe"])
    weights = sorted(name for name in was.keys() | now.keys() if name.endswith(".safetensors"))
    print(f"--- {again.name} beside {run.name}")
    others = sorted(name for name in was.keys() | now.keys() if name not in weights and was.get(name) != now.get(name))
    beside = f"\nbeside the weights differ: {', '.join(others)}" if others else ""
    if all(was.get(name) == now.get(name) for name in weights):
        print(f"bit for bit the same {what}: {', '.join(f'{name} sha256 {was[name]}' for name in weights)}{beside}")
        return 0
    print(f"not the same {what}{beside}")
    for line in [*losses_apart(run, again), *weights_apart(run / what, again / what)]:
        print(f"  {line}")
    found = causes(*map(grouped, records))
    print("likely causes:" if found else "nothing differs that is recorded; what is not recorded:")
    for one in found:
        print(f"  {one.in_words()} ({CAUSES[one.group]})")
    if not found:
        print(f"  {UNRECORDED}")
    return 1


def files_of(run: Path, record: dict[str, Any]) -> dict[str, str]:
    """The result's hashes, of the record or, where that is older, of the result itself."""
    if record.get("result"):
        return record["result"]["files"]
    try:
        return result_files(run, record["recipe"])["files"]
    except (OSError, ValueError, KeyError):
        what = "holds no hashes of its result, and neither adapter/ nor model/ with a manifest.json lies there"
        raise InputError(problem(run / "run.json", "result", what, "copy the run with its adapter")) from None


def losses_apart(run: Path, again: Path) -> Iterator[str]:
    """How far the losses of the same steps are apart, and where that begins."""
    was, now = (
        {line["step"]: line["loss"] for line in read_metrics(directory / "metrics.jsonl") if "loss" in line}
        for directory in (run, again)
    )
    both = sorted(was.keys() & now.keys())
    if not both:
        yield "losses: no step that both have recorded in metrics.jsonl"
        return
    apart = {step: abs(was[step] - now[step]) / max(abs(was[step]), 1e-12) for step in both}
    most = max(apart, key=apart.get)
    first = next((step for step in both if apart[step]), None)
    if first is None:
        yield f"losses: the same in all {len(both)} steps"
    else:
        yield f"losses: at most {apart[most]:.2e} apart relatively, at step {most}; step {first} is the first to differ"
    if len(was) != len(now):
        yield f"steps: were {len(was)}, are {len(now)}"


def weights_apart(was: Path, now: Path) -> Iterator[str]:
    """How far the weights are apart: per tensor the norm of the difference over the norm, the largest of all."""
    from safetensors import safe_open

    files = sorted(path.name for path in was.glob("*.safetensors") if (now / path.name).is_file())
    if not files:
        yield f"weights: cannot be compared, {was} holds none that {now} has"
        return
    most, worst, count, differing = 0.0, "", 0, 0
    for name in files:
        with safe_open(was / name, "pt") as first, safe_open(now / name, "pt") as second:
            for tensor in sorted(set(first.keys()) & set(second.keys())):
                left, right = first.get_tensor(tensor).double(), second.get_tensor(tensor).double()
                if left.shape != right.shape:
                    yield f"weights: {tensor} had shape {list(left.shape)}, has {list(right.shape)}"
                    continue
                apart = float((left - right).norm() / left.norm().clamp(min=1e-12))
                count, differing = count + 1, differing + (apart > 0)
                if apart > most:
                    most, worst = apart, tensor
    yield f"weights: {differing} of {count} tensors differ, at most {most:.2e} relatively, {worst}"
