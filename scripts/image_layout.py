"""An image as files: the OCI layout that `make image` leaves in build/oci, and its description, build/image.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from scripts.image_inputs import ROOT

BUILD = ROOT / "build"
RECORD = BUILD / "image.json"
LAYOUT = BUILD / "oci"
SBOM = "usr/share/tunefleet/sbom.cdx.json"


def read_record() -> dict | None:
    """build/image.json, if there is one."""
    try:
        return json.loads(RECORD.read_text())
    except (OSError, ValueError):
        return None


def read_layout(layout: Path) -> tuple[dict, dict, dict]:
    """Descriptor, manifest and configuration of the one image in an OCI layout."""
    descriptor = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = json.loads(blob(layout, descriptor["digest"]).read_text())
    return descriptor, manifest, json.loads(blob(layout, manifest["config"]["digest"]).read_text())


def blob(layout: Path, digest: str) -> Path:
    """The file of a blob."""
    return layout / "blobs" / Path(*digest.split(":"))


def write_tag(layout: Path, tag: str) -> None:
    """Name the layout's image by its tag alone, whatever name the builder gave it."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps(index))


def describe_layers(layout: Path, unpacked: list[int]) -> list[dict]:
    """Every layer: how it is shipped, what it is unpacked, and the step of the Dockerfile that made it."""
    _, manifest, config = read_layout(layout)
    steps = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    return [
        {
            "digest": layer["digest"],
            "media_type": layer["mediaType"],
            "size": layer["size"],
            "diff_id": diff_id,
            "unpacked_size": size,
            "created_by": plain_step(step),
        }
        for layer, diff_id, size, step in zip(
            manifest["layers"], config["rootfs"]["diff_ids"], unpacked, steps, strict=True
        )
    ]


def plain_step(step: str) -> str:
    """A step of a Dockerfile without what builders put around it."""
    step = re.sub(r"^(\|\d+ .*?)?/bin/sh -c (#\(nop\) )?|# buildkit$", "", " ".join(step.split()))
    return re.sub(r"\b(dir|file|multi):[0-9a-f]{64} in ", "", step).strip() or "the base"


def main_versions(sbom: dict) -> dict[str, str]:
    """The versions that matter out of a bill of materials: Python's, torch's, its companions', MPI's."""
    wanted = (
        r"python3\.\d+|torch|transformers|peft|accelerate|datasets|bitsandbytes|openmpi-bin|impi-rt|(intel|oneccl)-.*"
    )
    return {one["name"]: one["version"] for one in sbom["components"] if re.fullmatch(wanted, one["name"])}


def is_whole(layout: Path, digest: str) -> bool:
    """Whether a layout holds this image with every blob at its full size."""
    try:
        descriptor, manifest, _ = read_layout(layout)
        blobs = [manifest["config"], *manifest["layers"]]
        return descriptor["digest"] == digest and all(
            blob(layout, b["digest"]).stat().st_size == b["size"] for b in blobs
        )
    except (OSError, ValueError, KeyError, IndexError):
        return False


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a finished directory its name; the old one, with its blobs, goes."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def table(record: dict) -> str:
    """Name, digest, size, and the layers by size, for a person."""
    lines = [f"image    {record['name']}", f"digest   {record['digest']}"]
    lines += [f"size     {mb(record['size'])} to ship, {mb(record['unpacked_size'])} unpacked, {record['layout']}"]
    largest = sorted(record["layers"], key=lambda layer: -layer["size"])[:5]
    lines += [
        f"  {mb(layer['size']):>9}  {mb(layer['unpacked_size']):>9}  {layer['created_by'][:90]}" for layer in largest
    ]
    return "\n".join(lines)


def mb(size: int) -> str:
    """A size in MB."""
    return f"{size / 1e6:,.1f} MB"
