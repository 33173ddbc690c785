"""What the tests of fetching share: repositories to serve, a fetch in a process of its own, conditions to wait for."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.hub.state import Hub
from train import stored
from train.files import hash_file

ROOT = Path(__file__).resolve().parents[2]
README = "---\nlicense: apache-2.0\nbase_model: o/base\n---\nA model of the tests.\n"
SECONDS = 60.0  # far above what anything here takes


def add_model(repositories: Path, name: str = "o/m", shards: int = 3, size: int = 200_000, branch: str = "main",
              settings: dict | None = None, seed: int = 1) -> Path:  # fmt: skip
    """A model with random weights in so many files of this size each, and what lies beside weights on a hub."""
    directory = repositories / "models" / name / branch
    directory.mkdir(parents=True)
    weights = random.Random(seed)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for file in names if shards > 1 else ["model.safetensors"]:
        (directory / file).write_bytes(weights.randbytes(size))
    if shards > 1:
        index = {"metadata": {}, "weight_map": {f"layer.{number}": file for number, file in enumerate(names)}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"model_type": "llama"}\n')
    (directory / "tokenizer.json").write_text('{"version": "1.0"}\n' * 50)
    (directory / "README.md").write_text(README)
    if settings:
        (directory.parent / "hub.json").write_text(json.dumps(settings))
    return directory


def add_files(repositories: Path, kind: str, name: str, *files: str, branch: str = "main") -> Path:
    """A repository with these files, whatever they are."""
    directory = repositories / kind / name / branch
    for file in files:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(f"content of {file}\n")
    return directory


def weights(number: int) -> str:
    """A weight file of a model of three."""
    return f"model-{number:05}-of-00003.safetensors"


def start_fetch(hub: Hub, store: Path, *words: str, name: str = "o/m", **environment: str) -> subprocess.Popen:
    """`make fetch-model` as a process; its words come out together."""
    home = store.parent / "home"
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | environment
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TUNEFLEET"))}
    command = [sys.executable, "-m", "scripts.fetch.model", "--model", name, "--store", str(store), *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and words of a process that ends by itself."""
    try:
        said = process.communicate(timeout=SECONDS)[0]
    finally:
        process.kill()
    return process.returncode, said


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look again until it is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def child_of(process: subprocess.Popen) -> int | None:
    """The process that transfers for a fetch, None while there is none."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def kill(pid: int | None) -> None:
    """SIGKILL, to a process that may have ended."""
    try:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def published(store: Path, name: str = "o/m", kind: str = "model") -> Path | None:
    """What the store has of main."""
    return stored.find(store, kind, name, None)


def assert_same(directory: Path | None, source: Path, left_out: tuple[str, ...] = ()) -> None:
    """The published directory is the source to the byte, and its manifest is right."""
    assert directory is not None
    expected = {str(path.relative_to(source)): hash_file(path) for path in source.rglob("*") if path.is_file()}
    expected = {name: digest for name, digest in expected.items() if name not in left_out}
    found = {str(path.relative_to(directory)): hash_file(path) for path in directory.rglob("*") if path.is_file()}
    found.pop(stored.MANIFEST)
    assert found == expected
    assert {name: entry["sha256"] for name, entry in stored.read_manifest(directory)["files"].items()} == expected
    assert stored.damage(directory) == []
