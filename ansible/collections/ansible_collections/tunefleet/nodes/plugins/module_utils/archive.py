"""What a runtime loads: an archive of the blobs that arrived, written straight into its stdin. Python 3.8, standard
library.

One tar serves all: an OCI image layout (containerd, Docker with its containerd store) that also carries Docker's older
manifest.json. Layers the runtime already has are left out; measured to be accepted by containerd 1.6, Docker 20.10 and
Podman 4.3, each of which looks in its own store first.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile

from ansible_collections.tunefleet.nodes.plugins.module_utils.chunks import blob_path, hash_file
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import NodeError, find

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PIECE = 256 << 10  # bytes written at once


def small_blobs(image):
    """Manifest and config: they come with the request."""
    return {
        image["digest"]: base64.b64decode(image["manifest_bytes"]),
        image["config"]: base64.b64decode(image["config_bytes"]),
    }


def first_layers(image, count):
    """An image of the first layers alone. Nothing could start it: its entrypoint is not there."""
    config = json.loads(small_blobs(image)[image["config"]])
    config["rootfs"] = dict(config["rootfs"], diff_ids=config["rootfs"]["diff_ids"][:count])
    config["config"] = {"Entrypoint": ["/this-image-has-not-arrived-yet"]}
    config.pop("history", None)
    config_bytes = json.dumps(config).encode()
    manifest = json.loads(small_blobs(image)[image["digest"]])
    manifest["layers"] = manifest["layers"][:count]
    manifest["config"] = dict(manifest["config"], digest=sha256(config_bytes), size=len(config_bytes))
    manifest_bytes = json.dumps(manifest).encode()
    return dict(
        image,
        digest=sha256(manifest_bytes),
        config=sha256(config_bytes),
        layers=image["layers"][:count],
        manifest_bytes=base64.b64encode(manifest_bytes).decode(),
        config_bytes=base64.b64encode(config_bytes).decode(),
    )


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def index(image, name):
    entry = {
        "mediaType": MANIFEST,
        "digest": image["digest"],
        "size": len(small_blobs(image)[image["digest"]]),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]},
    }
    return {"schemaVersion": 2, "manifests": [entry]}


def verify(image, directory, missing, keep=False):
    """Every blob that arrived is what its name says, or it is deleted, so that the next push brings it again."""
    for digest in missing:
        path = blob_path(directory, digest)
        if not os.path.exists(path):
            raise NodeError(f"{digest} did not arrive", "push again")
        found = hash_file(path)
        if found != digest:
            if not keep:
                os.unlink(path)
            raise NodeError(
                f"a layer was changed on this node's disk after it arrived: {found} instead of {digest}",
                "it was deleted; check the disk, then push again",
            )


def write_archive(stream, image, name, directory, missing, unpacked):
    """The tar. With `unpacked`, layers are decompressed on the way: Docker before 23 does not know zstd."""
    docker = {
        "Config": blob_name(image["config"]),
        "RepoTags": [name],
        "Layers": [blob_name(layer["digest"]) for layer in image["layers"]],
    }
    small = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index(image, name)).encode(),
        "manifest.json": json.dumps([docker]).encode(),
    }
    small.update((blob_name(digest), data) for digest, data in small_blobs(image).items())
    for path, data in small.items():
        add(stream, path, len(data), io.BytesIO(data))
    written = set()
    for layer in image["layers"]:
        if layer["digest"] in missing and layer["digest"] not in written:
            written.add(layer["digest"])
            add_layer(stream, layer, blob_path(directory, layer["digest"]), unpacked)
    stream.write(bytes(2 * tarfile.BLOCKSIZE))


def add_layer(stream, layer, path, unpacked):
    if not unpacked or not layer["media_type"].endswith("zstd"):
        with open(path, "rb") as blob:
            add(stream, blob_name(layer["digest"]), layer["size"], blob)
        return
    with subprocess.Popen([find("zstd"), "-dcq", path], stdout=subprocess.PIPE) as process:
        add(stream, blob_name(layer["digest"]), layer["unpacked_size"], process.stdout)


def add(stream, path, size, data):
    """One file of the tar. TarFile's own writing into a stream copies every byte three times, 10 kB at a time."""
    member = tarfile.TarInfo(path)
    member.size = size
    stream.write(member.tobuf(tarfile.USTAR_FORMAT))
    left = size
    while left:
        piece = data.read(min(left, PIECE))
        if not piece:
            raise NodeError(f"{path} ends {left} bytes early", "push again")
        stream.write(piece)
        left -= len(piece)
    stream.write(bytes(-size % tarfile.BLOCKSIZE))


def blob_name(digest):
    return "blobs/sha256/" + digest.split(":", 1)[1]
