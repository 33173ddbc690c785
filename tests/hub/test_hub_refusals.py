"""What the user gave and cannot work, or the hub refuses: each ends at once, with what to do, and nothing published.

.venv/bin/python -m pytest tests/hub/test_hub_refusals.py
"""

import errno
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.fetch import ask as questions
from scripts.fetch import hub as fetching
from scripts.fetch import model
from scripts.fetch.hub import fetch
from tests.hub.cases import add_files, add_model, end_of, start_fetch
from tests.hub.server import serve
from tests.hub.state import Fault
from train import stored
from train.errors import InputError

GOOD, REVOKED, STRANGER = "hf_goodgood", "hf_revoked", "hf_stranger"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A hub with one repository of each kind of trouble."""
    root = tmp_path_factory.mktemp("hub")
    add_model(root, "o/m", shards=1)
    add_model(root, "o/gated", settings={"gated": "manual", "let_in": [GOOD]}, shards=1)
    add_model(root, "o/private", settings={"private": True}, shards=1)
    add_files(root, "models", "o/pickles", "config.json", "pytorch_model.bin")
    add_files(root, "models", "o/torn", "config.json", "model.safetensors", "model.safetensors.index.json")
    add_files(root, "datasets", "o/script", "script.py", "README.md")
    with serve(root) as hub:
        yield hub


@pytest.fixture
def hub(running, ask, monkeypatch):
    ask(running)
    monkeypatch.setattr(running, "faults", [])
    monkeypatch.setattr(running, "token", None)
    # One try: how often a hub that cannot be reached is asked again does not change what is said of it.
    monkeypatch.setattr(questions, "TRIES_WITHOUT_ANSWER", 1)
    return running


def test_an_unknown_model(hub, refused):
    said = refused("o/nix")
    assert "o/nix: is not on 127.0.0.1" in said
    assert f"{hub.endpoint}/o/nix" in said


def test_an_unknown_revision_names_those_there_are(hub, refused):
    said = refused("o/m", "nix")
    assert "has no revision nix" in said
    assert "there are: main" in said


@pytest.mark.parametrize("name", ["o/m/x", "o--m/x", "../o", "o m", "/", "o/m.git", "-o/m"])
def test_a_malformed_name(hub, refused, name):
    asked = len(hub.log)
    said = refused(name)
    assert f"MODEL: {name}: is no name of a hub" in said
    assert "owner/name" in said
    assert len(hub.log) == asked


def test_a_repository_with_pickles_only(hub, refused, store):
    assert "only as pickles (.bin)" in refused("o/pickles")
    assert stored.published(store) == []


def test_an_index_that_is_none(hub, refused):
    assert "is no index of weight files" in refused("o/torn")


def test_a_data_set_that_is_a_loading_script(hub, refused):
    said = refused("o/script", kind="dataset")
    assert "only a loading script" in said
    assert "REVISION=refs/convert/parquet" in said


def test_a_gated_model_without_a_token(hub, refused):
    said = refused("o/gated")
    assert "is gated" in said
    assert f"open {hub.endpoint}/o/gated" in said
    assert "HF_TOKEN" in said
    assert "hf auth login" in said


def test_a_gated_model_with_a_token_that_was_not_let_in(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    said = refused("o/gated")
    assert "has not been let in" in said
    assert STRANGER not in said


def test_a_gated_model_with_a_token_that_was_let_in_is_fetched(hub, store, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", GOOD)
    directory = fetch("model", "o/gated", None, store)
    assert stored.read_manifest(directory)["gated"] == "manual"
    assert GOOD not in "".join(capfd.readouterr()) + (directory / stored.MANIFEST).read_text()


def test_the_hubs_own_login_serves_as_well(hub, store, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(GOOD)
    assert fetch("model", "o/gated", None, store).is_dir()


def test_an_expired_token(hub, refused, monkeypatch):
    monkeypatch.setattr(hub, "token", GOOD)
    monkeypatch.setenv("HF_TOKEN", REVOKED)
    said = refused()
    assert "refuses the token: expired, revoked or mistyped" in said
    assert REVOKED not in said


def test_a_private_model_without_a_token(hub, refused):
    assert "is private" in refused("o/private")


def test_a_token_without_the_right_to_read(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", GOOD)
    hub.faults.append(Fault("answer", "*model.safetensors", status=403, method="HEAD"))
    assert "forbids it to this token" in refused()


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "the store is full: "), (errno.EDQUOT, "the store is full: "), (errno.EIO, "the store's disk fails"),
    (errno.EACCES, "the store cannot be written to: "),
])  # fmt: skip
def test_a_store_that_fails_while_a_model_is_published_is_one_message_with_a_fix(
    hub, refused, store, monkeypatch, number, words
):
    def fail(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(stored, "sync", fail)
    said = refused()
    assert words in said and ".incoming" in said
    assert stored.published(store) == []


def test_a_disk_that_fills_while_the_bytes_come_ends_the_fetch_and_the_same_goes_on(hub, refused, store):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert "the store is full: " in refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    before = hub.total()
    fetch("model", "o/m", None, store)
    assert hub.total() - before < 200_000, "what had come stayed"


def test_a_lock_file_serves_a_second_user_and_one_that_does_not_is_named(hub, refused, store, monkeypatch):
    artifact = stored.Artifact("model", "o/m", "c")
    before = os.umask(0o077)
    try:
        with stored.lock(artifact, store):
            path = Path(f"{artifact.incoming(store)}.lock")
            assert path.stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)
    opening = os.open

    def refuse(path, *words, **more):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opening(path, *words, **more)

    monkeypatch.setattr(stored.os, "open", refuse)
    said = refused()
    assert ".lock'" in said and "chmod" in said


def test_no_space_is_known_before_the_first_byte(hub, refused, monkeypatch):
    before = hub.total()
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    said = refused()
    assert "has 1.0 MB free, needed are" in said
    assert hub.total() == before


def test_what_lies_there_already_needs_no_space(hub, store, monkeypatch):
    fetch("model", "o/m", None, store)
    directory = stored.find(store, "model", "o/m", None)
    (directory / stored.MANIFEST).unlink()
    asked = []
    monkeypatch.setattr(fetching, "check_room", lambda needed, where: asked.append(needed))
    fetch("model", "o/m", None, store)
    assert asked == [0]


def test_a_store_that_is_a_file(hub, refused, tmp_path):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "store"):
        assert "is a file, not a directory" in refused(where=where)


def test_a_store_that_cannot_be_written_to(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        (said,) = fetching.store_problems(locked)
    finally:
        os.seteuid(me)
    assert "cannot be written to (Permission denied)" in said


def test_a_store_that_is_an_address(hub, store):
    status, said = end_of(start_fetch(hub, store, "--store", "gs://bucket/store"))
    assert status == 2
    assert "is no place to fetch into" in said


def test_all_mistakes_are_said_at_once(hub, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    said = refused("o/m/x", where=tmp_path / "file")
    assert "MODEL" in said
    assert "STORE" in said
    assert "HF_ENDPOINT: mirror.example: is no address of a hub" in said


def test_tls_that_is_asked_for_and_not_spoken(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint.replace("http://", "https://"))
    said = refused()
    assert "speaks no TLS" in said
    assert f"HF_ENDPOINT={hub.endpoint}" in said


def test_a_certificate_that_nobody_trusts(hub, refused, monkeypatch, tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("needs openssl, to make a certificate")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run(["openssl", *words, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=(listener, context), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{listener.getsockname()[1]}")
        said = refused()
    assert "its certificate is not trusted" in said
    assert "SSL_CERT_FILE" in said


def greet(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Offer the certificate to whoever comes, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def test_a_host_that_nobody_knows(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    said = refused()
    assert "hub.invalid cannot be reached: its name is not known here" in said
    assert "make deliver" in said


def test_a_port_where_nothing_listens(hub, refused, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert "nothing listens there" in refused()


def test_a_password_in_the_endpoint_is_not_printed(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint.replace("http://", "http://me:hunter2@"))
    assert "hunter2" not in refused("o/nix")


def test_an_address_that_is_no_hub(hub, refused):
    hub.faults.append(Fault("answer", "api/*", status=200))
    said = refused()
    assert "does not answer like a hub" in said
    assert "login page" in said


def test_a_recipe_whose_model_is_a_directory_has_nothing_to_fetch(hub, store, monkeypatch, capsys):
    for overlay in ("demo", "template"):
        monkeypatch.setattr(sys, "argv", ["model", "--overlay", overlay, "--store", str(store)])
        assert model.main() == 0
        assert "there is nothing to fetch" in capsys.readouterr().out
    assert not store.exists()


def test_a_recipes_model_is_fetched_in_the_recipes_revision(hub, store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["model", "--overlay", "medical", "--store", str(store)])
    with pytest.raises(InputError, match="meta-llama/Llama-2-7b-hf: is not on"):
        model.main()
    revision = "01c7f73d771dfac7d292323805ebc428287df4f9"
    assert any(path.endswith(f"meta-llama/Llama-2-7b-hf/revision/{revision}") for _, path in hub.asked)
