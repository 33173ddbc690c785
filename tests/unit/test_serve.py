"""Serving and chatting: what is found, how it is asked, and that every bad input has its message.

.venv/bin/python -m pytest tests/unit/test_serve.py
"""

import argparse
import io
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.serve import chat, serve
from scripts.serve.find import find_served
from scripts.serve.prompts import CHAT, NO_CHAT, ONE_QUESTION, QUESTION, TEXT, Prompts, Refused
from train.data_tokens import load_tokenizer
from train.errors import InputError
from train.recipe import with_defaults

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "model"


def run_with(runs: Path, name: str, *made: str) -> Path:
    """A run's directory with these of its results."""
    run = runs / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"name": name, "model_path": str(DEMO), "started": "2026-11-28"}))
    (run / "train.yaml").write_text(f"model_name_or_path: {DEMO}\ntrain_file: rows.json\n")
    for one in made:
        (run / one).symlink_to(DEMO)
    return run


def complaint(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return "\n".join(error.value.problems)


# ---- what is found ----


@pytest.mark.parametrize(
    ("made", "directory", "adapter"),
    [
        (["adapter", "merged"], "merged", None),
        (["model"], "model", None),
        (["adapter"], None, "adapter"),
    ],
)
def test_a_run_is_served_merged_or_whole_or_by_its_adapter_on_its_base(tmp_path, made, directory, adapter):
    run = run_with(tmp_path, "r-1", *made)
    served = find_served("r-1", "", tmp_path)
    assert served.name == "r-1" and served.recipe.data_format == "instruction"
    assert served.directory == (run / directory if directory else DEMO)
    assert served.adapter == (run / adapter if adapter else None)


def test_a_model_is_named_as_it_was_given():
    assert find_served("", f"{DEMO}/", Path("runs")).name == str(DEMO)


def test_bad_runs_and_models_have_their_messages(tmp_path):
    run_with(tmp_path, "begun-1")
    (run_with(tmp_path, "moved-1", "adapter") / "run.json").write_text(json.dumps({"model_path": "/nowhere/base"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "config.json").write_text((DEMO / "config.json").read_text())
    for run, model, words in (
        ("", "", "RUN or MODEL: is missing"),
        ("begun-1", str(DEMO), "RUN and MODEL: are both given"),
        ("absent-1", "", "there are: begun-1, moved-1"),
        ("../begun-1", "", "is no run in"),
        ("begun-1", "", "has learned nothing yet"),
        ("moved-1", "", "is not merged, and its base /nowhere/base is not here"),
        ("", "nowhere/model", "is no directory, and no model of the store"),
        ("", str(tmp_path / "empty"), "has no config.json"),
        ("", str(tmp_path / "pickles"), "safetensors"),
    ):
        assert words in complaint(find_served, run, model, tmp_path), words


def test_a_port_that_is_taken_or_none_and_a_foreign_address_have_their_messages():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "is taken on 127.0.0.1" in complaint(serve.listen, "127.0.0.1", str(taken.getsockname()[1]))
    assert "is no port" in complaint(serve.listen, "127.0.0.1", "http")
    assert "is no port" in complaint(serve.listen, "127.0.0.1", "70000")
    assert "is no address of this machine" in complaint(serve.listen, "192.0.2.1", "0")


def test_packages_that_are_missing_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr(serve, "PACKAGES", ("torch", "no_such_server"))
    assert "no_such_server: not installed" in (said := complaint(serve.check_packages)) and "make venv" in said


# ---- how it is asked ----


@pytest.fixture
def tokenizer():
    return load_tokenizer(DEMO)


def text_of(prompts: Prompts, *messages: tuple[str, str]) -> str:
    ids = prompts.apply_chat_template([{"role": role, "content": text} for role, text in messages])["input_ids"]
    return prompts.tokenizer_of_model.decode(ids[0])


def recipe(**values):
    return with_defaults({"model_name_or_path": "m", "train_file": "rows.json"} | values)


def test_a_model_with_a_template_is_asked_in_it_with_the_recipes_system_message_and_frame(tokenizer):
    plain = Prompts(tokenizer, None, 1024)
    assert plain.kind == CHAT
    assert text_of(plain, ("user", "hi")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tuned = Prompts(tokenizer, recipe(system_prompt="Be brief.", data_format="dialogue"), 1024)
    asked = text_of(tuned, ("user", "A: hi"))
    assert asked.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "Summarize this dialog:\nA: hi\n---\nSummary:" in asked
    assert "Be brief." not in text_of(tuned, ("system", "Own."), ("user", "hi"))


def test_a_model_trained_on_plain_prompts_gets_its_recipes_prompt_and_one_question_at_a_time(tokenizer):
    prompts = Prompts(tokenizer, recipe(use_chat_template=False), 1024)
    assert prompts.kind == QUESTION
    assert text_of(prompts, ("user", "Name it.")) == recipe().prompt_without_input.format(instruction="Name it.")
    for messages in ([("system", "x"), ("user", "y")], [("user", "a"), ("assistant", "b"), ("user", "c")]):
        with pytest.raises(Refused, match=ONE_QUESTION):
            text_of(prompts, *messages)


def test_a_model_without_template_and_recipe_is_asked_by_text_alone(tokenizer):
    tokenizer.chat_template = None
    prompts = Prompts(tokenizer, None, 1024)
    assert prompts.kind == TEXT
    with pytest.raises(Refused, match=NO_CHAT):
        text_of(prompts, ("user", "hi"))
    assert prompts("the team", return_tensors="pt")["input_ids"].shape[1] > 0


def test_a_prompt_that_fills_the_context_and_an_empty_one_are_refused(tokenizer):
    prompts = Prompts(tokenizer, None, 16)
    with pytest.raises(Refused, match="takes 16 tokens, and the prompt has"):
        text_of(prompts, ("user", "word " * 40))
    with pytest.raises(Refused, match="empty prompt"):
        prompts("", return_tensors="pt")


def test_special_tokens_are_left_where_an_answer_is_parsed_by_them(tokenizer):
    prompts = Prompts(tokenizer, None, 1024)
    ids = prompts.apply_chat_template([{"role": "user", "content": "hi"}])["input_ids"][0]
    assert (
        prompts.decode(ids).startswith("<|im_start|>user") and prompts.decode(ids, skip_special_tokens=True)[0] == "u"
    )


# ---- chat ----


def talk(monkeypatch, url: str, given: str = "", **more) -> int:
    """make chat with this on its standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    told = {"system": "", "temperature": 0.0, "max_tokens": 8}
    return chat.talk(chat.Talk(url, argparse.Namespace(**(told | more))))


def test_a_server_that_is_not_there_is_said(monkeypatch):
    pytest.importorskip("openai", reason="the extra package openai is not installed")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "no server answers there" in complaint(talk, monkeypatch, f"http://127.0.0.1:{port}/v1")


def test_bad_words_to_chat_have_their_messages(monkeypatch):
    for words, said in (
        (["--url", "localhost:8000"], "is no address of a server"),
        ([], "RUN, MODEL or URL"),
        (["--run", "r-1", "--on", "moon"], "ON: moon: is no place"),
    ):
        monkeypatch.setattr(sys, "argv", ["chat", *words])
        assert said in complaint(chat.main)


def test_an_empty_pipe_is_no_prompt(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "holds no prompt" in complaint(chat.talk, SimpleNamespace())
