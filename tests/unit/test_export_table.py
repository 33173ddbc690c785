"""The table of a model's exports: which stand in it, and what it says where something was not measured.

.venv/bin/python -m pytest tests/unit/test_export_table.py
"""

import json

import pytest

from train import export_place as place
from train import export_table

FIGURES = {"size": 2e6, "perplexity": 1.0067, "stopped": 16, "asked": 16, "dtype": "bfloat16", "first_token": 0.0541,
           "tokens_per_second": 61.04}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """A model's directory outside of a run."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    return place.find_source("", str(tmp_path / "m"), tmp_path)


def export(source, name, **record):
    """An export of it."""
    target = place.target_of(source, name)
    target.mkdir()
    made = {"made_by": place.MADE_BY, "source": place.stamp(source), "bits": 8} | record
    (target / place.RECORD).write_text(json.dumps(made))
    return target


def of_gguf(**changes):
    return {"format": "gguf", "figures": {"model": FIGURES | {"dtype": "float32"}, "gguf": FIGURES | changes}}


def test_the_model_stands_first_as_it_is_served_and_every_export_with_the_models_speed_of_its_time(source):
    export(source, "gguf-8bit", **of_gguf(size=1e6, tokens_per_second=30.0, dtype="float32"))
    quantised = export(source, "quantised-8bit")
    figures = {"model": FIGURES, "quantised": FIGURES | {"size": 1.07e6, "perplexity": 1.0081}}
    (quantised / export_table.QUANTISED).write_text(json.dumps({"bits": 8, "figures": figures}))
    assert export_table.of_source(source).splitlines() == [
        "                size, MB  perplexity  answers that end  computed in  first token, ms  tokens/s  model's then",
        "  the model         2.00      1.0067          16 of 16     bfloat16             54.1      61.0",
        "  8 bits            1.07      1.0081          16 of 16     bfloat16             54.1      61.0          61.0",
        "  GGUF, 8 bits      1.00      1.0067          16 of 16      float32             54.1      30.0          61.0",
    ]


def test_exports_of_other_weights_and_of_other_models_are_left_out(source):
    export(source, "gguf-16bit", **of_gguf())
    (source.model / "model.safetensors").write_bytes(b"other weights")
    export(source, "gguf-8bit", **of_gguf())
    export(source, "old-gguf-8bit", **of_gguf(size=9e9))
    lines = export_table.of_source(source).splitlines()
    assert len(lines) == 3 and lines[2].split()[:4] == ["GGUF,", "8", "bits", "2.00"]


def test_one_that_is_not_in_its_place_yet_takes_that_of_an_earlier_one(source):
    export(source, "quantised-8bit", figures={"model": FIGURES, "quantised": FIGURES})
    new = {"bits": 8, "figures": {"model": FIGURES, "quantised": FIGURES | {"perplexity": None}}}
    lines = export_table.of_source(source, f"{source.model.name}-quantised-8bit", new).splitlines()
    assert len(lines) == 3 and lines[2].split()[:4] == ["8", "bits", "2.00", "-"]


def test_without_figures_there_is_no_table(source):
    export(source, "gguf-16bit", format="gguf")
    assert export_table.of_source(source) == ""
