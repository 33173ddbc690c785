"""A row as text: the prompt generation sees, the answer behind it, and what cannot be rendered truly."""

from types import SimpleNamespace

import pytest
from data_cases import CHATML, LLAMA, THINKING, make_model, make_recipe

from train.data_tokens import load_codec
from train.errors import InputError
from train.render import choose_style, render_row
from train.rows import Row

ROW = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
PLAIN = "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    made = {"chatml": CHATML, "llama": LLAMA, "thinking": THINKING, "none": None}
    options = {"llama": {"bos": "<s>", "eos": "</s>", "kind": "pieces"}}
    return {
        name: load_codec(make_model(tmp_path_factory.mktemp(name), chat, **options.get(name, {}))).tokenizer
        for name, chat in made.items()
    }


def render(tokenizer, fields, stops=("<|im_end|>",), **recipe):
    recipe = make_recipe(train_file="rows.jsonl", **recipe)
    return render_row(Row(1, fields), choose_style(recipe, tokenizer, stops, "train.yaml"))


def chat(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns}


def test_a_chat_model_is_asked_instruction_and_input_without_alpaca_s_frame(tokenizers):
    row = render(tokenizers["chatml"], ROW)
    assert row.prompt == "<|im_start|>user\nAdd.\n\n1 and 2<|im_end|>\n<|im_start|>assistant\n"
    assert row.text == row.prompt + "3<|im_end|>\n"


def test_a_chat_model_is_asked_the_recipe_s_own_prompt_where_it_gives_one(tokenizers):
    own = {"prompt_with_input": "{input}: {instruction}", "prompt_without_input": "Do: {instruction}"}
    assert "user\n1 and 2: Add.<|im_end|>" in render(tokenizers["chatml"], ROW, **own).prompt
    assert "user\nDo: Add.<|im_end|>" in render(tokenizers["chatml"], {**ROW, "input": " "}, **own).prompt


def test_the_system_prompt_comes_first(tokenizers):
    row = render(tokenizers["chatml"], ROW, system_prompt="Be brief.")
    assert row.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


def test_a_base_model_gets_alpaca_s_frame(tokenizers):
    row = render(tokenizers["none"], ROW)
    assert row.prompt.startswith("Below is an instruction") and row.prompt.endswith(PLAIN)
    assert row.text == row.prompt + "3"
    assert "### Input" not in render(tokenizers["none"], {**ROW, "input": ""}).text


def test_a_chat_model_can_be_trained_without_its_template(tokenizers):
    assert render(tokenizers["chatml"], ROW, use_chat_template=False).prompt.endswith(PLAIN)


def test_braces_in_a_row_are_text(tokenizers):
    row = render(tokenizers["none"], {"prompt": "{x} {prompt}", "completion": "{y}"}, data_format="completion")
    assert row.text == "{x} {prompt}{y}"


def test_a_dialogue_is_summarised_by_the_prompt_of_the_recipe(tokenizers):
    fields = {"dialogue": "A: hi", "summary": "A greets."}
    row = render(tokenizers["none"], fields, data_format="dialogue")
    assert row.prompt == "Summarize this dialog:\nA: hi\n---\nSummary:\n"
    row = render(tokenizers["chatml"], fields, data_format="dialogue", prompt_template="Sum up: {dialogue}")
    assert "user\nSum up: A: hi<|im_end|>" in row.prompt


def test_every_assistant_turn_is_an_answer_behind_its_own_prompt(tokenizers):
    row = render(tokenizers["chatml"], chat("q1", "a1", "q2", "a2"), data_format="messages")
    assert [row.text[start : start + 2] for start in row.starts] == ["a1", "a2"]
    assert row.answer == "a2" and row.prompt.endswith("q2<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_thinks_in_the_last_turn_only_is_followed(tokenizers):
    row = render(tokenizers["thinking"], chat("q1", "a1", "q2", "a2"), data_format="messages")
    assert row.fault is None
    first, second = (row.text[start:] for start in row.starts)
    assert first.startswith("a1<|im_end|>") and second.startswith("<think>\n\n</think>\n\na2<|im_end|>")


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        (CHATML.replace("m['content'] | trim", "(m['content'] if loop.last or m['role'] != 'user' else 'gone')"),
         "prompt rewritten"),
        (CHATML.replace("m['content'] | trim", "m['content'].split('</think>')[-1]"), "answer changed"),
        ("{{ raise_exception('System role not supported') }}", "refused by the template"),
    ],
)  # fmt: skip
def test_what_a_template_makes_untrue_is_a_fault_of_the_row(tokenizers, template, kind):
    tokenizer = tokenizers["chatml"]
    fields = chat("q1", "<think>so</think>a1", "q2", "a2")
    styled = choose_style(make_recipe(train_file="r.jsonl", data_format="messages"), tokenizer, (), "train.yaml")

    class Other:
        def apply_chat_template(self, turns, **options):
            return tokenizer.apply_chat_template(turns, chat_template=template, **options)

    assert render_row(Row(7, fields), SimpleNamespace(**{**vars(styled), "chat": Other()})).fault[0] == kind


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_an_empty_answer_is_a_fault_in_every_shape(tokenizers, answer):
    assert render(tokenizers["chatml"], {**ROW, "output": answer}).fault == ("no answer", "")
    assert render(tokenizers["none"], {**ROW, "output": answer}).fault == ("no answer", "")
    assert render(tokenizers["none"], {"text": answer}, data_format="text").fault == ("no text", "")
    row = render(tokenizers["chatml"], chat("q", answer, "q2", "a2"), data_format="messages")
    assert row.fault == ("no answer", "")


def test_an_answer_that_spells_the_stop_token_is_a_fault(tokenizers):
    for name in ("chatml", "none"):
        row = render(tokenizers[name], {**ROW, "output": "three<|im_end|>"})
        assert row.fault == ("stop token inside", "<|im_end|>")


def test_a_system_message_of_the_row_beside_the_recipe_s_is_a_fault(tokenizers):
    row = render(tokenizers["chatml"], chat("q", "a", system="s"), data_format="messages", system_prompt="t")
    assert row.fault == ("two system messages", "")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"use_chat_template": True}, "use_chat_template: is true, but the model's tokenizer has no chat template"),
        ({"data_format": "messages"}, "data_format: is messages, but no chat template"),
        ({"system_prompt": "Be brief."}, "system_prompt: is given, but no chat template"),
    ],
)
def test_a_recipe_that_needs_a_chat_template_is_refused_by_a_model_without(tokenizers, recipe, said):
    with pytest.raises(InputError) as caught:
        choose_style(make_recipe(train_file="r.jsonl", **recipe), tokenizers["none"], (), "train.yaml")
    assert f"train.yaml: {said}" in str(caught.value)


def test_text_is_never_put_into_a_chat_template(tokenizers):
    row = render(tokenizers["chatml"], {"text": "Once."}, data_format="text")
    assert (row.text, row.prompt, row.starts) == ("Once.", "", (0,))
