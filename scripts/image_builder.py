"""The three programs that can build the image, and what each must be told: buildah, podman, docker."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

from scripts.image_inputs import ARCHIVES, DOCKERFILE, ROOT, archive_path, sha256, wheels_hash
from train.errors import InputError, problem

BUILDERS = ("buildah", "podman", "docker")
HOW = {
    "buildah": "apt-get install buildah (Debian, Ubuntu) or dnf install buildah (Fedora, RHEL)",
    "podman": "apt-get install podman, dnf install podman or brew install podman",
    "docker": "docs.docker.com/engine/install, or apt-get install docker.io",
    "buildx": "install the package docker-buildx or docker-buildx-plugin; or take BUILDER=buildah or podman",
    "skopeo": "apt-get install skopeo, dnf install skopeo or brew install skopeo",
}
# One time for every file and for the image, 2026-01-01: the same content gives the same layer whenever it is built.
TIMESTAMP = "1767225600"
# Where packages come from, in pip's own words; proxies are passed on by the builders themselves.
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")


def choose_builder(wanted: str) -> str:
    """The builder asked for, or the first one that is here. Raises InputError with the way to get one."""
    if wanted and wanted not in BUILDERS:
        raise InputError(problem("BUILDER", wanted, "is no builder", f"take one of: {', '.join(BUILDERS)}"))
    found = next((name for name in ([wanted] if wanted else BUILDERS) if shutil.which(name)), None)
    if found is None:
        what = f"{wanted} is not installed" if wanted else f"none of {', '.join(BUILDERS)} is installed"
        raise InputError(problem("BUILDER", "", what, HOW[wanted or "buildah"]))
    problems = check_docker() if found == "docker" else []
    if problems:
        raise InputError(problems)
    return found


def check_docker() -> list[str]:
    """What docker lacks: buildx, which knows bind mounts and build contexts, and skopeo, which writes OCI layouts."""
    problems = []
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        problems.append(problem("BUILDER", "docker", "has no buildx, which the build needs", HOW["buildx"]))
    if not shutil.which("skopeo"):
        problems.append(problem("BUILDER", "docker", "needs skopeo beside it, to write an OCI layout", HOW["skopeo"]))
    return problems


def version(builder: str) -> str:
    """Name and version as the program says them, on one line: "buildah 1.28.2"."""
    words = output([builder, "--version"]).replace(",", "").split()
    return f"{builder} {words[words.index('version') + 1]}"


def build(builder: str, settings: SimpleNamespace, stage: str, name: str, inputs: str) -> None:
    """Build one stage of the Dockerfile under a name; what the builder prints is the progress."""
    run([*command(builder), *build_flags(builder, settings, stage, name, inputs), str(ROOT)])


def command(builder: str) -> list[str]:
    """The beginning of a build; layers are cached, and the times in them fixed where the builder can."""
    if builder == "docker":
        return ["docker", "buildx", "build", "--load"]
    start = ["buildah", "bud"] if builder == "buildah" else ["podman", "build"]
    return [*start, "--layers", "--format", "oci", "--timestamp", TIMESTAMP, "--pull=false"]


def build_flags(builder: str, settings: SimpleNamespace, stage: str, name: str, inputs: str) -> list[str]:
    """What a build is told, apart from its beginning and the directory."""
    given = {"INPUTS": inputs, "TORCH_INDEX": settings.torch_index, "ONECCL_INDEX": settings.oneccl_index}
    given["WHEELS_HASH"] = wheels_hash(settings.wheels)
    given["BASE_IMAGE"] = import_base(builder, settings.base_image)
    given.update((key, os.environ.get(key, "")) for key in PASSED_ON)
    if builder == "docker":
        given["SOURCE_DATE_EPOCH"] = TIMESTAMP
    flags = ["--file", str(DOCKERFILE), "--target", stage, "--tag", name]
    if settings.target == "intel":  # its MPI is Intel's, from Python's index; two in one image get in each other's way
        flags += ["--build-arg", "MPI_PACKAGE="]
    for key, value in given.items():
        flags += ["--build-arg", f"{key}={value}"] if value else []
    if settings.wheels:
        flags += ["--build-context", f"wheels={settings.wheels.resolve()}"]
    return flags + shlex.split(settings.build_flags)


def import_base(builder: str, base: str) -> str:
    """The name to build on; an archive is brought into the builder's store first, named by its content."""
    if not base.startswith(ARCHIVES):
        return base
    name = f"localhost/tunefleet-base:{sha256(archive_path(base))[:12]}"
    if builder == "docker":
        run(["skopeo", "copy", "--quiet", *daemon("dest"), base, f"docker-daemon:{name}"])
    elif output([builder, "images", "--quiet", name], check=False) == "":
        identifier = output([builder, "pull", "--quiet", base]).split()[-1]
        run([builder, "tag", identifier, name])
    return name


def export(builder: str, name: str, target: str, compression: str) -> None:
    """Write an image of the builder's store to `target`, a place in skopeo's words, with compressed layers."""
    if builder == "docker":
        packed = ["--dest-compress-format", compression]
        run(["skopeo", "copy", "--quiet", *daemon("src"), *packed, f"docker-daemon:{name}", target])
    else:
        run([builder, "push", "--quiet", "--compression-format", compression, name, target])


def daemon(side: str) -> list[str]:
    """The words that lead skopeo to docker's daemon; unlike docker it does not look at DOCKER_HOST itself."""
    host = os.environ.get("DOCKER_HOST")
    return [f"--{side}-daemon-host", host] if host else []


def unpacked_sizes(builder: str, name: str, scratch: Path) -> list[int]:
    """The size of each layer before compression: buildah knows it, the others must write the layers out."""
    if builder == "buildah":
        return layer_sizes(json.loads(output(["buildah", "inspect", "--type", "image", name]))["Manifest"])
    if builder == "podman":
        run(["podman", "push", "--quiet", name, f"dir:{scratch}"])
    else:
        run(["skopeo", "copy", "--quiet", *daemon("src"), f"docker-daemon:{name}", f"dir:{scratch}"])
    sizes = layer_sizes((scratch / "manifest.json").read_text())
    shutil.rmtree(scratch)
    return sizes


def layer_sizes(manifest: str) -> list[int]:
    """The sizes of a manifest's layers."""
    return [layer["size"] for layer in json.loads(manifest)["layers"]]


def read_file(builder: str, name: str, path: str) -> bytes:
    """The content of a file in an image, without starting anything in it."""
    if builder == "buildah":
        script = 'c=$(buildah from --pull-never "$1"); m=$(buildah mount "$c"); cat "$m/$2"; buildah rm "$c" >&2'
        words = [*(["buildah", "unshare"] if os.geteuid() else []), "sh", "-c", script, "sh", name, path]
        return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    container = output([builder, "create", name])
    copy = [builder, "cp", f"{container}:/{path}", "-"]
    packed = subprocess.run(copy, check=False, stdout=subprocess.PIPE).stdout
    run([builder, "rm", container], stdout=subprocess.DEVNULL)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return archive.extractfile(archive.getmembers()[0]).read()


def remove(builder: str, names: list[str]) -> None:
    """Take names, and the images that have no other, out of the builder's store."""
    if names:
        run([builder, "rmi", *names])


def tags(builder: str, repository: str) -> list[str]:
    """All names under a repository in the builder's store."""
    field = "Name" if builder == "buildah" else "Repository"
    words = output([builder, "images", "--format", f"{{{{.{field}}}}}:{{{{.Tag}}}}"]).split()
    return sorted(word for word in words if word.startswith(f"{repository}:") and not word.endswith(":<none>"))


def run(words: list[str], **options: object) -> None:
    """Run a program to its end. Raises InputError when it fails; it has said why itself."""
    status = subprocess.run(words, check=False, **options).returncode
    if status:
        fix = "see its message above, then the same command again: what was done is kept"
        raise InputError(problem(" ".join(words[:2]), "", f"ended with exit code {status}", fix))


def output(words: list[str], check: bool = True) -> str:
    """What a program prints, without the white space around it."""
    return subprocess.run(words, check=check, stdout=subprocess.PIPE, text=True).stdout.strip()
