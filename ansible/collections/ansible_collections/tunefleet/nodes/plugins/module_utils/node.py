"""What is asked of one node and done on it: look, make room, import, remove. Python 3.8, standard library.

Reads one JSON request from stdin: {"step": ..., "image": ..., "runtime": ..., "directory": ..., "check": bool, ...};
prints one JSON answer. A problem a person must mend is {"problem": text}. Nothing of this program is written to the
node.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import pwd
import shutil
import socket
import sys

from ansible_collections.tunefleet.nodes.plugins.module_utils.archive import verify
from ansible_collections.tunefleet.nodes.plugins.module_utils.runtimes import find_runtime
from ansible_collections.tunefleet.nodes.plugins.module_utils.tools import NodeError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
SPARE = 256 << 20  # bytes a push leaves free besides


def look(request, runtime):
    """What this node is and has; changes nothing."""
    image = request["image"]
    runtime.check(image)
    has = runtime.has(image)
    held = [layer["digest"] for layer in image["layers"]] if has else runtime.held(image)
    missing = {layer["digest"]: layer for layer in image["layers"] if layer["digest"] not in held}
    answer = {
        "has": has,
        "able": not has,  # to take it, and in need of it
        "pins": runtime.pins(),
        "follows": hasattr(runtime, "load"),  # can import the first layers while the others travel
        "missing": list(missing),
        "bytes": sum(layer["size"] for layer in missing.values()),
        "address": own_address(),
        "leftovers": runtime.leftovers() + stale(request["directory"], has),
    }
    machine = ARCHITECTURES.get(platform.machine(), platform.machine())
    if machine != image["architecture"]:
        raise NodeError(
            f"the node is {machine}, the image {image['architecture']}",
            "build the image on a machine of that kind, or LIMIT= the push to others",
        )
    if not has:
        check_room(list(missing.values()), runtime, request["directory"])
    return answer


def check_room(missing, runtime, directory):
    """The blobs lie in the directory until they are imported; the runtime keeps them and what they unpack to."""
    packed = sum(layer["size"] for layer in missing)
    unpacked = sum(layer["unpacked_size"] for layer in missing)
    needs = {}
    for path, size in ((directory, packed), (runtime.root, packed + unpacked)):
        path = existing(path)
        device = os.stat(path).st_dev
        needs[device] = (path, needs.get(device, (path, SPARE))[1] + size)
    for path, size in needs.values():
        disk = os.statvfs(path)
        free = disk.f_bavail * disk.f_frsize
        if free < size:
            raise NodeError(
                f"{path} has {free >> 20} MB free, the image needs {size >> 20} MB there",
                f"free {(size - free >> 20) + 1} MB there, then push again (docs/runbooks/out-of-disk-on-nodes.md)",
            )


def existing(path):
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def own_address():
    """The address other nodes reach this one at, as far as it can tell itself: that of its way out. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: only the route is looked up
            return probe.getsockname()[0]
        except OSError:
            return ""


def stale(directory, has):
    """Directories of earlier, unfinished pushes; the one of this image is none, unless the image is there already."""
    parent = os.path.dirname(directory)
    found = [os.path.join(parent, name) for name in sorted(os.listdir(parent))] if os.path.isdir(parent) else []
    return [path for path in found if has or path != directory]


def clear(request, runtime):
    """Away with what other pushes left; what has arrived of this image stays, as long as it is needed. So does what the
    runtime began to import, because its layers count as held: the last step drops that."""
    has = runtime.has(request["image"])
    return {"changed": clean(request, runtime, keep=None if has else request["directory"])}


def prepare(request, runtime):
    """A directory for the blobs, for the user who writes them."""
    directory, changed = request["directory"], False
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
        changed = True
    user = pwd.getpwnam(request["user"]) if request["user"] else None
    if user and os.stat(directory).st_uid != user.pw_uid and os.geteuid() == 0:
        os.chown(directory, user.pw_uid, user.pw_gid)
        for name in os.listdir(directory):
            os.chown(os.path.join(directory, name), user.pw_uid, user.pw_gid)
    return {"changed": changed}


def bring_in(request, runtime):
    """Verify every blob, import, and leave nothing but the image."""
    image, directory = request["image"], request["directory"]
    if runtime.has(image):
        return {"changed": clean(request, runtime), "has": True}
    held = set(runtime.held(image))  # what the follower imported already
    missing = [digest for digest in request["missing"] if digest not in held]
    verify(image, directory, missing)
    runtime.bring_in(image, directory, missing)
    if not runtime.has(image):
        raise NodeError("the runtime took the image, but does not show it under its digest", "push again")
    clean(request, runtime)
    return {"changed": True, "has": True}


def clean(request, runtime, keep=None):
    """Away with what unfinished pushes left. True when there was something."""
    changed = False
    left = [] if keep else runtime.leftovers()
    if left:
        runtime.drop_leftovers(left)
        changed = True
    parent = os.path.dirname(request["directory"])
    for name in os.listdir(parent) if os.path.isdir(parent) else []:
        path = os.path.join(parent, name)
        if path != keep and not in_use(path):
            shutil.rmtree(path)
            changed = True
    with contextlib.suppress(OSError):
        if not keep:
            os.rmdir(parent)
    return changed


def in_use(directory):
    """Whether the agent of another push works there at this moment."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def remove(request, runtime):
    """The image, and what unfinished pushes left."""
    image = request["image"]
    users = runtime.users(image)
    if users and not request["force"]:
        raise NodeError(
            "containers use the image: {}".format(", ".join(users[:5])),
            "end them first, or FORCE=1 to take its name away under them",
        )
    if request["check"]:
        return {"changed": runtime.has(image)}
    removed = runtime.remove(image)
    return {"changed": clean(request, runtime) or bool(removed), "removed": removed}


STEPS = {"look": look, "clear": clear, "prepare": prepare, "bring_in": bring_in, "remove": remove}


def main(stdin):
    request = json.loads(stdin.read())
    try:
        runtime = find_runtime(request["runtime"])
        answer = STEPS[request["step"]](request, runtime)
        answer.update(runtime=runtime.kind, version=runtime.version)
    except NodeError as error:
        answer = {"problem": str(error)}
    except OSError as error:
        answer = {"problem": f"{error}\n  fix: look at the node's disk and rights (become)"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
