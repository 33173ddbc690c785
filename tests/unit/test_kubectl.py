"""What kubectl answers: nothing at all, half of it, or a proxy's page; none of it ends a program in a traceback.

.venv/bin/python -m pytest tests/unit/test_kubectl.py
"""

import queue

import pytest

from scripts.cluster import follow
from scripts.cluster.checks.reach import unreachable
from scripts.cluster.kubectl import BRIEF, Cluster, Refused
from train.errors import InputError


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that prints this text and ends with this status."""

    def make(text: str, status: int = 0) -> Cluster:
        (tmp_path / "answer").write_text(text)
        (tmp_path / "kubectl").write_text(f"#!/bin/sh\ncat {tmp_path}/answer\nexit {status}\n")
        (tmp_path / "kubectl").chmod(0o755)
        return Cluster()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return make


@pytest.mark.parametrize("said", ["", "\n", "  \n\n"])
def test_a_refusal_without_a_word_has_a_text_that_can_be_shown(kubectl, said):
    with pytest.raises(Refused, match="kubectl ended with exit status 3 and said nothing") as refused:
        kubectl(said, 3).run("get", "pods")
    assert str(refused.value).splitlines()[-1]
    assert "said nothing" in str(unreachable(refused.value))


def test_kubectl_runs_without_collecting_garbage_unless_a_user_wants_it(kubectl, tmp_path, monkeypatch):
    cluster = kubectl("")
    (tmp_path / "kubectl").write_text('#!/bin/sh\necho "$GOGC $GOMEMLIMIT"\n')
    for name in BRIEF:
        monkeypatch.delenv(name, raising=False)
    assert cluster.run("get", "pods") == "off 512MiB\n"
    monkeypatch.setenv("GOGC", "50")
    assert cluster.run("get", "pods") == "50 512MiB\n"


@pytest.mark.parametrize("text", ['{"items": [', "<html>proxy</html>", "[]", "null"])
def test_an_answer_that_is_torn_or_anothers_is_a_refusal(kubectl, text):
    cluster = kubectl(text)
    for ask in (lambda: cluster.raw("/version"), lambda: cluster.get("job", "r"), lambda: cluster.list("pods")):
        with pytest.raises(Refused, match="the answer is torn, or not the API server's"):
            ask()


@pytest.mark.parametrize(
    "error",
    [
        Refused("", 1),
        InputError("kubectl: is not installed"),
        OSError(12, "no memory"),
        KeyError("items"),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_look_fails_by_is_told_and_the_next_one_is_made(monkeypatch, error):
    answers = iter([error, []])

    def find_runs(*_, **__):
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        looker.over.set()
        return answer

    monkeypatch.setattr(follow, "find_runs", find_runs)
    monkeypatch.setattr(follow, "SECONDS_BETWEEN_LOOKS", 0.0)
    told = queue.Queue()
    looker = follow.Looker(Cluster(), "r", told)
    looker.start()
    looker.join(20)
    kind, what = told.get(timeout=1)
    assert kind == "trouble" and what
    assert told.get(timeout=1) == ("job", None)
