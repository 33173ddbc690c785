"""What an image is built from, as one hash: the tag is its beginning, so a tag never moves."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
ARCHIVES = ("oci-archive:", "docker-archive:")


def inputs_hash(settings: SimpleNamespace) -> str:
    """The sha256 over all that decides what is in the image: files, arguments, and wheels that no lock pins."""
    return hash_of([files_hash(), arguments(settings), wheels_hash(settings.wheels), platform.machine()])


def wheels_hash(wheels: Path | None) -> str:
    """The sha256 over the wheels of the folder that no lock pins; empty without a folder."""
    return hash_of({path.name: sha256(path) for path in free_wheels(wheels)}) if wheels else ""


def files_hash(root: Path = ROOT) -> str:
    """The sha256 over names and contents of the files of this checkout that are built into an image."""
    return hash_of({str(path.relative_to(root)): describe(path) for path in copied_files(root)})


def hash_of(value: object) -> str:
    """The sha256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def copied_files(root: Path = ROOT) -> list[Path]:
    """The Dockerfile and every file that one of its COPY lines takes from the checkout, sorted."""
    dockerfile = root / "docker" / "Dockerfile"
    found = {dockerfile}
    for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
        words = [word for word in line.split() if not word.startswith("--chmod")]
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            for source in words[1:-1]:
                path = root / source
                found.update([path] if path.is_file() else path.rglob("*"))
    return sorted(
        path for path in found if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )


def describe(path: Path) -> str:
    """Content and the one bit of a file's mode that git keeps; times and umask differ between checkouts."""
    return f"{sha256(path)}{' x' if path.stat().st_mode & 0o100 else ''}"


def arguments(settings: SimpleNamespace) -> dict[str, object]:
    """The arguments that change what is built; an archive counts by what is in it, not by where it lies."""
    base = settings.base_image
    if base.startswith(ARCHIVES):
        base = sha256(archive_path(base))
    return {
        "target": settings.target,
        "base": base,
        "torch_index": settings.torch_index,
        "oneccl_index": settings.oneccl_index,
        "compression": settings.compression,
        "build_args": re.findall(r"--build-arg[= ](\S+)", " ".join(shlex.split(settings.build_flags))),
    }


def archive_path(base: str) -> Path:
    """The file of a base given as oci-archive:FILE or docker-archive:FILE."""
    return Path(base.partition(":")[2])


def free_wheels(wheels: Path) -> list[Path]:
    """The wheels of the folder whose hash no lock holds: torch and what comes with it."""
    locked = "".join((ROOT / name).read_text() for name in ("requirements.txt", "docker/requirements-openmp.txt"))
    names = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", locked, re.MULTILINE))
    return [path for path in sorted(wheels.glob("*.whl")) if distribution(path) not in names and is_torch(path)]


def is_torch(path: Path) -> bool:
    """Whether a wheel is torch or of the packages that a build of torch brings or the target intel asks for."""
    return re.match(r"(torch|triton|nvidia-|cuda-|intel-|oneccl-|impi-)", distribution(path)) is not None


def distribution(path: Path) -> str:
    """The name of a wheel's distribution, as locks spell it."""
    return re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower()


def sha256(path: Path) -> str:
    """The sha256 of a file, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
