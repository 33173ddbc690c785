"""make fetch-data from a URL and from a file: the right bytes, rows, resumed; and what is said to wrong words.

.venv/bin/python -m pytest tests/unit/test_fetch_data.py
"""

import hashlib
import json
import random
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from file_server import serve

from scripts.fetch import data, from_file, from_url, hub
from scripts.fetch.messages import FetchFailed
from tests.clock import set_time
from tests.makefile import ROOT
from train import stored
from train.data_hub import read_dataset
from train.errors import InputError

ROWS = "".join(json.dumps({"instruction": f"Say {n}.", "output": str(n)}) + "\n" for n in range(20_000)).encode()
HASH = hashlib.sha256(ROWS).hexdigest()
REVISION = f"sha256-{HASH[:16]}"


@pytest.fixture
def server(monkeypatch):
    """The server with rows.jsonl; nobody waits between tries."""
    set_time(monkeypatch, from_url, sleep=lambda seconds: None)
    with serve() as files:
        files.content["/rows.jsonl"] = ROWS
        yield files


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def is_published(directory: Path, store: Path, name: str = "rows") -> bool:
    """Whether the rows lie in the store as they should."""
    whole = (directory / f"{name}.jsonl").read_bytes() == ROWS and stored.damage(directory) == []
    return whole and stored.find(store, "dataset", name, None) == directory == store / "datasets" / name / REVISION


# ---- from a URL ----


def test_a_url_becomes_a_data_set_named_by_its_file_and_its_hash(server, store):
    directory = from_url.fetch_url(f"{server.address}/rows.jsonl?key=secret", HASH, store)
    assert is_published(directory, store)
    manifest = stored.read_manifest(directory)
    assert manifest["source"] == {"url": f"{server.address}/rows.jsonl"}, "what follows ? may be a key"
    assert manifest["rows"] == 20_000 and manifest["licence"] is None
    assert not list((store / "datasets" / ".incoming").glob("*@*[!k]"))
    assert from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store) == directory
    assert server.sent == len(ROWS), "it was there already"


def test_an_address_of_ipv6_is_a_url():
    assert from_url.check_url("https://[2001:db8::1]:8443/rows.jsonl", HASH) == []
    assert from_url.check_url("http://[::1]/rows.jsonl", HASH) == []


def test_what_was_killed_between_its_last_byte_and_its_publication_is_not_fetched_again(server, store):
    incoming = stored.Artifact("dataset", "rows", REVISION).incoming(store)
    incoming.mkdir(parents=True)
    (incoming / "rows.jsonl").write_bytes(ROWS)
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)
    assert server.asked == []


def test_thirty_random_cuts_end_with_the_right_bytes_and_none_sent_twice(server, store):
    draw = random.Random(1)
    server.cuts = [draw.randrange(1, len(ROWS) // 31) for _ in range(30)]
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)
    assert server.cuts == [] and server.sent == len(ROWS)


def test_what_an_earlier_fetch_left_is_gone_on_with(server, store):
    server.cuts = [1000] + [0] * from_url.TRIES
    with pytest.raises(FetchFailed, match="6 times in a row; the same command goes on"):
        from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store)
    assert stored.published(store) == []
    server.cuts = []
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)
    assert server.sent == len(ROWS)


def test_a_server_without_ranges_is_asked_for_all_again(server, store):
    server.ranges, server.cuts = False, [5000]
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)
    assert server.sent == len(ROWS) + 5000


def test_a_server_that_tells_no_length_is_read_to_its_end(server, store):
    server.lengths = False
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)


@pytest.mark.parametrize("left", [b"other bytes", ROWS + b"more"])
def test_what_lies_there_from_something_else_is_thrown_away_once(server, store, left):
    incoming = stored.Artifact("dataset", "rows", REVISION).incoming(store)
    incoming.mkdir(parents=True)
    (incoming / "rows.jsonl").write_bytes(left)
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)


def test_wrong_bytes_are_told_by_both_hashes_and_nothing_is_kept(server, store):
    wrong = ROWS.replace(b"Say 7.", b"Say 8.")
    server.content["/rows.jsonl"] = wrong
    with pytest.raises(InputError) as caught:
        from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store)
    assert HASH in str(caught.value) and hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert stored.published(store) == [] and not stored.Artifact("dataset", "rows", REVISION).incoming(store).exists()


def test_a_page_that_says_no_never_becomes_a_data_set_even_with_its_own_checksum(server, store):
    page = b"<html><body>Not found</body></html>"
    server.content["/rows.jsonl"] = page
    with pytest.raises(InputError) as caught:
        from_url.fetch_url(f"{server.address}/rows.jsonl", hashlib.sha256(page).hexdigest(), store)
    assert f"{server.address}/rows.jsonl: row 1: is not JSON" in str(caught.value)
    assert stored.published(store) == []


def test_a_server_that_is_busy_is_waited_for_as_it_says(server, store, monkeypatch, capfd):
    waits = []
    set_time(monkeypatch, from_url, sleep=waits.append)
    server.busy = [(429, "12"), (503, "")]
    assert is_published(from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store), store)
    assert waits == [12.0, 2.0]
    assert "status 429; going on in 12 s, as the server asks" in capfd.readouterr().err


def test_a_redirect_is_followed_without_credentials_and_never_out_of_tls(server, store, monkeypatch):
    server.redirects["/here/rows.jsonl"] = f"{server.address.replace('127.0.0.1', 'localhost')}/rows.jsonl"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert is_published(from_url.fetch_url(f"{server.address}/here/rows.jsonl", HASH, store), store)
    assert len(server.asked) == 2
    assert not any("authorization" in name.lower() or "secret" in value for asked in server.asked
                   for name, value in asked.items())  # fmt: skip
    server.redirects["/out/rows.jsonl"] = "http://192.0.2.1/rows.jsonl"
    with pytest.raises(InputError, match=r"redirects to http://192.0.2.1/rows.jsonl, which has no TLS"):
        from_url.fetch_url(f"{server.address}/out/rows.jsonl", "0" * 64, store)


def test_what_does_not_fit_is_known_before_the_first_byte(server, store, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage(10**9, 0, (64 << 20) + len(ROWS) - 1))
    with pytest.raises(InputError, match=r"STORE: .* has 68.1 MB free, needed are 958 kB and"):
        from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store)
    incoming = stored.Artifact("dataset", "rows", REVISION).incoming(store)
    assert not list(incoming.iterdir()), "not a byte was written"


def test_two_who_want_the_same_fetch_it_once(server, store):
    found, url = [], f"{server.address}/rows.jsonl"
    threads = [threading.Thread(target=lambda: found.append(from_url.fetch_url(url, HASH, store))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and server.sent == len(ROWS)


# ---- from a file ----


def test_a_file_becomes_a_data_set_and_is_copied_once(tmp_path, store, capsys):
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    directory = from_file.copy_file(tmp_path / "rows.jsonl", "", store)
    assert is_published(directory, store)
    assert stored.read_manifest(directory)["source"] == {"path": "rows.jsonl"}, "no path of this machine"
    assert from_file.copy_file(tmp_path / "rows.jsonl", HASH, store) == directory
    assert "is there already" in capsys.readouterr().out


def test_a_changed_file_is_another_revision_and_the_name_means_the_newest(tmp_path, store):
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    old = from_file.copy_file(tmp_path / "rows.jsonl", "", store)
    (tmp_path / "rows.jsonl").write_bytes(ROWS[:-20].rpartition(b"\n")[0])
    new = from_file.copy_file(tmp_path / "rows.jsonl", "", store)
    assert stored.find(store, "dataset", "rows", None) == new != old
    assert stored.find(store, "dataset", "rows", REVISION) == old


def test_a_damaged_copy_is_made_again(tmp_path, store):
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    directory = from_file.copy_file(tmp_path / "rows.jsonl", "", store)
    (directory / "rows.jsonl").write_bytes(ROWS.replace(b"Say 7.", b"Say 8."))
    assert is_published(from_file.copy_file(tmp_path / "rows.jsonl", "", store), store)


def test_the_rows_of_one_file_are_all_train_whatever_it_is_called(tmp_path, store):
    (tmp_path / "test.jsonl").write_bytes(ROWS)
    directory = from_file.copy_file(tmp_path / "test.jsonl", "", store)
    assert len(read_dataset(directory, "test", None, "train", "train.yaml")) == 20_000
    sliced = read_dataset(directory, "test", None, "train[5:7]", "train.yaml")
    assert [(number, row["output"]) for number, row in sliced] == [(6, "5"), (7, "6")]
    with pytest.raises(InputError, match="dataset_split: validation cannot be taken from test"):
        read_dataset(directory, "test", None, "validation", "train.yaml")


# ---- wrong words ----


def refusal(monkeypatch, tmp_path: Path, *words: str) -> list[str]:
    """The problems of a command line, which must put nothing into the store."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["data", "--store", str(tmp_path / "store"), *words])
    with pytest.raises(InputError) as caught:
        data.main()
    assert stored.published(tmp_path / "store") == []
    assert all("\n  fix: " in one for one in caught.value.problems)
    return caught.value.problems


URL = "https://host.invalid/rows.jsonl"
BAD = {
    "a URL without checksum": ([URL], "SHA256: is missing: nobody could tell"),
    "a checksum of another kind": ([URL, "--sha256", "d41d8cd98f00b204e9800998ecf8427e"], "is no SHA-256"),
    "no TLS": (["http://host.invalid/rows.jsonl", "--sha256", HASH], "has no TLS"),
    "no HTTP": (["ftp://host.invalid/rows.jsonl", "--sha256", HASH], "is no address of HTTP"),
    "a password in a URL": (["https://me:secret@host/rows.jsonl", "--sha256", HASH], "holds a user or password"),
    "a URL of no rows": (["https://host.invalid/rows.zip", "--sha256", HASH], "ends in .zip"),
    "a URL without a file": (["https://host.invalid/", "--sha256", HASH], "ends in nothing"),
    "a space in a URL": (["https://host.invalid/a b.json", "--sha256", HASH], "is no URL"),
    "a password in no URL": (["https://me:secret@[host/rows.jsonl", "--sha256", HASH], "[host/rows.jsonl: is no URL"),
    "a password and a space": (["https://me:secret@host/a b.json", "--sha256", HASH], "host/a b.json: is no URL"),
    "a port that is none": (["https://host:x/rows.jsonl", "--sha256", HASH], "is no URL"),
    "a revision of a URL": ([URL, "--sha256", HASH, "--revision", "main"], "has no revisions"),
    "a checksum of the hub's": (["owner/name", "--sha256", HASH], "comes from the hub"),
    "an absent file": (["absent.jsonl"], "there is no such file"),
    "a directory": (["tests"], "is a directory"),
    "a file that cannot be a name": (["my rows.jsonl"], "cannot be the name of a data set"),
    "a file of something else": (["README.md"], "ends in .md"),
    "a file with another hash": (["demo/data/train.jsonl", "--sha256", HASH], "demo/data/train.jsonl has "),
    "a store that is a file": (["demo/data/train.jsonl", "--store", "README.md"], "is a file, not a directory"),
    "a store elsewhere": (["demo/data/train.jsonl", "--store", "gs://bucket/x"], "a bucket (STORE=s3://bucket/prefix)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_words_are_refused_with_a_fix(monkeypatch, tmp_path, case):
    words, expected = BAD[case]
    (said,) = refusal(monkeypatch, tmp_path, "--data", *words)
    assert expected in said
    assert "secret" not in said


def test_the_program_leaves_with_2_and_says_all_that_is_wrong_at_once(tmp_path):
    words = ["--data", "http://host.invalid/x.zip", "--revision", "v1", "--store", "gs://b"]
    command = [sys.executable, "-m", "scripts.fetch.data", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("5 problems\n")


@pytest.mark.parametrize(("overlay", "expected"), [
    ("demo", "the recipe reads demo/data/train.jsonl, a file: there is nothing to fetch"),
    ("nosuch", "OVERLAY: nosuch: is no use case"),
])  # fmt: skip
def test_a_recipe_without_a_data_set_has_nothing_to_fetch(monkeypatch, tmp_path, overlay, expected):
    (said,) = refusal(monkeypatch, tmp_path, "--overlay", overlay)
    assert expected in said


def test_a_recipe_names_data_set_and_revision_and_the_make_line_another_revision():
    revision = "12567cabf869d7c92e573c7c783905fc160e9639"
    assert data.of_recipe("alpaca", "") == ("yahma/alpaca-cleaned", revision)
    assert data.of_recipe("alpaca", "v2") == ("yahma/alpaca-cleaned", "v2")
    assert data.of_recipe("medical", "") == ("medalpaca/medical_meadow_medical_flashcards", "")


@pytest.mark.parametrize(("status", "words"), [(404, "is not there"), (401, "asks for a login"), (410, "is gone")])
def test_a_server_that_refuses_is_not_asked_again(server, store, status, words):
    server.busy = [(status, "")]
    with pytest.raises(InputError, match=rf"{words} \(status {status}\)"):
        from_url.fetch_url(f"{server.address}/rows.jsonl", HASH, store)
    assert len(server.asked) == 1


def test_a_name_that_nobody_knows_is_said_after_some_tries(store, monkeypatch):
    set_time(monkeypatch, from_url, sleep=lambda seconds: None)
    with pytest.raises(FetchFailed, match=r"the name host\.invalid is not known here"):
        from_url.fetch_url("https://host.invalid/rows.jsonl", HASH, store)


def test_a_port_that_speaks_no_tls_is_said(server, store):
    with pytest.raises(InputError, match="speaks no TLS"):
        from_url.fetch_url(f"{server.address.replace('http:', 'https:')}/rows.jsonl", HASH, store)
