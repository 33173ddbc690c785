"""Serve the demo's model and a short tuned run, ask them with the official client, chat through a pipe, end by Ctrl-C.

.venv/bin/python -m pytest tests/e2e/test_serving.py
"""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra package fastapi is not installed")
pytest.importorskip("uvicorn", reason="the extra package uvicorn is not installed")
openai = pytest.importorskip("openai", reason="the extra package openai is not installed")

ROOT = Path(__file__).resolve().parents[2]
ROW = json.loads((ROOT / "demo/data/validation.jsonl").read_text().splitlines()[0])
QUESTION = f"{ROW['instruction']}\n\n{ROW['input']}"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


class Server:
    """`make serve`'s program, ready, on a port of its own."""

    def __init__(self, *words: str):
        command = [sys.executable, "-m", "scripts.serve.serve", *words, "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        alarm = threading.Timer(180, self.process.kill)
        alarm.start()
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError(self.said)
        alarm.cancel()
        self.url = line.split(" at ", 1)[1].split()[0]
        self.client = openai.OpenAI(
            base_url=self.url, api_key="none", max_retries=0, http_client=openai.DefaultHttpxClient(trust_env=False)
        )

    def answer(self, *messages: tuple[str, str], **more):
        said = [{"role": role, "content": text} for role, text in messages]
        more = {"model": self.name(), "temperature": 0, "max_tokens": 32} | more
        return self.client.chat.completions.create(messages=said, **more)

    def name(self) -> str:
        return self.client.models.list().data[0].id


@contextlib.contextmanager
def serving(*words: str):
    server = Server(*words)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with one run of the demo: half an epoch, merged."""
    place = tmp_path_factory.mktemp("runs")
    words = ["--overlay", "demo", "--nproc", "1", "--threads", "1", "--run", "tuned", "--runs-dir", str(place)]
    values = ["max_steps=60", "num_train_epochs=", "max_eval_samples=8", "generate_samples=8"]
    command = [sys.executable, "-m", "scripts.run", *words, "--set", *values]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="module")
def base():
    with serving("--model", "demo/model") as server:
        yield server


@pytest.fixture(scope="module")
def tuned(runs):
    with serving("--run", "tuned", "--runs-dir", str(runs)) as server:
        yield server


def test_before_and_after_tuning_answer_side_by_side_by_the_official_client(base, tuned):
    assert (base.name(), tuned.name()) == ("demo/model", "tuned")
    before, after = (one.answer(("user", QUESTION)) for one in (base, tuned))
    assert (before.model, after.model) == ("demo/model", "tuned")
    assert after.choices[0].message.content.count(" / ") == 3, "a record, as it was trained to write"
    assert before.choices[0].message.content != after.choices[0].message.content
    assert after.choices[0].finish_reason == "stop" and "<|" not in after.choices[0].message.content


def test_answers_at_temperature_zero_are_those_of_the_runs_evaluation(runs, tuned):
    samples = json.loads((runs / "tuned" / "after.json").read_text())["samples"]
    assert len(samples) == 8
    rows = [json.loads(line) for line in (ROOT / "demo/data/validation.jsonl").read_text().splitlines()]
    by_answer = {one["prompt"]: one["generated"] for one in samples}
    compared = 0
    for row in rows:
        asked = f"{row['instruction']}\n\n{row['input']}"
        prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        if prompt in by_answer:
            assert tuned.answer(("user", asked)).choices[0].message.content == by_answer[prompt]
            compared += 1
    assert compared == 8


def test_a_stream_brings_the_same_answer_in_pieces_and_its_end(tuned):
    whole = tuned.answer(("user", QUESTION))
    assert tuned.answer(("user", QUESTION)).choices == whole.choices
    chunks = list(tuned.answer(("user", QUESTION), stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content and len([one for one in pieces if one]) > 3
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert tuned.answer(("user", QUESTION), max_tokens=2).choices[0].finish_reason == "length"


def test_a_temperature_samples_and_a_seed_repeats_it(base):
    def sampled(seed: int) -> str:
        return base.answer(("user", "hello"), temperature=1.5, seed=seed, max_tokens=8).choices[0].message.content

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_plain_text_is_continued_and_a_stop_string_ends_it(base):
    words = {"model": "demo/model", "prompt": "The team", "temperature": 0, "max_tokens": 8}
    whole = base.client.completions.create(**words).choices[0].text
    assert whole
    stop = whole.strip()[1]
    assert base.client.completions.create(**words, stop=[stop]).choices[0].text.rstrip().endswith(stop)


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"model": "another"}, 404, "is not served here; this is 'demo/model'"),
        ({"n": 2}, 400, "one answer a request"),
        ({"logprobs": True}, 400, "logprobs is not known here"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"temperature": -1}, 400, "temperature is -1"),
        ({"max_tokens": 0}, 400, "max_tokens is 0"),
        ({"extra_body": {"chat_template_kwargs": {"tokenize": False}}}, 400, "chat_template_kwargs"),
        ({"extra_body": {"generation_config": "{}"}}, 400, "generation_config is not known here"),
        ({"messages": []}, 400, "messages: a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages: a list"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "takes 1024 tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_cannot_be_answered_as_asked_is_refused_in_words(base, more, status, words):
    given = {"model": "demo/model", "messages": [{"role": "user", "content": "hi"}]} | more
    with pytest.raises(openai.APIStatusError) as error:
        base.client.chat.completions.create(**given)
    assert error.value.status_code == status and words in error.value.body["message"]


@pytest.mark.parametrize("path", ["/load_model", "/reset", "/v1/responses", "/docs"])
def test_nothing_else_of_transformers_server_is_there(base, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(urllib.request.Request(base.url.removesuffix("/v1") + path, data=b"{}", method="POST"))
    assert error.value.code in (404, 405)


def test_an_adapter_that_was_not_merged_answers_as_its_merge_does(runs, tuned, tmp_path):
    shutil.copytree(runs / "tuned", tmp_path / "bare", ignore=shutil.ignore_patterns("merged", "checkpoints"))
    with serving("--run", "bare", "--runs-dir", str(tmp_path)) as bare:
        assert "adapter on " in bare.said
        assert bare.answer(("user", QUESTION)).choices[0].message == tuned.answer(("user", QUESTION)).choices[0].message


def chat(*words: str, given: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.serve.chat", *words]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, input=given, capture_output=True, text=True, timeout=180)


def test_chat_takes_a_prompt_from_a_pipe_and_prints_the_answer_alone(tuned):
    done = chat("--url", tuned.url, given=QUESTION + "\n")
    assert (done.returncode, done.stdout) == (0, tuned.answer(("user", QUESTION)).choices[0].message.content + "\n")


def test_chat_starts_a_server_where_none_runs_and_ends_it_after(runs, tuned):
    done = chat("--run", "tuned", "--runs-dir", str(runs), "--port", "1", given=QUESTION)
    assert done.returncode == 0 and done.stdout.strip() == tuned.answer(("user", QUESTION)).choices[0].message.content
    port = done.stderr.split("http://127.0.0.1:")[1].split("/")[0]
    assert chat("--url", f"http://127.0.0.1:{port}/v1", given="hi").returncode == 2


def test_chat_finds_the_server_of_that_run(runs, tuned):
    port = tuned.url.rsplit(":", 1)[1].split("/")[0]
    done = chat("--run", "tuned", "--runs-dir", str(runs), "--port", port, given=QUESTION)
    assert done.returncode == 0 and f"asking the server at {tuned.url}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_when_told_to(number):
    server = Server("--model", "demo/model")
    server.process.send_signal(number)
    rest = server.process.communicate(timeout=60)[0]
    assert (server.process.returncode, rest) == (0, "ended\n")


def test_a_model_that_cannot_be_loaded_ends_the_server_and_says_why(tmp_path):
    shutil.copytree(ROOT / "demo" / "model", tmp_path / "broken")
    with (tmp_path / "broken" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    command = [sys.executable, "-m", "scripts.serve.serve", "--model", str(tmp_path / "broken"), "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert done.returncode in (1, 2) and "safetensors" in done.stderr and "ready" not in done.stdout


def test_chat_in_a_terminal_remembers_forgets_and_knows_its_commands(tuned):
    near, far = pty.openpty()
    command = [sys.executable, "-m", "scripts.serve.chat", "--url", tuned.url]
    talk = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT | {"TERM": "dumb"}, stdin=far, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip
    os.write(near, b"Name it.\n/reset\n/what\n/help\n/exit\n")
    said = talk.communicate(timeout=120)[0]
    assert talk.returncode == 0, said
    assert f"tuned at {tuned.url}" in said and "forgotten" in said and "/what is no command" in said
    assert tuned.answer(("user", "Name it.")).choices[0].message.content in said
    os.close(near)
    os.close(far)
