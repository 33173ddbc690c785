"""The figures of the data check, and how they are shown."""

import pytest
from data_cases import make_models, prepare, questions

from train.check_data import print_xray, write_plot
from train.data_figures import histogram
from train.data_xray import xray_text


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory)


# --- the figures


def test_the_figures_count_what_the_arrays_hold(tmp_path, models):
    check, prepared = prepare(tmp_path, questions(40), models["chatml"], validation_size=0.25, num_train_epochs=2.5)
    for label, part in (("train", prepared.train), ("validation", prepared.validation)):
        assert check["tokens"][label]["total"] == part.lengths.sum() == len(part.ids)
        trained = sum(int((part[i]["labels"] != -100).sum()) for i in range(len(part)))
        assert check["tokens"][label]["trained"] == part.trained.sum() == trained
        assert check["lengths"][label]["max"] == part.lengths.max()
    assert sum(check["histogram"]["counts"]) == 40
    assert check["steps_per_epoch"] == 8 and check["steps"] == 20
    assert 0 <= check["padding_waste"] < 0.5


def test_the_bars_of_the_histogram_hold_every_length_once():
    for limit in (8, 100, 512, 513, 4096):
        for lengths in ([1], [limit], [1, 2, limit - 1, limit, limit + 1], list(range(1, 2 * limit))):
            bars = histogram(lengths, limit)
            assert len(bars["counts"]) == len(bars["edges"]) - 1 <= 14
            assert sum(bars["counts"]) == sum(length <= limit for length in lengths)
            assert bars["over"] == sum(length > limit for length in lengths)
            low, high = bars["edges"][-2:]
            assert bars["counts"][-1] == sum(low < length <= high for length in lengths)


def test_samples_show_the_text_with_the_trained_tokens_marked(tmp_path, models, capsys):
    rows = [{"instruction": "Say\x1b[31m it.", "output": "Tab\tand\nlines, " + "many words " * 40}, *questions(6)]
    check, _ = prepare(tmp_path, rows, models["chatml"])
    assert len(check["samples"]) == 3
    assert "".join(piece["text"] for piece in check["samples"][1]["pieces"]).startswith("<|im_start|>user\n")
    print_xray(check)
    plain = capsys.readouterr().out
    assert (
        "«It is 1.<|im_end|>»↵" in plain and "\x1b" not in plain and "Say\\x1b[31m it." in plain and "Tab⇥and↵" in plain
    )
    # A path is never broken, however deep the test's directory lies.
    assert max(len(line) for line in plain.splitlines() if str(tmp_path) not in line) <= 96
    coloured = xray_text(check, colour=True, width=88)
    assert "\033[30;42mIt is 1.<|im_end|>\033[0m↵" in coloured


def test_the_xray_says_what_it_looked_for(tmp_path, models):
    rows = [*questions(9), questions(1)[0], {"instruction": "a", "output": ""}]
    check, _ = prepare(tmp_path, rows, models["llama"], bad_rows="drop", validation_size=2, seed=3)
    text = xray_text(check)
    for said in (
        "stop token in the loss   yes: </s>",
        "BOS                      <s>, once, put there by the chat template",
        "empty answers            1 (rows 11) left out",
        "duplicates in train      1 (rows 10 = 1)",
        "in train and validation  none",
        "steps    2 an epoch, of 4 rows each; 6 in all",
    ):
        assert said in text


def test_the_lengths_are_drawn_as_png(tmp_path, models):
    check, _ = prepare(tmp_path, questions(6), models["chatml"])
    write_plot(check, tmp_path / "data" / "lengths.png")
    assert (tmp_path / "data" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "data").glob(".*"))
