"""An image as files: the OCI layout that `make image` leaves in build/oci, and its description, build/image.json."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

SBOM = "usr/share/tunefleet/sbom.cdx.json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


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


def describe_layers(layout: Path, plain: Path) -> list[dict]:
    """Every layer: how it is shipped, what it is unpacked, and the step of the Dockerfile that made it.

    `plain` is the same image with uncompressed layers, as skopeo's dir: writes it.
    """
    _, manifest, config = read_layout(layout)
    sizes = {layer["digest"]: layer["size"] for layer in json.loads((plain / "manifest.json").read_text())["layers"]}
    steps = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    return [
        {
            "digest": layer["digest"],
            "media_type": layer["mediaType"],
            "size": layer["size"],
            "diff_id": diff_id,
            "unpacked_size": sizes[diff_id],
            "created_by": " ".join(step.split()),
        }
        for layer, diff_id, step in zip(manifest["layers"], config["rootfs"]["diff_ids"], steps)  # noqa: B905
    ]


def read_versions(plain: Path) -> dict[str, str]:
    """The versions that matter, by the bill of materials in the image's layers."""
    for layer in reversed(json.loads((plain / "manifest.json").read_text())["layers"]):
        path = plain / layer["digest"].partition(":")[2]
        if path.stat().st_size > 50_000_000:  # the file is in a layer of its own, far smaller
            continue
        with tarfile.open(path) as archive:
            if SBOM in archive.getnames():
                return main_versions(json.load(archive.extractfile(SBOM)))
    return {}


def main_versions(sbom: dict) -> dict[str, str]:
    """Python's, torch's, its companions' and MPI's versions out of a bill of materials."""
    wanted = ("python3.", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "openmpi-bin",
              "impi-rt", "intel-", "oneccl", "openssh-server")  # fmt: skip
    exact = {one["name"]: one["version"] for one in sbom["components"]}
    return {
        name: version
        for name, version in sorted(exact.items())
        if name in wanted or name.startswith(("intel-", "oneccl")) or name.rstrip("0123456789") == "python3."
    }


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
