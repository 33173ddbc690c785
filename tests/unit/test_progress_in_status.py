"""Progress goes into a TrainJob's status only where Kubeflow Trainer's controller can be reached.

.venv/bin/python -m pytest tests/unit/test_progress_in_status.py
"""

import socket

import pytest

from train.arguments import shows_progress

VARIABLE = "KUBEFLOW_TRAINER_SERVER_URL"


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def test_a_controller_that_answers_gets_progress(server, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, f"https://127.0.0.1:{server.getsockname()[1]}/apis/trainer")
    assert shows_progress() and capsys.readouterr().out == ""


@pytest.mark.parametrize("url", ["https://127.0.0.1:{port}/x", "https://127.0.0.1:port/x", "https:///x"])
def test_a_controller_that_cannot_be_reached_is_told_once_and_not_asked_again(server, monkeypatch, capsys, url):
    url = url.format(port=server.getsockname()[1])
    server.close()
    monkeypatch.setenv(VARIABLE, url)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert not shows_progress()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"no progress in the TrainJob's status: {url} does not answer")


def refuse(*_, **__):
    raise ConnectionRefusedError("refused")


def test_without_a_controller_nobody_is_asked(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(socket, "create_connection", None)
    assert not shows_progress()
