"""Run containers of the built image with podman or docker, locked down the way a strict cluster runs them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from scripts.image_builder import HOW, daemon, output, run
from scripts.image_inputs import ROOT
from train.errors import InputError, problem

ENGINES = ("podman", "docker")
HOST = "tunefleet"


def choose_engine(wanted: str) -> str:
    """podman or docker: what BUILDER says, else the first that is here; buildah runs nothing, podman beside it does."""
    wanted = wanted if wanted in ENGINES else ""
    found = next((name for name in ([wanted] if wanted else ENGINES) if shutil.which(name)), None)
    if found is None:
        what = (
            f"{wanted} is not installed" if wanted else "neither podman nor docker is installed to run the image with"
        )
        raise InputError(problem("BUILDER", "", what, HOW[wanted or "podman"]))
    return found


def load(engine: str, record: dict) -> None:
    """Bring the image of build/oci into the engine's store, unless it is there; its name says its content."""
    name, source = record["name"], f"oci:{ROOT / record['layout']}:{record['tag']}"
    if output([engine, "images", "--quiet", name], check=False):
        return
    print(f"image: loading {name} into {engine}", flush=True)
    if engine == "podman":
        run(["podman", "tag", output(["podman", "pull", "--quiet", source]).split()[-1], name])
        return
    if not shutil.which("skopeo"):
        raise InputError(problem("BUILDER", "docker", "needs skopeo to take in build/oci", HOW["skopeo"]))
    # In two steps, for skopeo 1.9 hands docker no layer that is compressed with zstd.
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as plain:
        run(["skopeo", "copy", "--quiet", "--dest-decompress", source, f"dir:{plain}"])
        run(["skopeo", "copy", "--quiet", *daemon("dest"), f"dir:{plain}", f"docker-daemon:{name}"])


def locked_down(engine: str, record: dict, user: str) -> list[str]:
    """The beginning of a container's command line: nothing to write but /tmp, no network, no capabilities.

    The container has a name of its own that leads to itself, since processes of a training look each other up.
    """
    words = [engine, "run", "--rm", "--read-only", "--tmpfs", "/tmp:rw,exec,mode=1777", "--network", "none"]
    words += ["--hostname", HOST, "--add-host", f"{HOST}:127.0.0.1", "--user", user]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    # Only what is named is mounted, so SELinux's labels on a user's files need not be rewritten for it.
    words += ["--security-opt", "label=disable"]
    if engine == "podman" and os.geteuid() != 0:  # else a rootless user's files would belong to nobody inside
        words += ["--userns", "keep-id"]
    if record["target"] == "cuda":
        words += ["--gpus", "all"] if engine == "docker" else ["--device", "nvidia.com/gpu=all"]
    return words


def mount(source: Path, target: Path | None = None, writable: bool = False) -> list[str]:
    """The flag that shows a file or directory inside, at its own path if no other is given."""
    flag = f"type=bind,source={source},target={target or source}"
    return ["--mount", flag if writable else f"{flag},readonly"]
