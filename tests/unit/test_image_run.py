"""Containers of the image, up to what needs no engine: what they are told, what they see, bad input.

.venv/bin/python -m pytest tests/unit/test_image_run.py
"""

import json
import os
import sys
from pathlib import Path

import pytest

from scripts import image_engine, image_run
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
RECORD = {
    "name": "localhost/tunefleet:cpu-1",
    "tag": "cpu-1",
    "target": "cpu",
    "digest": "sha256:1",
    "layout": "build/oci",
}


def mounts(words: list[str]) -> dict[str, bool]:
    """Of every mount its place inside, and whether it is read-only."""
    flags = [words[number + 1] for number, word in enumerate(words) if word == "--mount"]
    return {flag.split("target=")[1].split(",")[0]: flag.endswith(",readonly") for flag in flags}


def test_only_the_runs_can_be_written_in_a_container(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "rows.json").write_text("[]")
    given = ["--overlay", "demo", "--data", str(tmp_path / "rows.json"), "--runs-dir", str(tmp_path / "runs")]
    words = image_run.chain_command("docker", RECORD, given)
    found = mounts(words)
    assert found.pop(str(tmp_path / "runs")) is False
    assert all(found.values())
    assert {str(tmp_path / "rows.json"), str(ROOT / "demo"), "/opt/tunefleet/kustomize"} <= set(found)
    for flag in ("--read-only", "no-new-privileges", f"{os.getuid()}:{os.getgid()}"):
        assert flag in words
    assert words[words.index("--cap-drop") + 1] == "ALL" and words[words.index("--network") + 1] == "none"
    assert words[-len(given) :] == given


def test_the_store_is_mounted_and_what_lies_in_it_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "store" / "datasets" / "rows").mkdir(parents=True)
    given = ["--overlay", "demo", "--data", "rows", "--runs-dir", str(tmp_path / "runs")]
    monkeypatch.setenv("STORE", str(tmp_path / "none"))
    assert "DATA: rows: is not there" in "".join(image_run.missing(given))
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    assert image_run.missing(given) == []
    words = image_run.chain_command("docker", RECORD, given)
    assert mounts(words)[str(tmp_path / "store")] is True
    assert words[words.index(f"STORE={tmp_path / 'store'}") - 1] == "--env"


def test_where_links_in_a_model_lead_to_is_mounted_too(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to("../blobs/1")
    named = image_run.named_paths(["--overlay", "demo", "--model", str(tmp_path / "model")])
    assert {tmp_path / "model", tmp_path / "blobs"} <= named


def test_files_of_the_recipe_and_of_settings_are_mounted(tmp_path):
    (tmp_path / "rows.json").touch()
    assert tmp_path / "rows.json" in image_run.named_paths(["--set", f"train_file={tmp_path}/rows.json"])
    assert ROOT / "demo" / "model" in image_run.named_paths(["--overlay", "demo"])


def test_missing_files_are_said_before_a_container_starts_but_hub_names_are_not_files():
    problems = image_run.missing(["--model", "no/such/model", "--data", "no.json", "--validation-data", "n.json"])
    assert [line.split(":")[0] for line in problems] == ["MODEL", "DATA", "VALIDATION_DATA"]
    assert image_run.missing(["--model", "owner/name"]) == []


def test_without_an_image_the_way_to_one_is_said(monkeypatch):
    monkeypatch.setattr(image_run, "read_record", lambda: None)
    monkeypatch.setattr(sys, "argv", ["image_run", "chain"])
    with pytest.raises(InputError, match=r"no image was built\n  fix: make image"):
        image_run.main()


def test_an_engine_is_podman_or_docker_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="neither podman nor docker"):
        image_engine.choose_engine("buildah")
    (tmp_path / "docker").touch(mode=0o755)
    assert image_engine.choose_engine("") == "docker"
    with pytest.raises(InputError, match="podman is not installed"):
        image_engine.choose_engine("podman")


def test_a_reproduction_sees_model_and_rows_of_the_runs_record(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.json").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    record = {"model_path": str(tmp_path / "model"), "data": {"sources": {str(tmp_path / "rows.json"): {}, "gone": {}}}}
    (tmp_path / "runs" / "a" / "run.json").write_text(json.dumps(record))
    given = ["--run", "a", "--runs-dir", str(tmp_path / "runs")]
    words = image_run.chain_command("docker", RECORD, given, image_run.PROGRAMS["reproduce"])
    assert words[-len(given) - 3 :] == ["python", "-m", "scripts.reproduce", *given]
    assert {str(tmp_path / "model"), str(tmp_path / "rows.json")} <= set(mounts(words))
    (tmp_path / "runs" / "a" / "run.json").write_text("{")
    assert str(tmp_path / "model") not in mounts(image_run.chain_command("docker", RECORD, given, "scripts.reproduce"))
