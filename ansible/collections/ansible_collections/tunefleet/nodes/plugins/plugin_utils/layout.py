"""Reads an image from an OCI image layout, the directory `make image` writes: github.com/opencontainers/image-spec."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path


class LayoutError(Exception):
    """The directory holds no image that can be pushed."""


@dataclass(frozen=True)
class Image:
    """One image of a layout; digests are 'sha256:...', sizes bytes."""

    name: str
    directory: Path
    digest: str  # of the manifest
    config: str
    architecture: str
    layers: tuple[dict, ...]  # digest, size, media_type, diff_id, unpacked_size

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def place(self, parent: str) -> str:
        """Where its layers lie on a node until they are imported: under the role's directory, by the digest."""
        return f"{parent}/{self.digest.removeprefix('sha256:')}"

    def for_nodes(self) -> dict:
        """What a node must know of it; manifest and config, a few kilobytes, themselves."""
        return {
            "name": self.name,
            "digest": self.digest,
            "config": self.config,
            "architecture": self.architecture,
            "layers": list(self.layers),
            "manifest_bytes": base64.b64encode(self.blob(self.digest).read_bytes()).decode(),
            "config_bytes": base64.b64encode(self.blob(self.config).read_bytes()).decode(),
        }


def read_image(record: Path) -> Image:
    """The image that build/image.json tells of. Raises LayoutError naming what is wrong."""
    try:
        told = json.loads(record.read_text())
    except (OSError, ValueError) as error:
        raise LayoutError(f"{record}: cannot be read: {error}\n  fix: make image") from error
    directory = Path(told["layout"])
    if not directory.is_absolute():
        directory = record.resolve().parent.parent / directory
    image = Image(
        name=told["name"],
        directory=directory,
        digest=told["digest"],
        config=told["config"],
        architecture=told["architecture"],
        layers=tuple(told["layers"]),
    )
    sizes = {layer["digest"]: layer["size"] for layer in image.layers}
    for digest in (image.digest, image.config, *sizes):
        blob = image.blob(digest)
        if not blob.is_file() or blob.stat().st_size != sizes.get(digest, blob.stat().st_size):
            raise LayoutError(f"{record}: {blob} is missing or not as long as it says\n  fix: make image")
    return image
