"""`make push`, `make image-check` and `make image-remove`: what is wrong is said at once, before anything is touched.

.venv/bin/python -m pytest tests/unit/test_push_command.py
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import push

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


@pytest.fixture
def image(tmp_path, monkeypatch):
    """A built image, as far as `make push` looks at it, and no inventory but what a test gives."""
    record = tmp_path / "build" / "image.json"
    record.parent.mkdir()
    told = {"repository": "localhost/tunefleet", "tag": "cpu-1", "layout": "build/oci", "digest": DIGEST, "size": 5}
    record.write_text(json.dumps(told))
    for name, value in {"ROOT": tmp_path, "RECORD": record, "RESULT": record.with_name("push.json")}.items():
        monkeypatch.setattr(push, name, value)
    monkeypatch.setattr(push, "OWN_INVENTORY", tmp_path / "inventory.yml")
    monkeypatch.delenv("ANSIBLE_INVENTORY", raising=False)
    return record


@pytest.fixture
def skopeo(tmp_path, monkeypatch):
    """A program of that name: `copy` ends with the status in FAILS and notes its words, `inspect` prints MANIFEST."""
    program = tmp_path / "bin" / "skopeo"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = inspect ] && {{ printf %s "$SHOWN"; exit; }}\necho "$@" >>{tmp_path}/words\nexit $FAILS\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SHOWN", MANIFEST.decode())
    monkeypatch.setenv("FAILS", "0")
    return tmp_path / "words"


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["push", *words])
    return push.main()


def problems(monkeypatch, *words):
    with pytest.raises(push.InputError) as error:
        command(monkeypatch, *words)
    return "\n".join(error.value.problems)


def test_without_an_image_the_fix_is_to_build_one(image, monkeypatch):
    image.unlink()
    assert "make image" in problems(monkeypatch, "push", "--registry", "host/team")


def test_somewhere_to_push_to_must_be_given(image, monkeypatch):
    said = problems(monkeypatch, "push")
    assert "REGISTRY=" in said and "INVENTORY=" in said


def test_all_problems_are_told_at_once(image, monkeypatch):
    said = problems(monkeypatch, "push", "--registry", "https://host/team", "--inventory", "nowhere.yml")
    for word in ("only one of them", "without https://", "nowhere.yml: is not there"):
        assert word in said


def test_a_registry_is_asked_for_nothing_but_a_push(image, monkeypatch):
    assert "asks nodes" in problems(monkeypatch, "check", "--registry", "host/team")


def test_a_missing_skopeo_is_named_with_how_to_get_it(image, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install skopeo" in problems(monkeypatch, "push", "--registry", "host/team")


def test_the_registry_gets_the_manifest_as_it_is_and_its_digest_is_recorded(image, skopeo, monkeypatch):
    assert command(monkeypatch, "push", "--registry", "host:5000/team/") == 0
    words = skopeo.read_text()
    assert "--preserve-digests" in words and "docker://host:5000/team/tunefleet:cpu-1" in words
    assert "--dest-tls-verify=true" in words
    told = json.loads(image.with_name("push.json").read_text())
    assert told["reference"] == f"host:5000/team/tunefleet@{DIGEST}"


def test_plain_http_only_when_asked_for(image, skopeo, monkeypatch):
    command(monkeypatch, "push", "--registry", "host/team", "--registry-insecure")
    assert "--dest-tls-verify=false" in skopeo.read_text()


def test_a_check_pushes_nothing_to_a_registry(image, skopeo, monkeypatch):
    assert command(monkeypatch, "push", "--registry", "host/team", "--check") == 0
    assert not skopeo.exists()


def test_a_failed_push_says_how_to_log_in(image, skopeo, monkeypatch, capsys):
    monkeypatch.setenv("FAILS", "1")
    assert command(monkeypatch, "push", "--registry", "host:5000/team") == 1
    assert "skopeo login host:5000" in capsys.readouterr().err


def test_a_registry_that_shows_another_image_is_an_error(image, skopeo, monkeypatch, capsys):
    monkeypatch.setenv("SHOWN", "{}")
    assert command(monkeypatch, "push", "--registry", "host/team") == 1
    assert DIGEST in capsys.readouterr().err
    assert not image.with_name("push.json").exists()


@pytest.mark.parametrize("status, expected", [(0, 0), (2, 1), (4, 1)])
def test_a_failed_node_is_status_1_whatever_ansible_says(image, monkeypatch, status, expected):
    """Ansible's 2 (a host failed) and 4 (unreachable) are no bad input here."""
    seen = {}

    class Process:
        def __init__(self, argv, cwd):
            seen.update(argv=argv, cwd=cwd)

        def wait(self):
            return status

    monkeypatch.setattr(subprocess, "Popen", Process)
    wishes = ("--limit", "node1", "--check", "--force", "--ansible-flags=-v --ask-become-pass")
    assert command(monkeypatch, "remove", "--inventory", "node1,node2", *wishes) == expected
    assert seen["argv"][1:4] == ["remove-image.yml", "--inventory", "node1,node2"]
    assert seen["argv"][-5:] == ["--limit", "node1", "--check", "-v", "--ask-become-pass"]
    variables = json.loads(seen["argv"][seen["argv"].index("--extra-vars") + 1])
    assert variables["tunefleet_image_force"] is True


def test_an_inventory_of_ones_own_beside_the_playbooks_is_found(image, monkeypatch, tmp_path):
    (tmp_path / "inventory.yml").write_text("all:\n")
    assert push.default_inventory() == str(tmp_path / "inventory.yml")
    monkeypatch.setenv("ANSIBLE_INVENTORY", "elsewhere.ini")
    assert push.default_inventory() == "elsewhere.ini"
