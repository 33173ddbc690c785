"""`make publish TO=hub:…` with the real client, against a hub of the tests' own on loopback."""

import json

import pytest
from huggingface_hub import constants

from scripts.publish import to_hub
from scripts.publish.targets import PublishFailed
from tests.makefile import make
from tests.unit.hub_upload import Hub, serve
from tests.unit.publish_cases import COMMIT, give, make_base, make_run
from train.errors import InputError

TARGET = "hub:ann/tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(Hub()) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nobody-is-logged-in"))
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield running


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, make_base(tmp_path / "base"))


def refusal(run, to=TARGET, *allowed) -> str:
    with pytest.raises(InputError) as caught:
        give(run, to, "", *allowed)
    return str(caught.value)


def commits(hub) -> int:
    return len([one for one in hub.asked if "/commit/" in one])


def test_one_commit_in_a_new_private_repository_whose_revision_is_printed(hub, run, capsys):
    assert give(run, TARGET) == 0
    files = hub.files("ann/tiny")
    assert hub.private["ann/tiny"] and commits(hub) == 1
    assert files["model.safetensors"] == b"merged weights"
    assert 'place = "ann/tiny"\n' in files["README.md"].decode()
    assert {"README.md", "proof.json", "loss.png", "tunefleet.json", "config.json"} <= files.keys()
    assert hub.messages == ["Publish merged of tiny-1"]
    printed = capsys.readouterr()
    assert f"published {TARGET}, revision {hub.repositories['ann/tiny'][-1][0]}" in printed.out
    assert "hf_right" not in printed.out + printed.err


def test_the_same_again_says_that_it_is_there_and_commits_nothing(hub, run, capsys):
    give(run, TARGET)
    assert give(run, TARGET) == 0
    assert commits(hub) == 1
    assert "this very publication is there already" in capsys.readouterr().out


def test_other_content_is_replaced_only_when_allowed_and_stays_in_the_history(hub, run):
    hub.commit("ann/tiny", {".gitattributes": b"", "old.txt": b"old", "README.md": b"old"})
    message = refusal(run)
    assert "holds other content (README.md, old.txt)" in message and "ALLOW=replace" in message
    assert commits(hub) == 0
    assert give(run, TARGET, "", "replace") == 0
    assert "old.txt" not in hub.files("ann/tiny") and ".gitattributes" in hub.files("ann/tiny")
    assert "old.txt" in hub.repositories["ann/tiny"][0][1]


def test_an_organisation_of_ones_own_is_written_to_and_another_is_named(hub, run):
    assert give(run, "hub:guild/tiny") == 0
    message = refusal(run, "hub:other/tiny")
    assert "other is neither you nor one of your organisations there (ann, guild)" in message
    assert "write TO=hub:ann/tiny" in message


def test_a_token_that_may_only_read_is_refused_before_anything_is_sent(hub, run):
    hub.role = "read"
    assert "HF_TOKEN: may only read, and publishing needs the right to WRITE" in refusal(run)
    assert hub.asked == ["GET /api/whoami-v2"]


def test_no_token_and_a_wrong_one_are_told_apart(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "HF_TOKEN: is refused by the hub: wrong, expired or withdrawn" in refusal(run)
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN: is not set, and nobody is logged in" in refusal(run)


def test_a_hub_that_is_switched_off_is_told(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE: is set" in refusal(run)


def test_no_right_to_write_there_is_the_users_and_a_server_error_is_not(hub, run):
    hub.refuse = ("/commit/", 403)
    assert "may not be written with this token" in refusal(run)
    hub.refuse = ("/commit/", 500)
    with pytest.raises(PublishFailed, match="hub:ann/tiny: "):
        give(run, TARGET)
    hub.refuse = None
    assert give(run, TARGET) == 0


def test_somebody_elses_commit_in_between_is_not_overwritten(hub, run, monkeypatch):
    files_there = to_hub.files_there

    def meanwhile(repository, revision):
        found = files_there(repository, revision)
        if revision and commits(hub) == 0:
            hub.commit(repository, {".gitattributes": b"", "theirs.txt": b"theirs"})
        return found

    monkeypatch.setattr(to_hub, "files_there", meanwhile)
    assert "was changed by somebody meanwhile" in refusal(run)
    assert hub.files("ann/tiny")["theirs.txt"] == b"theirs"


def test_a_file_that_ends_up_there_with_other_bytes_is_noticed(hub, run):
    hub.spoil = "model.safetensors"
    with pytest.raises(PublishFailed, match=r"these files differ there: model\.safetensors"):
        give(run, TARGET)


def test_a_file_that_changes_while_it_is_published_is_noticed_before_the_commit(hub, run, monkeypatch):
    put = to_hub.put

    def meanwhile(*words):
        (run / "merged" / "model.safetensors").write_text("MERGED weights")
        return put(*words)

    monkeypatch.setattr(to_hub, "put", meanwhile)
    assert "model.safetensors: changed while it was published" in refusal(run)
    assert commits(hub) == 0


def test_a_password_in_the_hubs_address_is_not_printed(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:9")
    with pytest.raises(PublishFailed, match=r"^http://127\.0\.0\.1:9 is not reached") as caught:
        give(run, TARGET)
    assert "secret" not in str(caught.value)
    error = OSError("Client error '500' for url 'https://me:secret@host/x'")
    assert to_hub.in_short(error) == "Client error '500' for url 'https://host/x'"


def test_a_hub_that_is_not_there_is_named(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishFailed, match=r"http://127\.0\.0\.1:9 is not reached"):
        give(run, TARGET)


def test_a_base_of_the_hub_is_named_with_its_commit_and_no_path_of_this_machine_goes_out(hub, tmp_path):
    """The adapter of a run of a cluster, whose base lay on the store there."""
    base = make_base(tmp_path / "base")
    place = f"/store/models/owner/base-7b/{COMMIT}"
    artifacts = {"model": {"name": "owner/base-7b", "revision": COMMIT, "licence": "mit"}}
    run = make_run(tmp_path, base, artifacts=artifacts, model_path=place)
    assert give(run, TARGET, "adapter") == 0
    files = hub.files("ann/tiny")
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base-7b", COMMIT)
    card = files["README.md"].decode()
    assert "license: mit\nbase_model: owner/base-7b\nbase_model_relation: adapter\n" in card
    assert f'AutoModelForCausalLM.from_pretrained(base, revision="{COMMIT}"' in card
    everything = b"".join(files.values()).decode(errors="replace")
    assert str(tmp_path) not in everything and "/home/ann" not in everything and "/store/" not in everything
    assert "PRIVATE ROW" not in everything


def test_the_command_itself_publishes_with_nothing_but_a_token_in_the_environment(hub, run, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    done = make("publish", RUN=run.name, RUNS=str(run.parent), TO=TARGET)
    assert done.returncode == 0, done.stderr
    assert f"published {TARGET}, revision {hub.repositories['ann/tiny'][-1][0]}" in done.stdout
    assert "hf_right" not in done.stdout + done.stderr
    hub.role = "read"
    refused = make("publish", RUN=run.name, RUNS=str(run.parent), TO=TARGET)
    assert "Error 2" in refused.stderr and "the right to WRITE" in refused.stderr
    hub.role, hub.refuse = "write", ("/api/whoami-v2", 503)
    failed = make("publish", RUN=run.name, RUNS=str(run.parent), TO=TARGET)
    assert "Error 1" in failed.stderr and "failed: " in failed.stderr and "Traceback" not in failed.stderr
