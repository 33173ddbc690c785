"""The image, up to what needs no builder: its tag, the builder's words, the layout's description, bad input.

.venv/bin/python -m pytest tests/unit/test_image.py
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import image, image_builder, image_layout
from scripts.image_inputs import copied_files, files_hash, free_wheels, inputs_hash
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def settings(**changes) -> SimpleNamespace:
    """What `make image` passes when nothing is set but the wheel folder, which is left out."""
    values = {"what": "build", "target": "cpu", "builder": "", "base_image": "", "wheels": None, "torch_index": "x"}
    values |= {"oneccl_index": "", "compression": "zstd", "build_flags": ""}
    return SimpleNamespace(**values | changes)


# ---- the tag ----


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what is built into the image."""
    for path in copied_files():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def test_what_is_hashed_is_what_the_dockerfile_copies():
    names = {str(path.relative_to(ROOT)) for path in copied_files()}
    assert {
        "docker/Dockerfile",
        "docker/sshd_config",
        "requirements.txt",
        "train/finetune.py",
        "scripts/run.py",
    } <= names
    assert "schemas/train.schema.json" in names
    assert not any(name.startswith(("tests/", "kustomize/", "docs/")) or "__pycache__" in name for name in names)


def modules_of(path: Path) -> set[str]:
    """Our own modules that a file imports, be it at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | {name for name in inside if (ROOT / f"{name.replace('.', '/')}.py").exists()}
    return {name for name in found if name.partition(".")[0] in ("scripts", "train")}


def test_what_the_images_programs_import_is_in_the_image_too():
    copied = {path.relative_to(ROOT) for path in copied_files()}
    programs = [path for path in copied if path.suffix == ".py" and path.parts[0] in ("scripts", "train")]
    assert len(programs) > 80
    programs.remove(Path("scripts/fetch/into_s3.py"))  # of a workstation: a pod fetches into its store, and says so
    for program in programs:
        for name in modules_of(ROOT / program):
            path = Path(name.replace(".", "/"))
            assert {path.with_suffix(".py"), path / "__init__.py"} & copied, f"{program} imports {name}"


def test_two_checkouts_of_the_same_files_have_the_same_hash(checkout):
    for path in checkout.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (checkout / "train" / "__pycache__").mkdir()
    (checkout / "train" / "__pycache__" / "run.pyc").write_text("left by Python")
    assert files_hash(checkout) == files_hash()


@pytest.mark.parametrize("name", ["train/finetune.py", "docker/Dockerfile", "requirements.txt", "docker/sshd_config"])
def test_a_changed_file_changes_the_hash(checkout, name):
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert files_hash(checkout) != files_hash()


def test_a_new_file_and_the_bit_that_makes_a_program_change_the_hash(checkout):
    (checkout / "docker" / "entrypoint.sh").chmod(0o644)
    changed = files_hash(checkout)
    (checkout / "train" / "new.py").touch()
    assert len({changed, files_hash(checkout), files_hash()}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"target": "cuda"},
        {"base_image": "debian@sha256:1"},
        {"torch_index": "y"},
        {"compression": "gzip"},
        {"build_flags": "--build-arg PYTHON=python3.12"},
        {"build_flags": "--build-arg=PYTHON=python3.12"},
    ],
    ids=str,
)
def test_an_argument_that_changes_the_image_changes_the_tag(change):
    assert inputs_hash(settings(**change)) != inputs_hash(settings())


def test_flags_that_only_say_how_to_build_leave_the_tag():
    assert inputs_hash(settings(build_flags="-v /a:/b --network host")) == inputs_hash(settings())
    assert inputs_hash(settings(builder="docker")) == inputs_hash(settings())


def test_an_archive_counts_by_its_content_not_by_its_place(tmp_path):
    hashes = []
    for name, content in (("a.tar", "1"), ("b.tar", "1"), ("c.tar", "2")):
        (tmp_path / name).write_text(content)
        hashes.append(inputs_hash(settings(base_image=f"oci-archive:{tmp_path / name}")))
    assert hashes[0] == hashes[1] != hashes[2]


def test_of_a_wheel_folder_only_those_count_that_no_lock_pins(tmp_path):
    for name in ("torch-2.13.0+cpu-cp311.whl", "numpy-2.4.6-cp311.whl", "triton-3-py3.whl", "pytest-9-py3.whl"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in free_wheels(tmp_path)] == ["torch-2.13.0+cpu-cp311.whl", "triton-3-py3.whl"]
    before = inputs_hash(settings(wheels=tmp_path))
    (tmp_path / "numpy-2.4.6-cp311.whl").unlink()
    assert inputs_hash(settings(wheels=tmp_path)) == before
    told = build_flags(wheels=tmp_path)
    (tmp_path / "torch-2.13.0+cpu-cp311.whl").write_text("another build of it")
    assert inputs_hash(settings(wheels=tmp_path)) != before
    assert build_flags(wheels=tmp_path) != told  # else the builder would take the old torch out of its cache


# ---- the Dockerfile ----


def test_every_module_that_the_copied_scripts_import_is_copied():
    listed = {path.relative_to(ROOT) for path in copied_files() if path.suffix == ".py"}
    names = "n.startswith(('scripts', 'train'))"
    served = "scripts.serve.bring, scripts.serve.prompts, scripts.serve.serve"
    programs = f"scripts.run, scripts.reproduce, {served}"
    code = f"import sys, {programs}; print(*(m.__file__ for n, m in sys.modules.items() if {names}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {Path(name).relative_to(ROOT) for name in loaded.stdout.split()} <= listed


def test_the_base_is_pinned_by_digest_and_nothing_is_fetched_but_packages():
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert "\nARG BASE_IMAGE=debian:bookworm-slim@sha256:" in text
    assert "# syntax" not in text and "\nADD " not in text and "curl" not in text


def test_the_last_stage_is_the_default_target():
    stages = [
        line.split()[-1] for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines() if line[:5] == "FROM "
    ]
    assert stages[-1] == "cpu" and set(image.TARGETS) <= set(stages)


# ---- the builder's words ----


def build_flags(builder: str = "buildah", **changes) -> list[str]:
    return image_builder.build_flags(builder, settings(**changes), "cpu", "name:tag", "abc")


def test_the_builder_is_told_stage_name_and_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "an index")
    flags = build_flags(wheels=tmp_path, base_image="debian@sha256:1", build_flags="-v '/my certs:/etc/ssl'")
    assert flags[flags.index("--target") + 1] == "cpu" and flags[flags.index("--tag") + 1] == "name:tag"
    for argument in ("INPUTS=abc", "TORCH_INDEX=x", "BASE_IMAGE=debian@sha256:1", "PIP_INDEX_URL=an index"):
        assert flags[flags.index(argument) - 1] == "--build-arg"
    assert flags[-4:] == ["--build-context", f"wheels={tmp_path}", "-v", "/my certs:/etc/ssl"]


def test_an_empty_value_is_no_argument():
    assert not [flag for flag in build_flags() if flag.endswith("=")]


def test_intel_gets_no_second_mpi():
    assert "MPI_PACKAGE=" in build_flags(target="intel")
    assert "MPI_PACKAGE=" not in build_flags()


def test_buildah_and_podman_fix_the_times_in_layers():
    for builder in ("buildah", "podman"):
        assert image_builder.TIMESTAMP in image_builder.command(builder)
    assert f"SOURCE_DATE_EPOCH={image_builder.TIMESTAMP}" in build_flags("docker")


def test_skopeo_is_told_of_a_docker_elsewhere(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere")
    assert image_builder.daemon("dest") == ["--dest-daemon-host", "unix:///elsewhere"]
    monkeypatch.delenv("DOCKER_HOST")
    assert image_builder.daemon("dest") == []


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A directory that is all there is on PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def install(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


def test_the_first_builder_that_is_here_is_taken(programs):
    install(programs, "docker", "skopeo")
    assert image_builder.choose_builder("") == "docker"
    install(programs, "podman")
    assert image_builder.choose_builder("") == "podman"
    assert image_builder.choose_builder("docker") == "docker"


@pytest.mark.parametrize(
    ("wanted", "there", "words"),
    [
        ("", [], ["none of buildah, podman, docker is installed", "apt-get install buildah"]),
        ("podman", ["docker"], ["podman is not installed", "apt-get install podman"]),
        ("docker", ["docker"], ["docker: needs skopeo", "apt-get install skopeo"]),
        ("kaniko", [], ["kaniko", "is no builder", "buildah, podman, docker"]),
    ],
)
def test_a_missing_builder_is_named_with_the_way_to_get_it(programs, wanted, there, words):
    install(programs, *there)
    with pytest.raises(InputError) as error:
        image_builder.choose_builder(wanted)
    assert all(word in str(error.value) for word in words)


def test_a_docker_without_buildx_is_told_so_before_it_starts(programs):
    (programs / "docker").write_text("#!/bin/sh\nexit 1\n")
    (programs / "docker").chmod(0o755)
    with pytest.raises(InputError, match="no buildx") as error:
        image_builder.choose_builder("docker")
    assert len(error.value.problems) == 2


# ---- bad input ----


def test_all_that_is_wrong_is_said_at_once():
    wrong = settings(target="gpu", compression="lz4", wheels=Path("no/wheels"), base_image="oci-archive:no.tar")
    assert [line.split(":")[0] for line in image.check(wrong)] == ["TARGET", "COMPRESSION", "BASE_IMAGE", "WHEELS"]


def test_a_build_for_cpus_asks_where_its_torch_comes_from(monkeypatch):
    monkeypatch.setattr(image.platform, "machine", lambda: "x86_64")
    assert "TORCH_INDEX" in image.check(settings(torch_index=""))[0]
    assert image.check(settings(torch_index="", target="cuda")) == []


def test_intel_asks_for_the_index_of_its_binding():
    assert "ONECCL_INDEX" in image.check(settings(target="intel"))[0]


def test_a_wheel_folder_without_torch_is_named(tmp_path):
    assert "holds no wheel of torch" in image.check(settings(wheels=tmp_path))[0]


# ---- the layout ----


@pytest.fixture
def layout(tmp_path) -> Path:
    """An OCI layout of two layers, as builders write it."""
    blobs = tmp_path / "oci" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    steps = [{"created_by": "/bin/sh"}, {"created_by": "/bin/sh -c #(nop) ENV a=b", "empty_layer": True}]
    steps += [{"created_by": f"|1 A=b /bin/sh -c #(nop) COPY dir:{'a' * 64} in  /opt/venv"}]
    config = {"rootfs": {"diff_ids": ["sha256:x", "sha256:y"]}, "history": steps}
    (blobs / "c").write_text(json.dumps(config))
    layers = [{"digest": f"sha256:{name}", "mediaType": "tar", "size": 3} for name in ("1", "2")]
    manifest = {"config": {"digest": "sha256:c", "size": (blobs / "c").stat().st_size}, "layers": layers}
    (blobs / "m").write_text(json.dumps(manifest))
    for name in ("1", "2"):
        (blobs / name).write_text("abc")
    index = {"manifests": [{"digest": "sha256:m", "annotations": {"org.opencontainers.image.ref.name": "a/b:c"}}]}
    (tmp_path / "oci" / "index.json").write_text(json.dumps(index))
    return tmp_path / "oci"


def test_layers_are_described_with_the_steps_that_made_them(layout):
    described = image_layout.describe_layers(layout, [30, 40])
    assert [layer["created_by"] for layer in described] == ["/bin/sh", "COPY /opt/venv"]
    assert [(layer["diff_id"], layer["unpacked_size"]) for layer in described] == [("sha256:x", 30), ("sha256:y", 40)]


def test_the_layout_names_its_image_by_the_tag_alone(layout):
    image_layout.write_tag(layout, "cpu-1")
    descriptor, _, _ = image_layout.read_layout(layout)
    assert descriptor["annotations"] == {"org.opencontainers.image.ref.name": "cpu-1"}


def test_a_layout_is_whole_only_with_every_blob_at_its_size(layout):
    assert image_layout.is_whole(layout, "sha256:m")
    assert not image_layout.is_whole(layout, "sha256:other")
    (layout / "blobs" / "sha256" / "2").write_text("ab")
    assert not image_layout.is_whole(layout, "sha256:m")
    shutil.rmtree(layout)
    assert not image_layout.is_whole(layout, "sha256:m")


def test_a_new_layout_takes_the_place_of_the_old_one_with_its_blobs(layout, tmp_path):
    (tmp_path / "new").mkdir()
    image_layout.put_in_place(tmp_path / "new", layout)
    assert list(layout.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["oci"]
