"""Fetching over a link and from a hub that misbehave: what is published is right, what is right is not fetched twice.

.venv/bin/python -m pytest tests/hub/test_hub_trouble.py
"""

import email.utils
import re
import time
from types import SimpleNamespace

import pytest

from scripts.fetch import ask as questions
from scripts.fetch import session, transfer, watchdog
from scripts.fetch.messages import Asked, FetchFailed
from tests.clock import set_time
from tests.hub.cases import (
    add_model,
    assert_same,
    end_of,
    published,
    start_fetch,
    wait_until,
    weights,
)
from tests.hub.server import serve
from tests.hub.state import Fault
from train import stored

TOKEN = "hf_" + "a" * 20


def test_a_cut_connection_is_resumed_behind_its_last_byte(hub, store, source, fetched):
    for number, after in enumerate([1, 70_000, 199_999], 1):
        hub.faults.append(Fault("drop", f"*{weights(number)}", after=after))
    hub.faults.append(Fault("drop", "*tokenizer.json", after=0))
    fetched()
    assert_same(published(store), source)
    assert [hub.sent[weights(number)] for number in (1, 2, 3)] == [200_000] * 3


def test_a_mirror_that_knows_no_ranges_sends_the_file_anew(hub, store, source, fetched):
    hub.faults += [Fault("drop", f"*{weights(2)}", after=150_000), Fault("whole", f"*{weights(2)}")]
    fetched()
    assert_same(published(store), source)
    assert hub.sent[weights(2)] == 350_000


def test_a_stalled_transfer_is_killed_and_begun_again_behind_its_last_byte(hub, store, source, fetched):
    hub.faults.append(Fault("stall", f"*{weights(2)}", after=100_000))
    said = fetched(stall=1.5)
    assert "not a byte for" in said
    assert_same(published(store), source)
    assert hub.sent[weights(2)] == 200_000


def test_a_stall_of_the_fast_path_goes_over_to_the_plain_one(hub, store, source, fetched, monkeypatch):
    hub.fast = True
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    said = fetched(stall=3.0)
    assert "on the plain path" in said
    assert any(path.startswith("stalled") for _, path in hub.asked), "the fast path was never tried"
    assert_same(published(store), source)
    assert hub.sent[weights(2)] == 200_000


def test_a_rate_limit_is_waited_out_as_the_hub_says(hub, store, source, fetched):
    hub.faults.append(Fault("answer", f"*{weights(2)}", status=429, headers={"Retry-After": "2"}))
    assert "asks to wait 2 s" in fetched()
    assert_same(published(store), source)
    times = [when for when, asked, path, _ in hub.log if path.endswith(weights(2)) and asked == "GET"]
    assert times[1] - times[0] >= 2


def test_a_rate_limit_until_a_date_is_waited_out(hub, store, source, fetched):
    until = email.utils.formatdate(time.time() + 3, usegmt=True)
    hub.faults.append(Fault("answer", f"*{weights(2)}", status=429, headers={"Retry-After": until}))
    assert re.search(r"asks to wait [123] s", fetched())
    assert_same(published(store), source)
    times = [when for when, asked, path, _ in hub.log if path.endswith(weights(2)) and asked == "GET"]
    assert times[1] - times[0] > 0.5


@pytest.mark.parametrize("question", ["api/models/o/m", "api/models/o/m/tree*"])
def test_a_question_that_is_never_answered_is_asked_again(hub, store, source, fetched, monkeypatch, question):
    monkeypatch.setattr(questions, "TIMEOUT", 1.0)
    monkeypatch.setattr(session, "SECONDS_FOR_AN_ANSWER", 1.0)
    hub.faults.append(Fault("stall", question))
    fetched()
    assert not hub.faults[0].times, "it was never asked"
    assert_same(published(store), source)


def test_the_hubs_own_rate_limit_header_is_understood(hub, store, source, fetched):
    limit = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.faults.append(Fault("answer", "api/models/o/m*", status=429, headers=limit))
    assert "asks to wait 1 s" in fetched()
    assert_same(published(store), source)


def test_a_wait_of_an_hour_is_not_waited(hub, store, fetched, refused):
    hub.faults.append(Fault("answer", f"*{weights(2)}", status=429, headers={"Retry-After": "3600"}))
    assert "asks to wait 3600 s" in refused()
    fetched()
    assert hub.sent[weights(1)] == 200_000


def test_errors_of_the_hub_pass(hub, store, source, fetched):
    hub.faults += [Fault("answer", "api/*", status=502), Fault("answer", f"*{weights(1)}", status=503),
                   Fault("answer", f"*{weights(2)}", status=500, method="HEAD")]  # fmt: skip
    fetched()
    assert_same(published(store), source)


def test_wrong_bytes_are_fetched_once_more(hub, store, source, fetched):
    hub.faults.append(Fault("wrong", f"*{weights(2)}"))
    assert "arrived with wrong bytes" in fetched()
    assert_same(published(store), source)
    assert hub.sent[weights(2)] == 400_000
    assert hub.sent[weights(1)] == 200_000


@pytest.mark.parametrize("file", [weights(2), "tokenizer.json"])
def test_wrong_bytes_twice_are_never_published_and_named(hub, store, file, refused):
    hub.faults.append(Fault("wrong", f"*{file}", times=2))
    said = refused()
    assert f"{file} arrived with wrong bytes twice" in said
    assert published(store) is None
    assert stored.published(store) == []


def test_a_branch_that_moves_in_the_middle_changes_nothing(tmp_path, store, ask, fetched):
    old = add_model(tmp_path / "hub", size=400_000)
    new = add_model(tmp_path / "newer", size=300_000, seed=2)
    with serve(tmp_path / "hub", rate=600_000) as hub:
        process = start_fetch(hub, store)
        wait_until(lambda: hub.total() > 200_000, "bytes")
        hub.repositories["models/o/m"].add("main", new)
        status, said = end_of(process)
        assert status == 0, said
        assert_same(published(store), old)
        ask(hub)
        fetched()
    assert_same(published(store), new)
    assert len(stored.published(store)) == 2


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_file_that_the_hub_lists_and_has_not_is_named(hub, store, refused, method):
    hub.faults.append(Fault("missing", f"*{weights(3)}", method=method))
    said = refused()
    assert weights(3) in said
    assert published(store) is None


def test_a_redirect_to_another_host_is_followed_without_the_token(hub, tmp_path, store, source, fetched, monkeypatch):
    with serve(tmp_path / "hub") as storage:
        hub.storage = storage.endpoint
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        fetched()
        assert storage.total() == 600_000
        assert {authorization for _, _, _, authorization in storage.log} == {""}
    assert {authorization for _, _, path, authorization in hub.log if "resolve" in path} == {f"Bearer {TOKEN}"}
    assert_same(published(store), source)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_address_of_the_storage_host_that_has_expired_is_asked_for_anew(
    hub, tmp_path, store, source, fetched, status
):
    with serve(tmp_path / "hub") as storage:
        hub.storage = storage.endpoint
        storage.faults.append(Fault("answer", f"storage/*{weights(2)}", status=status))
        assert f"127.0.0.1 answers with status {status}; its address may have expired" in fetched()
    assert_same(published(store), source)
    assert hub.asked["HEAD", f"o/m/resolve/{published(store).name}/{weights(2)}"] == 2


def test_a_storage_host_that_never_gives_a_file_ends_with_a_word_and_not_as_bad_input(
    hub, tmp_path, store, refused, monkeypatch
):
    monkeypatch.setattr(watchdog, "TRIES", 2)
    set_time(monkeypatch, watchdog, sleep=lambda seconds: None)
    with serve(tmp_path / "hub") as storage:
        hub.storage = storage.endpoint
        storage.faults.append(Fault("answer", f"storage/*{weights(2)}", status=403, times=99))
        said = refused()
    assert "not a byte in 2 tries" in said and "status 403" in said


def test_a_file_that_is_too_large_for_the_plain_path_says_what_to_do(hub, store, monkeypatch):
    monkeypatch.setattr(transfer.constants, "MAX_HTTP_DOWNLOAD_SIZE", 100_000)
    with pytest.raises(FetchFailed, match=r"o/m: big has 200 kB, and the plain path brings 100 kB at most"):
        transfer.check_plain(SimpleNamespace(name="big", size=200_000), 0, Asked("model", "o/m", None))
    transfer.check_plain(SimpleNamespace(name="big", size=200_000), 1, Asked("model", "o/m", None))


def test_what_is_told_of_an_error_holds_no_signature():
    error = OSError("file (…)kkkSignature=abc of https://h/f?X-Sig=abc was cut")
    assert transfer.in_short(error) == "file … of https://h/f… was cut"
