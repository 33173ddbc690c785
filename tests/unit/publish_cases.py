"""Finished runs for the tests of `make publish`, made up in a moment: real hashes, weights of a few bytes."""

import json
from pathlib import Path
from typing import Any

import yaml

from scripts.publish import publish, targets
from train.files import hash_file
from train.recipe import with_defaults

GIVEN = {"validation_size": 20, "exact_match": True, "lora_r": 16, "use_chat_template": False}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_base(directory: Path, card: str = "---\nlicense: apache-2.0\n---\n", **files: str) -> Path:
    """A base model's directory with its card; `files` are more of it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", "README.md": card, **files}.items():
        (directory / name).write_text(text)
    return directory


def make_run(root: Path, base: Path, method: str = "lora", merged: bool = True, **record: Any) -> Path:
    """A complete run in root/runs/tiny-1 whose files have the hashes that their records say."""
    run, given = root / "runs" / "tiny-1", {"model_name_or_path": str(base), "train_file": f"{root}/secret/rows.jsonl"}
    given |= GIVEN | {"method": method} | ({} if merged or method == "full" else {"merge": False})
    named = {name: entry(base / name) for name in ("config.json", "model.safetensors")}
    whole = {
        "name": "tiny-1", "identity": "f" * 64, "started": "2026-11-21T15:00:00+00:00", "seed": 42, "git": "abc",
        "finished": "2026-11-21T16:00:00+00:00", "recipe": vars(with_defaults(given)), "model_path": str(base),
        "data": {"sources": {given["train_file"]: {"size": 99, "sha256": "e" * 64}}, "digest": "d" * 64},
        "layout": {"processes": 2, "threads": 1}, "dtype": "bfloat16", "dtype_reason": "the processor can",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "base_model": {"name": "base", "files": named},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gb": 20.4},
        "training": {"steps": 9, "seconds": 8.0, "tokens": 900, "tokens_per_second": 100.0, "best_step": 9,
                     "eval_loss_first": 3.25, "best_eval_loss": 0.5, "train_loss_first": 3.5, "train_loss_last": 0.25},
    } | record  # fmt: skip
    evaluations = [{"eval_loss": loss, "perplexity": 2.0, "tokens": 50,
                    "exact_match": {"matched": right, "rows": 20, "share": right / 20},
                    "samples": [{"row": 1, "prompt": "PRIVATE ROW", "answer": "PRIVATE ROW", "generated": "PRIVATE ROW",
                                 "stopped": True}]} for loss, right in ((3.25, 0), (0.5, 19))]  # fmt: skip
    write(run / "run.json", whole)
    (run / "train.yaml").write_text(yaml.safe_dump(given))
    write(run / "before.json", evaluations[0])
    write(run / "after.json", evaluations[1])
    (run / "report.html").write_text("<html>")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5}\n{"step": 9, "eval_loss": 0.5}\n')
    if method == "full":
        seal(run / "model", {"config.json": "{}", "model.safetensors": "new weights"})
        return run
    config = json.dumps({"base_model_name_or_path": str(base), "peft_type": "LORA"})
    seal(run / "adapter", {"adapter_config.json": config, "adapter_model.safetensors": "adapter"})
    if merged:
        merge(run, named)
    return run


def merge(run: Path, base: dict[str, Any]) -> None:
    """The merged model and its proof."""
    directory = run / "merged"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text("merged weights")
    files = {path.name: entry(path) for path in directory.iterdir()}
    adapter = {path.name: entry(path) for path in (run / "adapter").iterdir() if path.name != "manifest.json"}
    checks = [{"check": f"check {one}", "result": "passed", "figure": f"{one} of {one}"} for one in range(6)]
    where = {"base": {"path": "/home/ann/base", "files": base}, "adapter": {"path": "/home/ann/a", "files": adapter}}
    write(directory / "merge.json", {"checks": checks, "files": files} | where)


def seal(directory: Path, files: dict[str, str]) -> None:
    """A directory with its manifest, as the training leaves it."""
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    write(directory / "manifest.json", {name: entry(directory / name) for name in files})


def entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    return {"size": path.stat().st_size, "sha256": hash_file(path)}


def write(path: Path, content: object) -> None:
    """JSON into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(path: Path, **values: Any) -> None:
    """Other values of keys in a file of JSON."""
    write(path, json.loads(path.read_text()) | values)


def give(run: Path, to: object, what: str = "", *allowed: str) -> int:
    """Publish as the program does; returns its exit status. Raises InputError with every reason against it."""
    return publish.publish(run, targets.parse(str(to)), what, set(allowed))
