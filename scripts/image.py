"""The training image, behind `make image`, `make image-base` and `make image-clean`.

    python -m scripts.image build --target cpu --wheels wheels
    python -m scripts.image base
    python -m scripts.image clean

Needs Python's own library alone, no .venv, and one of buildah, podman or docker. `build` leaves an OCI layout in
build/oci and, last, build/image.json, which says what the image is; with unchanged inputs it builds nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from scripts import image_builder, image_layout
from scripts.image_inputs import ARCHIVES, ROOT, archive_path, files_hash, inputs_hash
from scripts.image_layout import BUILD, LAYOUT, RECORD, read_record
from train.errors import InputError, problem, run_program
from train.files import write_json

REPOSITORY = "localhost/tunefleet"
TARGETS = ("cpu", "intel", "cuda")
BASE_ARCHIVE = BUILD / "base.tar"


def main() -> int:
    settings = parse_arguments()
    problems = check(settings)
    if problems:
        raise InputError(problems)
    builder = image_builder.choose_builder(settings.builder)
    if settings.what == "clean":
        return clean(builder)
    BUILD.mkdir(exist_ok=True)
    with one_at_a_time(BUILD / ".lock"):
        return save_base(builder, settings) if settings.what == "base" else build(builder, settings)


def parse_arguments() -> SimpleNamespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "base", "clean"))
    parser.add_argument("--target", default="cpu", help=f"which image: {', '.join(TARGETS)}")
    parser.add_argument("--builder", default="", help="buildah, podman or docker; default: the first that is here")
    parser.add_argument(
        "--base-image", default="", help="base: a name with digest, oci-archive:FILE or docker-archive:FILE"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from, without network")
    parser.add_argument("--torch-index", default="", help="package index with the torch build to install")
    parser.add_argument(
        "--oneccl-index", default="", help="package index with oneCCL's torch binding, for --target intel"
    )
    parser.add_argument("--compression", default="zstd", help="of the layers: zstd, or gzip for old docker")
    parser.add_argument("--build-flags", default="", help="more flags for the builder, in one word")
    return SimpleNamespace(**vars(parser.parse_args()))


def check(settings: SimpleNamespace) -> list[str]:
    """What is wrong with the settings, all of it."""
    problems = []
    if settings.target not in TARGETS:
        problems.append(problem("TARGET", settings.target, "is no target", f"take one of: {', '.join(TARGETS)}"))
    if settings.compression not in ("zstd", "gzip"):
        problems.append(
            problem("COMPRESSION", settings.compression, "is not known", "take zstd, or gzip for old docker")
        )
    if settings.base_image.startswith(ARCHIVES) and not archive_path(settings.base_image).is_file():
        fix = "make image-base on a connected machine, and bring build/base.tar here"
        problems.append(problem("BASE_IMAGE", settings.base_image, "is no file", fix))
    if settings.wheels and not any(settings.wheels.glob("torch-*.whl")):
        what = "holds no wheel of torch" if settings.wheels.is_dir() else "is no directory"
        fix = f"make wheels WHEELS={settings.wheels} on a connected machine, and bring it here"
        problems.append(problem("WHEELS", str(settings.wheels), what, fix))
    if settings.what == "build" and not settings.wheels:
        problems += check_indexes(settings)
    return problems


def check_indexes(settings: SimpleNamespace) -> list[str]:
    """Problems of a build from package indexes: where torch for CPUs and oneCCL's binding come from must be said."""
    problems = []
    if settings.target != "cuda" and not settings.torch_index and platform.machine() == "x86_64":
        what = "is needed: the usual package index holds torch for CUDA, gigabytes that a CPU cannot use"
        problems.append(
            problem("TORCH_INDEX", "", what, "TORCH_INDEX=PyTorch's index of builds for CPUs, or WHEELS=folder")
        )
    if settings.target == "intel" and not settings.oneccl_index:
        what = "is needed: oneCCL's torch binding is on Intel's own index only"
        problems.append(
            problem("ONECCL_INDEX", "", what, "ONECCL_INDEX=Intel's index of extension wheels, or WHEELS=folder")
        )
    return problems


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the build directory: two makes in two terminals would write into the same files."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("image: another build is at work in this checkout; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(builder: str, settings: SimpleNamespace) -> int:
    """Build the image, unless it is there, and leave it as files."""
    inputs = inputs_hash(settings)
    tag = f"{settings.target}-{inputs[:12]}"
    name = f"{REPOSITORY}:{tag}"
    record = read_record()
    if record and record["inputs"] == inputs and image_layout.is_whole(LAYOUT, record["digest"]):
        print(f"{image_layout.table(record)}\n{name} is up to date")
        return 0
    print(f"image: building {name} with {image_builder.version(builder)}", flush=True)
    image_builder.build(builder, settings, settings.target, name, inputs)
    record = write_files(builder, settings, name, inputs)
    print(image_layout.table(record))
    return 0


def write_files(builder: str, settings: SimpleNamespace, name: str, inputs: str) -> dict:
    """The image from the builder's store into build/oci, and its record into build/image.json."""
    packed, plain = BUILD / ".oci.tmp", BUILD / ".plain.tmp"
    for leftover in (packed, plain):
        shutil.rmtree(leftover, ignore_errors=True)
    tag = name.rpartition(":")[2]
    print(f"image: writing build/oci, {settings.compression}", flush=True)
    image_builder.export(builder, name, f"oci:{packed}:{tag}", settings.compression)
    image_layout.write_tag(packed, tag)
    descriptor, manifest, config = image_layout.read_layout(packed)
    layers = image_layout.describe_layers(packed, image_builder.unpacked_sizes(builder, name, plain))
    sbom = json.loads(image_builder.read_file(builder, name, image_layout.SBOM))
    record = {
        "name": name,
        "repository": REPOSITORY,
        "tag": tag,
        "target": settings.target,
        "digest": descriptor["digest"],
        "config": manifest["config"]["digest"],
        "architecture": config["architecture"],
        "os": config["os"],
        "layout": "build/oci",
        # Each blob once: a layer that the base holds already may come a second time.
        "size": manifest["config"]["size"] + sum({layer["digest"]: layer["size"] for layer in layers}.values()),
        "unpacked_size": sum(layer["unpacked_size"] for layer in layers),
        "layers": layers,
        "versions": image_layout.main_versions(sbom),
        "builder": image_builder.version(builder),
        "inputs": inputs,
        "sources": files_hash(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    image_layout.put_in_place(packed, LAYOUT)
    write_json(RECORD, record)
    return record


def save_base(builder: str, settings: SimpleNamespace) -> int:
    """Build the operating system's stage alone, and save it as a base for builds without network."""
    name = f"{REPOSITORY}-base:os"
    image_builder.build(builder, settings, "os", name, "")
    partial = BASE_ARCHIVE.with_name(".base.tar.tmp")
    partial.unlink(missing_ok=True)
    image_builder.export(builder, name, f"oci-archive:{partial}:os", "gzip")
    partial.replace(BASE_ARCHIVE)
    size = image_layout.mb(BASE_ARCHIVE.stat().st_size)
    print(f"{BASE_ARCHIVE.relative_to(ROOT)}, {size}; on the machine without network:")
    print("  make image WHEELS=folder BASE_IMAGE=oci-archive:build/base.tar")
    return 0


def clean(builder: str) -> int:
    """Remove build/ and the names this repository gave in the builder's store."""
    names = [
        name for repository in (REPOSITORY, f"{REPOSITORY}-base") for name in image_builder.tags(builder, repository)
    ]
    image_builder.remove(builder, names)
    shutil.rmtree(BUILD, ignore_errors=True)
    print(f"removed build/ and {len(names)} images of {builder}")
    return 0


if __name__ == "__main__":
    run_program(main)
