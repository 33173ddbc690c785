"""Images for the tests, in the form `make image` leaves them in: an OCI layout and image.json. Pure Python, no builder.

Their one program is tiny and needs nothing: it prints a line and ends, or with an argument stays until it is killed.
"""

import gzip
import hashlib
import io
import json
import random
import shutil
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

NAME = "localhost/tunefleet-test"
SAYS = "the image runs"
MEDIA = "application/vnd.oci.image."


@dataclass(frozen=True)
class Image:
    record: Path  # image.json
    name: str
    digest: str
    config: str
    layers: list[dict]

    @property
    def size(self) -> int:
        return sum(layer["size"] for layer in self.layers)

    @property
    def by_digest(self) -> str:
        return self.name.rsplit(":", 1)[0] + "@" + self.digest

    @property
    def names(self) -> set[str]:
        """In containerd, whose interface to Kubernetes adds the last."""
        return {self.name, self.by_digest, self.config}


def make_image(directory: Path, tag: str, megabytes: int, last: str = "", zstd: bool = False) -> Image:
    """A program, random bytes in four layers (the same for tags that are the same up to a '-'), and `last`."""
    noise = random.Random(tag.split("-")[0])
    trees = [{"program": program()}]
    trees += [{f"noise{number}": noise.randbytes(megabytes * 250_000)} for number in range(4)] if megabytes else []
    trees += [{"last": f"{tag} {last}".encode()}]
    layout = directory / "oci"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    layers = [add_layer(layout, tree, zstd) for tree in trees]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]},
    }
    config_digest, config_size = add_blob(layout, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": {"mediaType": MEDIA + "config.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": x["media_type"], "digest": x["digest"], "size": x["size"]} for x in layers],
    }
    digest, size = add_blob(layout, json.dumps(manifest).encode())
    write_index(layout, digest, size, tag)
    told = {"name": f"{NAME}:{tag}", "digest": digest, "config": config_digest, "architecture": "amd64"}
    record = directory / "image.json"
    record.write_text(json.dumps({**told, "layout": str(layout.resolve()), "layers": layers}))
    return Image(record, told["name"], digest, config_digest, layers)


def write_index(layout: Path, digest: str, size: int, tag: str) -> None:
    names = {"io.containerd.image.name": f"{NAME}:{tag}", "org.opencontainers.image.ref.name": tag}
    entry = {"mediaType": MEDIA + "manifest.v1+json", "digest": digest, "size": size, "annotations": names}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def add_blob(layout: Path, data: bytes) -> tuple[str, int]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return "sha256:" + digest, len(data)


def add_layer(layout: Path, files: dict[str, bytes], zstd: bool) -> dict:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    raw = buffer.getvalue()
    if zstd:
        packed = subprocess.run([shutil.which("zstd"), "-q", "-1"], input=raw, capture_output=True, check=True).stdout
    else:
        packed = gzip.compress(raw, 1, mtime=0)
    digest, size = add_blob(layout, packed)
    diff_id = "sha256:" + hashlib.sha256(raw).hexdigest()
    media_type = MEDIA + "layer.v1.tar+" + ("zstd" if zstd else "gzip")
    told = {"digest": digest, "size": size, "media_type": media_type}
    return {**told, "diff_id": diff_id, "unpacked_size": len(raw)}


def program() -> bytes:
    """An ELF file for x86-64 that calls write(1, SAYS), then exit(0); with an argument pause() for ever."""
    said = SAYS.encode() + b"\n"
    code = b"\xb8\x01\x00\x00\x00\xbf\x01\x00\x00\x00"  # mov eax, 1 (write); mov edi, 1 (stdout)
    code += b"\x48\x8d\x35" + struct.pack("<i", 32)  # lea rsi, [rip + 32]: behind the code
    code += b"\xba" + struct.pack("<I", len(said)) + b"\x0f\x05"  # mov edx, length; syscall
    code += b"\x48\x83\x3c\x24\x01\x7f\x09"  # cmp qword [rsp], 1 (argc); jg +9
    code += b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"  # mov eax, 60 (exit); xor edi, edi; syscall
    code += b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # mov eax, 34 (pause); syscall; jmp -9
    base, headers = 0x400000, 64 + 56
    size = headers + len(code) + len(said)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return elf + load + code + said
