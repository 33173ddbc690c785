"""containerd, in the namespace Kubernetes uses; also the one inside k3s and RKE2. Python 3.8, standard library."""

from __future__ import annotations

import json
import os
import re

from ansible_collections.tunefleet.nodes.plugins.module_utils.archive import write_archive
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import LONG, NodeError, feed, run

INCOMING = "tunefleet.invalid/incoming:"  # an image has this name until it is proven whole: nothing can ask for it
DIGEST = re.compile("gc.ref.content[^=]*=(sha256:[0-9a-f]{64})")  # labels of what refers to other blobs
PINNED = "io.cri-containerd.pinned=pinned"  # the kubelet's garbage collection spares it


class Containerd:
    needs_unpacked = False

    def __init__(self, kind, socket, ctr, root):
        self.kind, self.root = kind, root
        self.ctr = [*ctr, "--address", socket, "--namespace", "k8s.io"]
        for line in run([*ctr, "--address", socket, "version"]).split("Server:")[-1].splitlines():
            if "Version:" in line:
                self.version = line.split(":", 1)[1].strip()

    def check(self, image):
        """Nothing containerd cannot load: zstd since 1.5."""

    def held(self, image):
        """Digests of its layers that need not be brought: compressed blobs in the content store that an image there
        refers to. Others may be collected before the import."""
        refers = {}
        for line in run([*self.ctr, "content", "ls"]).splitlines()[1:]:
            words = line.split()
            refers[words[0]] = DIGEST.findall(" ".join(words[1:]))
        kept, found = set(), [digest for digest, _ in self.references().values()]
        while found:
            digest = found.pop()
            if digest in refers and digest not in kept:
                kept.add(digest)
                found += refers[digest]
        return [layer["digest"] for layer in image["layers"] if layer["digest"] in kept]

    def references(self, *names):
        """name -> (digest, whole) of these images, without names of every image: whole means all blobs there and
        unpacked. Looking at all of them takes a tenth of a second of a core, and more the more there are."""
        found = {}
        for line in run([*self.ctr, "images", "check", *map(named, names)]).splitlines()[1:]:
            words = line.split()
            if len(words) > 4 and words[2].startswith("sha256:"):
                found[words[0]] = (words[2], words[3] == "complete" and words[-1] == "true")
        return found

    def has(self, image):
        """Whether the image is there under its name and its digest, whole and pinned."""
        names = (image["name"], by_digest(image))
        references = self.references(*names)
        return all(references.get(name) == (image["digest"], True) for name in names) and self.is_pinned(image["name"])

    def is_pinned(self, name):
        return PINNED in run([*self.ctr, "images", "ls", named(name)])

    def incoming(self, image):
        return INCOMING + image["digest"].split(":")[1]

    def load(self, image, name, directory, missing):
        """Import an image under a name, and see that it is whole; or leave nothing of it."""
        try:
            feed(
                [*self.ctr, "images", "import", "-"],
                lambda stream: write_archive(stream, image, name, directory, missing, unpacked=False),
            )
            if self.references(name).get(name) != (image["digest"], True):
                raise NodeError("containerd imported the image, but does not hold it whole", "push again")
        except BaseException:
            # An import that fails while unpacking leaves an image that could be started: away with it.
            self.forget(image["digest"])
            raise

    def bring_in(self, image, directory, missing):
        incoming = self.incoming(image)
        self.load(image, incoming, directory, missing)
        for name in (image["name"], by_digest(image)):
            run([*self.ctr, "images", "tag", "--force", incoming, name])
            run([*self.ctr, "images", "label", name, PINNED])
        run([*self.ctr, "images", "rm", incoming])

    def forget(self, *digests):
        """Away with every name of these images; Kubernetes' interface gives each one of its own."""
        names = [name for name, (found, _) in self.references().items() if found in digests]
        if names:
            run([*self.ctr, "images", "rm", "--sync", *names], seconds=LONG)
        return names

    def leftovers(self):
        return [name for name in run([*self.ctr, "images", "ls", "--quiet"]).split() if name.startswith(INCOMING)]

    def drop_leftovers(self, names):
        there = self.references()  # of every image: with no names it says all, and what it says is removed here
        self.forget(*{there[name][0] for name in names if name in there})

    def remove(self, image):
        return self.forget(image["digest"])

    def users(self, image):
        """Containers made from it."""
        names = {name for name, (digest, _) in self.references().items() if digest == image["digest"]}
        using = []
        for line in run([*self.ctr, "containers", "ls"]).splitlines()[1:]:
            words = line.split()
            if len(words) > 1 and words[1] in names:
                using.append(words[0])
        return using

    def pins(self):
        return True


def named(name):
    """A filter of ctr's."""
    return f'name=="{name}"'


def by_digest(image):
    return image["name"].rsplit(":", 1)[0] + "@" + image["digest"]


def config_root(path, default):
    """The directory containerd was told to keep images in; `default` where its configuration does not say."""
    if os.path.exists(path):
        with open(path) as lines:
            for line in lines:
                key, _, value = line.partition("=")
                if key.strip() == "root":
                    return json.loads(value.strip()) if value.strip().startswith('"') else value.strip().strip("'")
                if line.startswith("["):
                    break  # only the keys before the first table are containerd's own
    return default
