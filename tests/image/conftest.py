"""A copy of this checkout, a base, wheels, and a builder with a store of its own, to build the image for the tests.

Nothing is built here where a builder, an engine or wheels are missing: the tests are skipped by name.
"""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a base needs to be like debian:bookworm-slim, which cannot be pulled without network.
SLIM = ["doc/*", "man/*", "locale/*", "info/*"]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> SimpleNamespace:
    """A checkout and the environment to run make in it."""
    for tool, why in (("buildah", "builds"), ("podman", "runs"), ("mmdebstrap", "makes the base of")):
        if not shutil.which(tool):
            pytest.skip(f"{tool}, which {why} the image, is not installed")
    if os.geteuid() != 0:
        pytest.skip("mmdebstrap's base and a network namespace without a network need root")
    directory = tmp_path_factory.mktemp("image")
    copy = directory / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    yield SimpleNamespace(checkout=copy, directory=directory, environment=environment(directory))
    # Its layers are thousands of files and mounts, which pytest's own cleaning does not know.
    subprocess.run(["buildah", "rm", "--all"], env=environment(directory), capture_output=True, check=False)
    subprocess.run(["podman", "rmi", "--all", "--force"], env=environment(directory), capture_output=True, check=False)


def environment(directory: Path) -> dict[str, str]:
    """The caller's environment, with a store for images in `directory`, and without what a make around set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "BASE_IMAGE", "BUILD"))}
    storage = directory / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{directory}/runroot"\ngraphroot = "{directory}/graphroot"\n'
    )
    kept["CONTAINERS_STORAGE_CONF"] = str(storage)
    if not Path("/run/systemd/system").exists():  # a machine without systemd: nobody hands out control groups
        engine = directory / "containers.conf"
        runtime = f'runtime = "{"runc" if shutil.which("runc") else "crun"}"\n'
        limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
        engine.write_text(f'{limits}[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n{runtime}')
        kept.setdefault("CONTAINERS_CONF", str(engine))
        kept["BUILDAH_ISOLATION"] = "chroot"
    return kept


@pytest.fixture(scope="session")
def make(world):
    """Run make in the copy; `before` goes in front of it. Fails if the exit code is not `code`."""

    def run(*words: str, before: tuple[str, ...] = (), code: int = 0) -> str:
        command = [*before, "make", *words]
        done = subprocess.run(
            command, cwd=world.checkout, env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-6000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def wheels(world) -> Path:
    """The folder of wheels that WHEELS names, or one that is filled here."""
    given = os.environ.get("WHEELS")
    if given:
        return Path(given).absolute()
    folder = world.directory / "wheels"
    subprocess.run(["make", "wheels", f"WHEELS={folder}"], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def base(world, make) -> str:
    """The archive that `make image-base` saves, made on a small Debian: the last thing here that needs a network."""
    rootfs = world.directory / "debian.tar"
    options = [f"--dpkgopt=path-exclude=/usr/share/{path}" for path in SLIM]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--include=usr-is-merged"]
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", *options, "bookworm", rootfs], check=True)
    script = 'c=$(buildah from scratch) && buildah add -q "$c" "$1" / && buildah commit -q "$c" "$2" && buildah rm "$c"'
    subprocess.run(["sh", "-c", script, "sh", rootfs, "localhost/debian-slim"], env=world.environment, check=True)
    rootfs.unlink()
    make("image-base", "BASE_IMAGE=localhost/debian-slim", "BUILD_FLAGS=--network host")
    return f"oci-archive:{world.checkout}/build/base.tar"


@pytest.fixture(scope="session")
def image(world, make, wheels, base) -> SimpleNamespace:
    """The image, built in a network namespace that holds nothing; and the words that build it again."""
    words = ["image", f"WHEELS={wheels}", f"BASE_IMAGE={base}", "BUILD_FLAGS=--network host"]
    printed = make(*words, before=("unshare", "--net"))
    built = ROOT / "build"
    if not (built / "image.json").exists():  # for tests that need it on nodes, and then need not build it again
        shutil.copytree(world.checkout / "build" / "oci", built / "oci", dirs_exist_ok=True)
        shutil.copy2(world.checkout / "build" / "image.json", built)
    return SimpleNamespace(words=words, printed=printed)
