"""The image, built for real without a network, and run: minutes long.

make test-image WHEELS=folder
"""

import hashlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

pytestmark = pytest.mark.image


def record(world) -> dict:
    return json.loads((world.checkout / "build" / "image.json").read_text())


def inside(world, *words: str, user: str = "1000:1000") -> str:
    """What a command prints in the image, locked down."""
    command = ["podman", "run", "--rm", "--read-only", "--network", "none", "--cap-drop", "ALL", "--user", user]
    command += [record(world)["name"], *words]
    return subprocess.run(command, env=world.environment, capture_output=True, text=True, check=True).stdout


def test_the_image_is_built_without_a_network_from_wheels_and_a_base_archive(world, image):
    found = record(world)
    assert found["name"] == f"localhost/tunefleet:{found['tag']}"
    assert found["tag"] == f"cpu-{found['inputs'][:12]}"
    assert f"building {found['name']}" in image.printed
    assert found["versions"]["torch"].startswith("2.") and found["versions"]["openmpi-bin"]


def test_the_layout_holds_every_blob_under_its_own_hash_and_none_besides(world, image):
    found, layout = record(world), world.checkout / "build" / "oci"
    index = json.loads((layout / "index.json").read_text())["manifests"]
    assert [one["annotations"] for one in index] == [{"org.opencontainers.image.ref.name": found["tag"]}]
    assert index[0]["digest"] == found["digest"]
    expected = {found["digest"], found["config"], *(layer["digest"] for layer in found["layers"])}
    blobs = list((layout / "blobs" / "sha256").iterdir())
    assert {f"sha256:{path.name}" for path in blobs} == expected
    for path in blobs:
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == path.name
    assert {layer["media_type"] for layer in found["layers"]} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    assert found["size"] == sum(path.stat().st_size for path in blobs if path.name != found["digest"][7:])


def test_unchanged_inputs_build_nothing(world, make, image):
    before = (world.checkout / "build" / "image.json").stat().st_mtime_ns
    started = time.monotonic()
    printed = make(*image.words, before=("unshare", "--net"))
    assert f"{record(world)['name']} is up to date" in printed
    assert time.monotonic() - started < 20
    assert (world.checkout / "build" / "image.json").stat().st_mtime_ns == before


def test_the_image_passes_its_own_test(make, image):
    printed = make("image-test")
    assert "image-test: passed" in printed
    assert "mpirun, two ranks over ssh" in printed and "a fine-tune of the demo's model" in printed


def test_the_bill_of_materials_is_cyclonedx_and_names_both_kinds_of_packages(world, image):
    text = inside(world, "cat", "/usr/share/tunefleet/sbom.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    components = json.loads(text)["components"]
    assert {one["purl"].split("/")[0] for one in components} == {"pkg:deb", "pkg:pypi"}
    licensed = [one for one in components if one.get("licenses")]
    assert len(licensed) > 0.75 * len(components)


def test_every_locked_package_and_no_other_is_in_the_image(world, image):
    code = "from importlib.metadata import distributions as d; print(*sorted(f'{x.name}=={x.version}' for x in d()))"
    found = {word.lower().replace("_", "-").replace(".", "-") for word in inside(world, "python", "-c", code).split()}
    lock = (world.checkout / "requirements.txt").read_text().splitlines()
    locked = {line.split()[0].lower().replace("_", "-").replace(".", "-") for line in lock if line[:1].isalnum()}
    assert len(locked) > 50 and locked <= found
    assert {word.split("==")[0] for word in found - locked} == {"torch", "intel-openmp"}


def test_a_user_whom_the_image_does_not_know_can_run_the_programs(world, image):
    assert "usage: " in inside(world, "python", "-m", "train.evaluate", "--help", user="54321:54321")


def test_the_files_in_the_image_are_those_that_the_tag_is_made_from(world, image):
    listing = inside(
        world, "sh", "-c", "cd /opt/tunefleet && find train scripts schemas -type f ! -name '*.pyc'"
    ).split()
    code = "from scripts.image_inputs import ROOT, copied_files; print(*(p.relative_to(ROOT) for p in copied_files()))"
    hashed = subprocess.run(["python3", "-c", code], cwd=world.checkout, capture_output=True, text=True, check=True)
    own = [name for name in hashed.stdout.split() if name.startswith(("train/", "scripts/", "schemas/"))]
    assert sorted(listing) == sorted(own)


# ---- the chain ----

FEW_STEPS = "SET=num_train_epochs= max_steps=4 max_eval_samples=8"


def test_the_chain_runs_in_the_image_under_the_name_it_has_outside(world, make, image, tmp_path):
    runs = tmp_path / "my runs"
    printed = make("run", "IN_IMAGE=1", f"RUNS={runs}", FEW_STEPS, "UNTIL=merge")
    run = next(runs.iterdir())
    kept = json.loads((run / "run.json").read_text())
    assert kept["image"] == f"{record(world)['name']}@{record(world)['digest']}"
    assert (run / "merged" / "model.safetensors").exists()
    assert {path.stat().st_uid for path in run.rglob("*")} == {os.getuid()}
    again = make("run", "IN_IMAGE=1", f"RUNS={runs}", FEW_STEPS, "UNTIL=merge")
    assert f"run {run}" in printed and "--- train: done before" in again


def test_an_interrupt_reaches_the_run_and_nothing_is_left_running(world, image, tmp_path):
    command = ["make", "run", "IN_IMAGE=1", f"RUNS={tmp_path}", "SET=seed=5"]
    process = subprocess.Popen(
        command, cwd=world.checkout, env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 1/"):
            os.killpg(process.pid, 2)  # as a terminal does on Ctrl-C
    watchdog.cancel()
    assert process.wait() in (2, -2), "".join(lines)  # make's own exit code, or make stopped by the interrupt too
    assert "Error 130" in "".join(lines) and "stopped in stage train" in "".join(lines)
    listing = ["podman", "ps", "--quiet"]
    assert subprocess.run(listing, env=world.environment, capture_output=True, text=True, check=True).stdout == ""


# ---- changes: these come last, since they change the image ----


def test_a_change_in_train_changes_one_small_layer(world, make, image):
    before = record(world)
    with (world.checkout / "train" / "files.py").open("a") as file:
        file.write("\n# changed\n")
    make(*image.words)
    after = record(world)
    assert after["tag"] != before["tag"]
    assert [a["diff_id"] == b["diff_id"] for a, b in zip(after["layers"], before["layers"], strict=True)].count(
        False
    ) == 1
    assert [a["digest"] == b["digest"] for a, b in zip(after["layers"], before["layers"], strict=True)].count(
        False
    ) == 1
    assert after["layers"][-1]["digest"] != before["layers"][-1]["digest"]
    assert after["layers"][-1]["size"] < 1_000_000


def test_what_was_built_can_be_removed(world, make, image):
    make("image-clean", "BUILDER=buildah")
    assert not Path(world.checkout, "build").exists()
    listing = ["buildah", "images", "--format", "{{.Name}}"]
    names = subprocess.run(listing, env=world.environment, capture_output=True, text=True, check=True).stdout
    assert "tunefleet" not in names
