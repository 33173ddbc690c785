"""The store that CRI-O and Podman share, filled by Podman. Python 3.8, standard library."""

from __future__ import annotations

import json
import os
import shutil

from ansible_collections.tunefleet.nodes.plugins.module_utils.archive import blob_name, index, small_blobs
from ansible_collections.tunefleet.nodes.plugins.module_utils.chunks import blob_path
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import LONG, NodeError, run

INCOMING = "localhost/tunefleet-incoming:"


class Storage:
    needs_unpacked = False

    def __init__(self, kind, podman):
        self.kind, self.podman = kind, podman
        info = json.loads(run([podman, "info", "--format", "json"]))
        self.version = info["version"]["Version"]
        self.root = info["store"]["graphRoot"]
        self.driver = info["store"]["graphDriverName"]

    def check(self, image):
        """Nothing Podman cannot load."""

    def held(self, image):
        listing = os.path.join(self.root, self.driver + "-layers", "layers.json")
        if not os.path.exists(listing):
            return []
        with open(listing) as layers:
            there = {layer.get("compressed-diff-digest") for layer in json.load(layers)}
        return [layer["digest"] for layer in image["layers"] if layer["digest"] in there]

    def images(self):
        return json.loads(run([self.podman, "images", "--all", "--format", "json"]) or "[]")

    def has(self, image):
        ours = [other for other in self.images() if image["name"] in (other.get("Names") or [])]
        return any("sha256:" + other["Id"] == image["config"] and other["Digest"] == image["digest"] for other in ours)

    def bring_in(self, image, directory, missing):
        """Podman reads a layout of files: the blobs stay where they arrived, under a layout of links."""
        incoming = INCOMING + image["digest"].split(":")[1]
        layout = os.path.join(directory, "layout")
        shutil.rmtree(layout, ignore_errors=True)
        os.makedirs(os.path.join(layout, "blobs", "sha256"))
        for digest, data in small_blobs(image).items():
            write(os.path.join(layout, blob_name(digest)), data)
        for digest in missing:
            os.link(blob_path(directory, digest), os.path.join(layout, blob_name(digest)))
        write(os.path.join(layout, "oci-layout"), b'{"imageLayoutVersion": "1.0.0"}')
        write(os.path.join(layout, "index.json"), json.dumps(index(image, incoming)).encode())
        identity = run([self.podman, "pull", "--quiet", "oci:" + layout], seconds=LONG).split()[-1]
        names = next((other.get("Names") or [] for other in self.images() if other["Id"] == identity), [])
        if "sha256:" + identity != image["config"]:
            raise NodeError("Podman stored something else than the image", "push again")
        run([self.podman, "tag", identity, image["name"]])
        for name in names:  # Podman named it after the directory
            if name != image["name"]:
                run([self.podman, "untag", identity, name])

    def leftovers(self):
        """Podman stores an image whole or not at all."""
        return []

    def remove(self, image):
        names = []
        for other in self.images():
            if "sha256:" + other["Id"] == image["config"]:
                names += other.get("Names") or [other["Id"]]
        for name in names:
            run([self.podman, "rmi", name], seconds=LONG)
        return names

    def users(self, image):
        config = image["config"].split(":")[1]
        return run([self.podman, "ps", "--all", "--quiet", "--filter", "ancestor=" + config]).split()

    def pins(self):
        return False


def write(path, data):
    with open(path, "wb") as target:
        target.write(data)
