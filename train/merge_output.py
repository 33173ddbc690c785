"""Where a merged model goes: checked before, built under a temporary name, renamed when it is proven.

OUTPUT.tmp is where a merge works (locked; cleared by the next one if it was killed). OUTPUT.old exists only for the
moment in which an earlier merge is replaced. What lies at OUTPUT itself is always a complete, proven model.
"""

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.base_model import INDEX, Base
from train.errors import InputError, problem
from train.files import sync
from train.stored import MANIFEST

MADE_BY = "tunefleet train.merge"
MARK = ".merging"  # lies in OUTPUT.tmp while a merge works there, locked
# Never carried along: weights in other formats would be the unmerged ones.
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".ot", ".pkl"}
CARRY_LIMIT = 64 << 20  # bytes; the largest tokenizers are about half of that
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
             "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
             *TEMPLATES}  # fmt: skip
FIXES = {
    errno.ENOSPC: "free space there, or give another --output",
    errno.EDQUOT: "free space within the quota, or give another --output",
}


def check_output(base: Path, adapter: Path, output: Path) -> None:
    """Raise InputError unless `output` is free, empty or an earlier merge, and holds neither base nor adapter."""
    fix = "give another --output"
    for path in (base, adapter):
        if output.resolve() in (path.resolve(), *path.resolve().parents):
            raise InputError(problem(output, "", f"{path} lies in it and would be replaced", fix))
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not made_by_us(output):
        raise InputError(problem(output, "", "exists and was not made by this program, so it stays", fix))


def made_by_us(directory: Path) -> bool:
    """Whether a directory holds the record of an earlier merge."""
    try:
        return json.loads((directory / "merge.json").read_text())["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_space(base: Base, output: Path) -> None:
    """Raise InputError where the file system of `output` has no room for a second copy of the base's weights."""
    need = sum(shard.size for shard in base.shards.values()) + CARRY_LIMIT
    parent = next(path for path in output.parents if path.exists())
    place = beside(output, ".tmp")
    left_by_killed = sum(path.stat().st_size for path in place.glob("*")) if is_leftover(place) else 0
    free = shutil.disk_usage(parent).free + left_by_killed
    if free < need:
        what = f"the merged model needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise InputError(problem(parent, "", what, FIXES[errno.ENOSPC]))


def beside(output: Path, suffix: str) -> Path:
    """OUTPUT.tmp or OUTPUT.old."""
    return output.with_name(output.name + suffix)


def is_leftover(place: Path) -> bool:
    """Whether a directory is what a killed merge left: marked, complete but not renamed, or still empty."""
    return (place / MARK).exists() or made_by_us(place) or (place.is_dir() and not any(place.iterdir()))


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """An empty `OUTPUT.tmp`, locked; removed unless it was renamed. What a killed merge left is cleared away first."""
    place, old = beside(output, ".tmp"), beside(output, ".old")
    for path in (place, old):
        if path.exists() and not is_leftover(path):
            raise InputError(problem(path, "", "exists and was not left by a merge, so it stays", "move it away"))
    place.mkdir(parents=True, exist_ok=True)
    with (place / MARK).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait for it, or give another --output"
            raise InputError(problem(place, "", "another merge is working there", fix)) from None
        except OSError:
            pass  # some network file systems have no locks; the merge itself needs none
        if old.exists() and not output.exists():  # killed just when it replaced an earlier merge
            old.rename(output)
        for leftover in [*place.iterdir(), *([old] if old.exists() else [])]:
            if leftover != place / MARK:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def put_in_place(place: Path, output: Path) -> None:
    """Sync everything to disk, then rename; an earlier merge is moved aside for that moment and removed afterwards."""
    for path in [*place.rglob("*"), place]:
        sync(path)
    (place / MARK).unlink()
    old = beside(output, ".old")
    if output.exists():
        output.rename(old)
    place.rename(output)
    sync(output.parent)
    if old.exists():
        shutil.rmtree(old)


def carry(base: Path, adapter: Path, place: Path) -> dict[str, list[str]]:
    """Copy the small files: all of the base's but weights, and the tokenizer and chat template of the adapter, if any.

    Returns their names by where they come from, and the base's that were left out.
    """
    chosen = {path.name: path for path in base.iterdir() if is_carried(path)}
    left_out = sorted(path.name for path in base.iterdir() if path.name not in chosen and path.name != INDEX
                      and not (place / path.name).exists())  # fmt: skip
    own = {path.name: path for path in adapter.iterdir() if path.name in TOKENIZER}
    if own.keys() & {"tokenizer.json", "tokenizer_config.json"}:
        # A tokenizer is one thing: the base's special tokens or template beside the adapter's vocabulary would mix two.
        chosen = {name: path for name, path in chosen.items() if name not in TOKENIZER}
    elif own.keys() & set(TEMPLATES):
        chosen = {name: path for name, path in chosen.items() if name not in TEMPLATES}
    for name, path in (chosen | own).items():
        shutil.copytree(path, place / name) if path.is_dir() else shutil.copyfile(path, place / name)
    return {"adapter": sorted(own), "base": sorted(chosen.keys() - own.keys()), "left_out": left_out}


def is_carried(path: Path) -> bool:
    """Whether a file of the base goes along: no weights, no index of weights, nothing hidden or large, no directory."""
    if path.is_dir():
        return path.name in TEMPLATES
    if path.stat().st_size > CARRY_LIMIT:
        return False
    return not (path.name.startswith(".") or path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".index.json")
                or path.name in ("merge.json", MANIFEST))  # fmt: skip
