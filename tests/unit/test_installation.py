"""Making .venv, up to what can be tried without network, and the locks it installs.

.venv/bin/python -m pytest tests/unit/test_installation.py
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.lock import without_torch

ROOT = Path(__file__).resolve().parents[2]


# ---- the virtual environment ----


def install(tmp_path: Path, what: str = "base", **environment: str) -> subprocess.CompletedProcess:
    """Run scripts/venv.sh in a directory of its own, up to what is wrong there."""
    for name in ("requirements-torch.txt", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    given = {"PATH": os.environ["PATH"], "PYTHON3": "python3", "TORCH_INDEX": "", "WHEELS": ""} | environment
    command = ["bash", str(ROOT / "scripts" / "venv.sh"), what]
    return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)


def fake_python(tmp_path: Path, body: str) -> str:
    program = tmp_path / "fake-python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_a_missing_python_is_named_with_the_way_to_get_it(tmp_path):
    result = install(tmp_path, PYTHON3="python3-of-nowhere")
    assert result.returncode == 2
    assert "there is no python3-of-nowhere" in result.stderr
    assert "apt-get install python3 python3-venv" in result.stderr


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = fake_python(tmp_path, 'case "$1" in --version) echo Python 3.8.1;; *) exit 1;; esac')
    result = install(tmp_path, PYTHON3=old)
    assert result.returncode == 2
    assert "Python 3.8.1 is too old: 3.11 or later" in result.stderr


def test_a_python_without_the_venv_module_is_named(tmp_path):
    bare = fake_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    result = install(tmp_path, PYTHON3=bare)
    assert result.returncode == 2
    assert "apt-get install python3-venv" in result.stderr


@pytest.fixture
def installed(tmp_path) -> Path:
    """A directory with a .venv whose Python only writes down what it is asked to do."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    Path(fake_python(tmp_path, f'echo "$*" >> "{tmp_path}/calls"')).rename(binaries / "python")
    (tmp_path / ".venv" / ".made").touch()
    return tmp_path


def pip_calls(directory: Path) -> list[str]:
    calls = (directory / "calls").read_text().splitlines()
    return [call.removeprefix("-m pip --quiet --quiet ") for call in calls if " install " in call]


LOCKED = "--no-deps --require-hashes -r requirements.txt"


@pytest.mark.parametrize(
    ("variables", "calls"),
    [
        ({}, ["install -r requirements-torch.txt", f"install {LOCKED}"]),
        ({"TORCH_INDEX": "index"}, ["install --index-url index -r requirements-torch.txt", f"install {LOCKED}"]),
        (
            {"WHEELS": "."},
            [
                "install --no-index --find-links . -r requirements-torch.txt",
                f"install --no-index --find-links . {LOCKED}",
            ],
        ),
    ],
    ids=["as pip is configured", "TORCH_INDEX", "WHEELS"],
)
def test_torch_is_installed_first_and_the_rest_by_its_hashes(installed, variables, calls):
    assert install(installed, **variables).returncode == 0
    assert pip_calls(installed) == calls


def test_a_package_that_an_interruption_left_half_done_is_installed_again(installed):
    packages = installed / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("half-1.0.dist-info", "whole-1.0.dist-info", "~alf"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.0.dist-info" / "INSTALLER").touch()
    result = install(installed, "dev")
    assert result.returncode == 0
    assert "half-1.0" in result.stderr
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_a_wheel_folder_that_is_not_there_is_named(installed):
    result = install(installed, WHEELS="no/wheels")
    assert result.returncode == 2
    assert "WHEELS: no/wheels is no directory" in result.stderr


def test_fetching_wheels_asks_for_the_folder(tmp_path):
    result = install(tmp_path, "download")
    assert result.returncode == 2
    assert "make wheels WHEELS=folder" in result.stderr


# ---- locks ----


def locked(name: str) -> dict[str, str]:
    entries = re.findall(r"^([a-z0-9][\w.-]*)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", lock(name), re.M)
    assert len(entries) == len(re.findall(r"^[a-z0-9].*==", lock(name), re.MULTILINE)), "an entry has no hash"
    return {package: version for package, version, _ in entries}


def lock(name: str) -> str:
    return (ROOT / name).read_text()


def wanted(name: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*)", lock(name), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_package_asked_for_is_locked(name):
    assert wanted(f"{name}.in")
    assert wanted(f"{name}.in") <= set(locked(f"{name}.txt"))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_holds_no_torch_and_no_address(name):
    assert not [package for package in locked(name) if re.match(r"torch$|triton$|nvidia-|cuda-", package)]
    assert not re.search(r"://|--(index|extra|find|trusted)", lock(name))


def test_both_locks_agree_on_what_they_share():
    base, dev = locked("requirements.txt"), locked("requirements-dev.txt")
    assert {name: dev[name] for name in base.keys() & dev.keys()} == {n: base[n] for n in base.keys() & dev.keys()}


def test_dateutil_is_one_that_botocore_takes():
    assert int(locked("requirements.txt")["python-dateutil"].split(".")[0]) < 3


def test_locking_drops_torch_and_its_companions_with_their_hashes():
    kept = "sympy==1 \\\n    --hash=a\n    # via torch\n"
    text = f"{kept}torch==2 \\\n    --hash=b\n    # via peft\nnvidia-nccl-cu13==3\ntqdm==4\n"
    assert without_torch(text) == f"{kept}tqdm==4\n"
