"""The message at the end of a run: what it says, when it is sent, tried again or given up; nobody sees its address.

.venv/bin/python -m pytest tests/unit/test_webhook.py
"""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from scripts import pod, webhook
from scripts import run as make_run
from scripts.pod_training import Ended
from train.errors import InputError

SECRET = "T000-very-secret"


@pytest.fixture
def server(monkeypatch):
    """A server on loopback; `answers` are its next statuses (then 200), `got` is what it was sent."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    got, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        listening.got, listening.answers = got, answers
        listening.address = f"http://127.0.0.1:{listening.server_port}/services/{SECRET}"
        yield listening
        listening.shutdown()
        thread.join()


def send(server, content=None):
    return webhook.send(server.address, content or {"status": "complete"}, (0.0, 0.0))


@pytest.fixture
def run(tmp_path):
    """A run's directory whose training is done; it is complete once it has its report."""
    directory = tmp_path / "medical-1a2b3c4d"
    (directory / "data").mkdir(parents=True)
    started = "2026-11-28T10:00:00+00:00"
    record = {"name": directory.name, "started": started, "training": {"best_eval_loss": 0.5}}
    (directory / "run.json").write_text(json.dumps(record))
    return directory


def complete(run, loss=0.25):
    (run / "after.json").write_text(json.dumps({"eval_loss": loss}))
    (run / "report.html").write_text("")


# ---- the address ----


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"ftp://hooks.example.com/{SECRET}", "begins with ftp://, not with https:// or http://"),
        (f"hooks.example.com/{SECRET}", "begins with something else, not with https://"),
        (f"hooks.example.com:443/{SECRET}", "begins with something else"),
        (f"file:///etc/{SECRET}", "begins with file://"),
        (f"https:///{SECRET}", "names no host"),
        (f"https://hooks.example.com/a {SECRET}", "holds a space"),
        (f"https://hooks.example.com/a\r\nX-{SECRET}: 1", "holds a space, a line's end"),
        (f"https://hooks.example.com:port/{SECRET}", "its host or port cannot be read"),
        (f"https://[::1/{SECRET}", "its host or port cannot be read"),
        (f"https://me:{SECRET}@hooks.example.com/", "holds a name or a password before the host"),
    ],
)
def test_an_address_that_is_none_is_refused_with_variable_and_fix_and_without_itself(address, words):
    with pytest.raises(InputError) as caught:
        webhook.take_address({webhook.VARIABLE: address})
    said = str(caught.value)
    assert said.startswith("environment: TUNEFLEET_WEBHOOK: ") and words in said and "  fix: " in said
    assert SECRET not in said


def test_the_address_is_taken_out_of_the_environment_that_programs_inherit():
    environment = {webhook.VARIABLE: f" https://hooks.example.com/{SECRET}\n", "OTHER": "1"}
    assert webhook.take_address(environment) == f"https://hooks.example.com/{SECRET}"
    assert environment == {"OTHER": "1"}
    assert webhook.take_address(environment) == ""


# ---- sending ----


def test_a_message_is_json_with_a_text_for_people(server, run, capsys):
    complete(run)
    assert send(server, webhook.message(run, "medical", "complete", ""))
    (path, kind, content) = server.got[0]
    assert path == f"/services/{SECRET}" and kind == "application/json"
    seconds = content.pop("seconds")
    assert isinstance(seconds, int)
    text = content.pop("text")
    assert text.startswith("medical-1a2b3c4d is complete; validation loss 0.25; ") and text.endswith("after its start")
    assert content == {
        "run": "medical-1a2b3c4d", "overlay": "medical", "status": "complete", "reason": "", "validation_loss": 0.25
    }  # fmt: skip
    assert SECRET not in capsys.readouterr().out


def test_a_run_that_failed_before_its_first_file_has_a_message_too(tmp_path):
    content = webhook.message(tmp_path / "demo-1", "", "failed", "no room")
    assert content["text"] == "demo-1 failed: no room"
    assert content["validation_loss"] is None and content["seconds"] is None


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_three_times(server, status):
    server.answers[:] = [status, status]
    assert send(server) and len(server.got) == 3


def test_a_server_that_stays_in_trouble_is_given_up_and_told(server, capsys):
    server.answers[:] = [500, 500, 500]
    assert not send(server) and len(server.got) == 3
    said = capsys.readouterr().out
    assert "webhook: not told (it answers 500); the run is as it is" in said and SECRET not in said


def test_a_refusal_is_not_repeated(server, capsys):
    server.answers[:] = [404]
    assert not send(server) and len(server.got) == 1
    assert "it answers 404" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_told_without_its_address(server, capsys):
    gone = f"http://127.0.0.1:1/{SECRET}"
    assert not webhook.send(gone, {"status": "failed"}, ())
    said = capsys.readouterr().out
    assert "webhook: not told (" in said and "refused" in said and SECRET not in said and "127.0.0.1:1" not in said


def test_without_an_address_nothing_is_sent(capsys):
    assert not webhook.send("", {"status": "complete"})
    assert capsys.readouterr().out == ""


# ---- when a pod sends ----


def statuses(server):
    return [(content["status"], content["reason"]) for _, _, content in server.got]


def test_a_run_that_becomes_complete_is_told_once(server, run):
    with webhook.told_at_the_end(server.address, run, "medical"):
        complete(run)
    with webhook.told_at_the_end(server.address, run, "medical"):
        pass  # the pod is started again for nothing
    assert statuses(server) == [("complete", "")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Ended(1, "stage merge failed"), "stage merge failed"),
        (InputError("train.yaml: lora_r: is 0\n  fix: give 8"), "train.yaml: lora_r: is 0; give 8"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_run_that_fails_for_good_is_told_with_its_reason_and_fails_as_before(server, run, error, reason):
    with pytest.raises(type(error)), webhook.told_at_the_end(server.address, run, "medical"):
        raise error
    assert statuses(server) == [("failed", reason)]


@pytest.mark.parametrize("left", [Ended(143, "was asked to leave"), SystemExit(143)])
def test_a_run_that_was_asked_to_leave_goes_on_later_and_is_not_told(server, run, left):
    with pytest.raises(type(left)), webhook.told_at_the_end(server.address, run, "medical"):
        raise left
    assert server.got == []


def test_a_run_that_was_tried_again_is_told_again(server, run):
    for _ in range(2):
        with pytest.raises(Ended), webhook.told_at_the_end(server.address, run, "medical"):
            raise Ended(1, "stage merge failed")
    with webhook.told_at_the_end(server.address, run, "medical"):
        complete(run)
    assert [status for status, _ in statuses(server)] == ["failed", "failed", "complete"]


def test_a_pod_that_was_asked_to_leave_when_all_was_done_leaves_the_telling_to_the_next(server, run):
    with pytest.raises(Ended), webhook.told_at_the_end(server.address, run, "medical"):
        complete(run)
        raise Ended(143, "was asked to leave in stage report")
    assert server.got == []
    with webhook.told_at_the_end(server.address, run, "medical"):
        pass
    assert statuses(server) == [("complete", "")]


def test_a_pod_that_does_not_lead_tells_only_that_it_failed_since_that_ends_the_leader_too(server, run):
    leader = webhook.told_at_the_end(server.address, run, "medical")
    leader.__enter__()
    with pytest.raises(Ended), webhook.told_at_the_end(server.address, run, "medical", "pod 1 on node2"):
        raise Ended(1, "this pod was killed 2 times in a row")
    left = Ended(143, "was asked to leave")
    assert not leader.__exit__(Ended, left, left.__traceback__)
    assert statuses(server) == [("failed", "pod 1 on node2: this pod was killed 2 times in a row")]
    complete(run)
    with webhook.told_at_the_end(server.address, run, "medical", "pod 1 on node2"):
        pass
    assert len(server.got) == 1


def test_pods_that_fail_together_tell_it_once(server, run):
    leader = webhook.told_at_the_end(server.address, run, "medical")
    leader.__enter__()
    with pytest.raises(Ended), webhook.told_at_the_end(server.address, run, "medical", "pod 1 on node2"):
        raise Ended(1, "lost a peer")
    lost = Ended(1, "lost a peer")
    assert not leader.__exit__(Ended, lost, lost.__traceback__)
    assert len(server.got) == 1


def test_an_operator_that_ends_the_pod_while_its_message_is_on_its_way_does_not_stop_it(server, run, monkeypatch):
    left, sending = [], webhook.send

    def ended_meanwhile(*words):
        os.kill(os.getpid(), signal.SIGTERM)
        return sending(*words)

    monkeypatch.setattr(webhook, "send", ended_meanwhile)
    before = signal.signal(signal.SIGTERM, lambda *_: left.append(1))
    try:
        with webhook.told_at_the_end(server.address, run, "medical"):
            complete(run)
        assert statuses(server) == [("complete", "")] and left == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == [1], "afterwards it is heard again"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_store_that_takes_no_file_is_no_reason_to_say_nothing(server, run, monkeypatch):
    monkeypatch.setattr(webhook, "TOLD", "absent/.told")
    with pytest.raises(OSError, match="No space"), webhook.told_at_the_end(server.address, run, "medical"):
        raise OSError(28, "No space left on device")
    assert statuses(server) == [("failed", "No space left on device")]


def test_a_webhook_that_fails_leaves_a_complete_run_complete(server, run):
    server.answers[:] = [404]
    with webhook.told_at_the_end(server.address, run, "medical"):
        complete(run)


def test_a_pod_with_a_wrong_address_ends_as_bad_input_before_it_starts_anything(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(webhook.VARIABLE, f"slack {SECRET}")
    monkeypatch.setattr(pod, "TERMINATION", tmp_path / "absent")
    monkeypatch.setattr(pod.signal, "signal", lambda *_: None)
    assert pod.main() == 2
    said = capsys.readouterr().err
    assert "TUNEFLEET_WEBHOOK" in said and SECRET not in said
    assert webhook.VARIABLE not in os.environ


# ---- when make run sends ----


@pytest.mark.parametrize(
    ("status", "finishes", "told"),
    [
        (0, True, [("complete", "")]),
        (0, False, []),  # UNTIL=train
        (1, False, [("failed", "a stage ended with status 1; its error stands where make run was started")]),
        (130, False, []),  # Ctrl-C: somebody is there
    ],
)
def test_make_run_tells_its_end_where_nobody_may_be_looking(server, run, monkeypatch, status, finishes, told):
    def work(*_):
        if finishes:
            complete(run)
        return status

    plan = SimpleNamespace(artifacts={}, layout=SimpleNamespace(processes=2, threads=1, reason="two cores"))
    monkeypatch.setattr(make_run, "make_plan", lambda *_: plan)
    monkeypatch.setattr(make_run, "claim", lambda *_, **__: None)
    monkeypatch.setattr(make_run, "work_through", work)
    arguments = SimpleNamespace(runs_dir=run.parent, run=run.name, overlay="medical", until="report")
    assert make_run.check_and_run({}, None, arguments, run, None, server.address) == status
    assert statuses(server) == told
