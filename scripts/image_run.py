"""Programs inside the image on this machine: `make run IN_IMAGE=1`, `make reproduce IN_IMAGE=1`, `make image-test`.

    python -m scripts.image_run chain --overlay demo --runs-dir runs
    python -m scripts.image_run reproduce --run demo-13b7f276 --runs-dir runs
    python -m scripts.image_run test

`chain` takes the arguments of scripts.run, `reproduce` those of scripts.reproduce.
Needs Python's own library, an image (make image) and podman or docker.
The names of files are the same inside, so a run has the same name, and goes on, inside and outside.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.image_engine import choose_engine, load, locked_down, mount
from scripts.image_inputs import ROOT, files_hash
from scripts.image_layout import LAYOUT, is_whole, read_record
from train.errors import InputError, problem, run_program

INSIDE = Path("/opt/tunefleet")
PROGRAMS = {"chain": "scripts.run", "reproduce": "scripts.reproduce"}
PATH_FLAGS = ("--model", "--data", "--validation-data")


def main() -> int:
    what, given = sys.argv[1:2], sys.argv[2:]
    if what not in (["test"], *([name] for name in PROGRAMS)):
        sys.exit(__doc__)
    record = read_record()
    if record is None or not is_whole(LAYOUT, record["digest"]):
        raise InputError(problem("build/image.json", "", "is not there or not whole: no image was built", "make image"))
    if record["sources"] != files_hash():
        print(
            "image: built from other sources than this checkout's; `make image` builds the present ones",
            file=sys.stderr,
        )
    problems = [] if what == ["test"] else missing(given)
    if problems:
        raise InputError(problems)
    engine = choose_engine(os.environ.get("BUILDER", ""))
    load(engine, record)
    words = (
        test_command(engine, record) if what == ["test"] else chain_command(engine, record, given, PROGRAMS[what[0]])
    )
    sys.stdout.flush()
    # In this process's place: a Ctrl-C and the exit code go straight from one to the other.
    os.execvp(words[0], words)


# ---- the chain ----


def chain_command(engine: str, record: dict, given: list[str], program: str = "scripts.run") -> list[str]:
    """The container that runs a program in this checkout, with what its arguments name and nothing else."""
    runs = Path(value_of(given, "--runs-dir") or "runs").absolute()
    runs.mkdir(parents=True, exist_ok=True)
    words = locked_down(engine, record, f"{os.getuid()}:{os.getgid()}")
    words += [*mount(ROOT / "kustomize", INSIDE / "kustomize"), *mount(ROOT / "demo"), *mount(runs, writable=True)]
    mounted = (ROOT / "demo", runs)
    words += [flag for path in sorted(named_paths(given)) if not within(path, mounted) for flag in mount(path)]
    hub = hub_cache()
    if hub.is_dir():
        words += [*mount(hub), "--env", f"HF_HUB_CACHE={hub}"]
    if store():
        words += [*mount(store()), "--env", f"STORE={store()}"]
    words += ["--env", f"TUNEFLEET_IMAGE={record['name']}@{record['digest']}", "--env", f"TUNEFLEET_COMMIT={commit()}"]
    return [*words, "--workdir", str(Path.cwd()), record["name"], "python", "-m", program, *given]


def value_of(given: list[str], flag: str) -> str:
    """What follows a flag, empty where it is not given."""
    return given[given.index(flag) + 1] if flag in given[:-1] else ""


def missing(given: list[str]) -> list[str]:
    """Problems of files and directories on the make line that are not there; a name may be in store or cache."""
    problems = []
    for flag in PATH_FLAGS:
        value = value_of(given, flag)
        on_the_hub = flag == "--model" and re.fullmatch(r"[\w.-]+/[\w.-]+", value)
        stored = bool(store() and value) and any((store() / kind / value).is_dir() for kind in ("models", "datasets"))
        if value and not Path(value).exists() and not on_the_hub and not stored:
            key = flag[2:].upper().replace("-", "_")
            problems.append(problem(key, value, "is not there", "give the path of a file or directory on this machine"))
    return problems


def named_paths(given: list[str]) -> set[Path]:
    """Every file and directory that the arguments, the use case's recipe or the run's record name.

    With them, where links in them lead to.
    """
    recipe = ROOT / "kustomize" / "overlays" / value_of(given, "--overlay") / "train.yaml"
    words = [word for word in given if word != value_of(given, "--runs-dir")]
    words += recipe.read_text().splitlines() if recipe.is_file() else []
    words += recorded_names(Path(value_of(given, "--runs-dir") or "runs") / value_of(given, "--run") / "run.json")
    values = [re.sub(r"^\w+(=|: *)", "", word).partition(" #")[0].strip(" \"'") for word in words]
    paths = {Path(value).absolute() for value in values if is_there(value)}
    links = [link for path in paths if path.is_dir() for link in path.rglob("*") if link.is_symlink() and link.exists()]
    return paths | {link.resolve().parent for link in links}


def recorded_names(record: Path) -> list[str]:
    """Model and rows of a run that is there already, as it named them; a reproduction has no other word for them."""
    try:
        content = json.loads(record.read_text())
    except (OSError, ValueError):
        return []  # a new run; what is wrong with a record, the program itself says
    return [content.get("model_path") or "", *((content.get("data") or {}).get("sources") or {})]


def within(path: Path, directories: tuple[Path, ...]) -> bool:
    """Whether a path is one of the directories or lies in one."""
    return any(directory == path or directory in path.parents for directory in directories)


def is_there(value: str) -> bool:
    """Whether a word is the path of something; a long text, such as a prompt, is no path at all."""
    try:
        return bool(value) and Path(value).exists()
    except OSError:
        return False


def store() -> Path | None:
    """The store of this machine, None where there is none yet."""
    given = os.environ.get("STORE", "")
    return Path(given).absolute() if given and Path(given).is_dir() else None


def hub_cache() -> Path:
    """Where the hub's libraries keep models on this machine."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").absolute()


def commit() -> str:
    """The commit of this checkout; empty where there is no git or no repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


# ---- the test ----


def test_command(engine: str, record: dict) -> list[str]:
    """The container that tests the image, as user 1000."""
    words = locked_down(engine, record, "1000:1000")
    # sshd's key lies where MPI Operator mounts it. The two hosts are this one by other names: mpirun takes ssh to them.
    words += [
        "--tmpfs",
        "/home/mpiuser/.ssh:rw,mode=1777",
        "--add-host",
        "first:127.0.0.2",
        "--add-host",
        "second:127.0.0.3",
    ]
    words += [*mount(ROOT / "kustomize", INSIDE / "kustomize"), *mount(ROOT / "demo", INSIDE / "demo")]
    words += mount(ROOT / "docker" / "image-test.sh", Path("/image-test.sh"))
    return [*words, record["name"], "bash", "/image-test.sh"]


if __name__ == "__main__":
    run_program(main)
