"""Docker: machines without Kubernetes, or with cri-dockerd. Python 3.8, standard library."""

from __future__ import annotations

import json

from ansible_collections.tunefleet.nodes.plugins.module_utils.archive import write_archive
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import LONG, NodeError, feed, find, run

ZSTD = 23  # first major version that unpacks zstd layers itself
INCOMING = "tunefleet.invalid/incoming:"


class Docker:
    kind = "docker"

    def __init__(self, docker):
        self.docker = docker
        info = json.loads(run([docker, "info", "--format", "{{json .}}"]))
        if not info.get("ServerVersion"):
            raise NodeError("docker is installed but does not answer", "systemctl start docker")
        self.version = info["ServerVersion"]
        self.root = info["DockerRootDir"]
        self.needs_unpacked = int(self.version.split(".")[0]) < ZSTD

    def check(self, image):
        zstd = any(layer["media_type"].endswith("zstd") for layer in image["layers"])
        if zstd and self.needs_unpacked and not find("zstd"):
            raise NodeError(
                f"Docker {self.version} cannot unpack zstd layers, and there is no zstd program",
                "install zstd on the node, or build with make image COMPRESSION=gzip",
            )

    def inspect(self, names):
        return json.loads(run([self.docker, "image", "inspect", *names])) if names else []

    def held(self, image):
        """Docker knows layers by what they unpack to, and only on top of those below: the longest common beginning."""
        wanted = [layer["diff_id"] for layer in image["layers"]]
        names = sorted(set(run([self.docker, "image", "ls", "--all", "--quiet", "--no-trunc"]).split()))
        longest = 0
        for other in self.inspect(names):
            there = other["RootFS"].get("Layers") or []
            same = 0
            while same < min(len(wanted), len(there)) and wanted[same] == there[same]:
                same += 1
            longest = max(longest, same)
        return [layer["digest"] for layer in image["layers"][:longest]]

    def digest_of(self, name):
        """The image id of a name, which is the digest of the image's config; None where there is no such image."""
        ids = run([self.docker, "image", "ls", "--quiet", "--no-trunc", name]).split()
        return ids[0] if ids else None

    def has(self, image):
        return self.digest_of(image["name"]) in (image["config"], image["digest"])

    def incoming(self, image):
        return INCOMING + image["digest"].split(":")[1]

    def load(self, image, name, directory, missing):
        """Load an image under a name, and see that it is what was meant."""
        feed(
            [self.docker, "load", "--quiet"],
            lambda stream: write_archive(stream, image, name, directory, missing, self.needs_unpacked),
        )
        if self.digest_of(name) not in (image["config"], image["digest"]):
            raise NodeError("Docker loaded something else than the image", "push again")

    def bring_in(self, image, directory, missing):
        incoming = self.incoming(image)
        try:
            self.load(image, incoming, directory, missing)
            run([self.docker, "tag", incoming, image["name"]])
        finally:
            if self.digest_of(incoming):
                run([self.docker, "image", "rm", incoming], seconds=LONG)

    def leftovers(self):
        there = run([self.docker, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).split()
        return [name for name in there if name.startswith(INCOMING)]

    def drop_leftovers(self, names):
        run([self.docker, "image", "rm", *names], seconds=LONG)

    def remove(self, image):
        there = run([self.docker, "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
        rows = [line.split() for line in there.splitlines()]
        names = [row[0] for row in rows if row[1] in (image["config"], image["digest"])]
        if names:
            run([self.docker, "image", "rm", *names], seconds=LONG)
        return names

    def users(self, image):
        return run([self.docker, "ps", "--all", "--quiet", "--filter", "ancestor=" + image["name"]]).split()

    def pins(self):
        return False
