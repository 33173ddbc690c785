"""make deliver: into a store through a kubectl whose pod is here, with cuts, wrong bytes and every bad input.

.venv/bin/python -m pytest tests/unit/test_deliver.py
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.cluster import store_client
from scripts.cluster.deliver_link import Link
from scripts.cluster.kubectl import Cluster, Refused
from train import stored
from train.files import hash_file, write_json

ROOT = Path(__file__).resolve().parents[2]
NEAR = ROOT / "tests" / "unit" / "near_kubectl.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZE = 3_000_000
MODEL = stored.Artifact("model", "owner/tiny", COMMIT)


@pytest.fixture
def fake(tmp_path) -> Path:
    """Where the near kubectl and its store lie."""
    (tmp_path / "fake" / "store").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{NEAR}" "$@"\n')
    program.chmod(0o755)
    return tmp_path / "fake"


@pytest.fixture
def here(tmp_path) -> Path:
    """The store of this machine, with a model of two files in it that was fetched as main."""
    store = tmp_path / "here"
    incoming = MODEL.incoming(store)
    (incoming / "sub").mkdir(parents=True)
    (incoming / "config.json").write_text("{}")
    (incoming / "sub" / "weights").write_bytes(random.Random(0).randbytes(SIZE))
    files = {
        name: {"size": (incoming / name).stat().st_size, "sha256": hash_file(incoming / name)}
        for name in ("config.json", "sub/weights")
    }
    stored.publish(MODEL, store, files, {"source": {"host": "hub"}, "licence": "mit"})
    stored.remember(MODEL, store, "main")
    return store


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "scripts.deliver", *words]


def environment(fake: Path, store: Path | None) -> dict[str, str]:
    path = f"{fake.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "FAKE": str(fake), "STORE": str(store or "")}


def deliver(fake: Path, store: Path | None, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        command(*words), cwd=ROOT, env=environment(fake, store), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def arrived(fake: Path, store: Path) -> bool:
    """Whether the far store has the model just as it lies here."""
    far = fake / "store" / MODEL.path
    if stored.damage(far):
        return False
    return hash_file(far / "tunefleet.json") == hash_file(store / MODEL.path / "tunefleet.json")


def test_a_model_arrives_with_its_manifest_and_its_names_and_the_far_hashes_are_printed(fake, here):
    said = deliver(fake, here, "--model", "owner/tiny")
    assert arrived(fake, here)
    for name in ("config.json", "sub/weights", "tunefleet.json"):
        assert hash_file(here / MODEL.path / name) in said
    assert stored.find(fake / "store", "model", "owner/tiny", None) == fake / "store" / MODEL.path
    assert {path.suffix for path in (fake / "store/models/.incoming").iterdir()} == {".lock"}, "nothing else is left"


def test_a_second_delivery_sends_nothing(fake, here):
    deliver(fake, here, "--model", "owner/tiny")
    before = (fake / "store" / MODEL.path / "sub/weights").stat().st_ino
    assert "is there already" in deliver(fake, here, "--model", "owner/tiny", "--revision", COMMIT)
    assert (fake / "store" / MODEL.path / "sub/weights").stat().st_ino == before


def test_a_cut_goes_on_by_itself_from_the_byte_where_it_was(fake, here):
    (fake / "cut").write_text("1500000")
    said = deliver(fake, here, "--model", "owner/tiny")
    assert "unexpected EOF" in said or "went away in the middle" in said
    assert arrived(fake, here)
    assert (fake / "calls").read_text().count("exec") == 2
    sent = float(said.split(" MB in ")[0].split()[-1])
    assert sent <= SIZE / 1e6 + 0.1


def test_a_killed_delivery_goes_on_from_what_lies_there(fake, here):
    (fake / "slow").write_text("0.02")
    process = subprocess.Popen(command("--model", "owner/tiny"), cwd=ROOT, env=environment(fake, here),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    part = MODEL.incoming(fake / "store") / "sub/weights"
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 500_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    inode = part.stat().st_ino
    (fake / "slow").unlink()
    said = deliver(fake, here, "--model", "owner/tiny")
    assert arrived(fake, here)
    assert (fake / "store" / MODEL.path / "sub/weights").stat().st_ino == inode
    assert "of 3.0 MB are there already" in said


def test_a_part_that_is_not_the_beginning_of_the_file_is_not_gone_on_with(fake, here):
    part = MODEL.incoming(fake / "store") / "sub/weights"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another version" * 1000)
    assert "other bytes lie there than here; it is sent again" in deliver(fake, here, "--model", "owner/tiny")
    assert arrived(fake, here)


def test_a_part_of_the_right_size_with_wrong_bytes_is_sent_anew(fake, here):
    part = MODEL.incoming(fake / "store") / "sub/weights"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(SIZE))
    deliver(fake, here, "--model", "owner/tiny")
    assert arrived(fake, here)


def test_what_arrived_damaged_is_sent_again(fake, here):
    (fake / "spoil").write_text("2000000")
    assert "sub/weights: other bytes lie there than here; it is sent again" in deliver(
        fake, here, "--model", "owner/tiny"
    )
    assert arrived(fake, here)


def test_whoever_comes_second_waits_and_then_finds_it_there(fake, here):
    with stored.lock(MODEL, fake / "store"):
        process = subprocess.Popen(command("--model", "owner/tiny"), cwd=ROOT, env=environment(fake, here), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert "is putting the same into the store" in process.stderr.readline()
    assert process.wait(60) == 0, process.stderr.read()
    assert arrived(fake, here)


def test_a_directory_and_a_file_that_nobody_fetched_are_named_by_their_content(fake, tmp_path):
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / ".hidden").write_text("no")
    said = deliver(fake, None, "--model", str(model))
    (found,) = stored.published(fake / "store")
    assert found.parent.name == "my-model" and found.name.startswith("sha256-") and str(found) in said
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    deliver(fake, None, "--data", str(rows))
    found = stored.find(fake / "store", "dataset", "rows", None)
    assert found.name == f"sha256-{hash_file(rows)[:16]}" and (found / "rows.jsonl").read_bytes() == rows.read_bytes()
    assert json.loads((found / "tunefleet.json").read_text())["licence"] is None


def test_a_broken_artifact_there_is_replaced(fake, here):
    deliver(fake, here, "--model", "owner/tiny")
    (fake / "store" / MODEL.path / "sub/weights").write_bytes(b"short")
    deliver(fake, here, "--model", "owner/tiny")
    assert arrived(fake, here)


# ---- what a person may give wrong ----


def test_a_model_that_is_not_here_is_answered_with_what_is(fake, here):
    said = deliver(fake, here, "--model", "owner/absent", code=2)
    assert "MODEL: owner/absent is not in the store" in said and "owner/tiny@0123456789ab" in said
    assert "make fetch-model MODEL=owner/absent" in said


def test_a_revision_that_is_not_here_is_named(fake, here):
    assert "in revision v2 is not in the store" in deliver(
        fake, here, "--model", "owner/tiny", "--revision", "v2", code=2
    )


def test_all_that_is_wrong_with_the_line_is_told_at_once(fake, here):
    said = deliver(fake, here, "--model", "a/b", "--data", "c", "--to", "nowhere", code=2)
    assert "TO: nowhere: is no place to deliver to" in said and "MODEL, DATA: both are given" in said
    assert "2 problems" in said
    assert "MODEL, DATA: neither is given" in deliver(fake, here, code=2)


def test_a_file_that_became_shorter_here_is_not_sent(fake, here):
    (here / MODEL.path / "sub/weights").write_bytes(b"short")
    said = deliver(fake, here, "--model", "owner/tiny", code=2)
    assert "has 5 bytes, and 3,000,000 by the manifest beside it" in said and "make fetch-model" in said
    assert not (fake / "calls").exists()


def test_a_file_that_is_missing_here_is_named(fake, here):
    (here / MODEL.path / "config.json").unlink()
    assert "config.json: is missing, and the manifest" in deliver(fake, here, "--model", "owner/tiny", code=2)


def test_a_file_with_other_bytes_here_is_found_out_and_never_published_there(fake, here):
    (here / MODEL.path / "sub/weights").write_bytes(bytes(SIZE))
    said = deliver(fake, here, "--model", "owner/tiny", code=2)
    assert "weights: is not what its manifest says" in said and "make verify-model MODEL=owner/tiny" in said
    assert stored.published(fake / "store") == []


def test_a_store_that_is_too_full_is_known_before_the_first_byte(fake, tmp_path):
    artifact, store = stored.Artifact("model", "owner/huge", COMMIT), tmp_path / "here"
    incoming = artifact.incoming(store)
    incoming.mkdir(parents=True)
    size = 8 * 10**12
    with (incoming / "weights").open("wb") as file:
        file.truncate(size)  # takes no room here
    write_json(incoming / stored.MANIFEST, stored.manifest(artifact, {"weights": {"size": size, "sha256": "0"}}, {}))
    (store / artifact.path).parent.mkdir(parents=True)
    incoming.rename(store / artifact.path)
    said = deliver(fake, store, "--model", "owner/huge", "--revision", COMMIT, code=2)
    assert "too few for owner/huge" in said and "make remove-model" in said
    assert not (artifact.incoming(fake / "store") / "weights").exists()


@pytest.mark.parametrize(
    "words",
    ['Error from server (NotFound): namespaces "finetune" not found',
     'Error from server (NotFound): deployments.apps "data-access" not found',
     "error: timed out waiting for the condition"],
)  # fmt: skip
def test_without_a_pod_at_the_store_it_says_what_makes_one(fake, here, words):
    (fake / "absent").write_text(words)
    said = deliver(fake, here, "--model", "owner/tiny", code=2)
    assert "no pod answers for the store" in said and "make cluster-setup" in said


def test_a_far_end_that_says_what_is_no_message_ends_the_connection(fake, monkeypatch):
    program = fake.parent / "bin" / "kubectl"
    program.write_text("#!/bin/sh\necho 'sh: warning'\nexec cat > /dev/null\n")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Refused, match="says what is no message: sh: warning"):  # while it is begun, or afterwards
        link = Link(Cluster("", "team"), lambda count: None)
        assert link.messages.get(timeout=30) is None
        raise link.gone()


def test_a_directory_that_is_no_model_is_refused(fake, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no file" in deliver(fake, None, "--model", str(tmp_path / "empty"), code=2)
    (tmp_path / "empty" / "notes.txt").write_text("x")
    assert "config.json is missing" in deliver(fake, None, "--model", str(tmp_path / "empty"), code=2)


def test_what_travels_to_the_pod_needs_only_the_standard_library_and_itself():
    names, sent = set(), store_client.texts("scripts.store_receive")
    for text in sent.values():
        for line in text.splitlines():
            if line.startswith(("import ", "from ")):
                names.add(line.split()[1])
    own = {name for name in names if name.startswith(("train", "scripts"))}
    assert own <= set(sent) and own
    assert {name.split(".")[0] for name in names - own} <= sys.stdlib_module_names
