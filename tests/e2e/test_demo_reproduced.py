"""A demo run of a few steps, trained again from its record: the same adapter; a package of another version is named."""

import subprocess
import sys

import pytest

from tests.e2e.chain import read, run_chain
from tests.tiny import ROOT, environment

FEW = ["num_train_epochs=", "max_steps=3", "max_train_samples=96", "max_eval_samples=8", "generate_samples=1",
       "exact_match=", "max_new_tokens=4"]  # fmt: skip


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The run, and what reproducing it said where peft says that it is another release."""
    runs = tmp_path_factory.mktemp("runs")
    run, _ = run_chain(runs, "demo", "--run", "few", "--until", "train", "--set", *FEW)
    fake = runs / "fake" / "peft-99.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 99.9\n")
    command = [sys.executable, "-m", "scripts.reproduce", "--run", "few", "--runs-dir", str(runs), "--until", "train"]
    settings = environment(2)
    settings["PYTHONPATH"] = f"{fake.parent}:{settings['PYTHONPATH']}"
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    return run, done


def test_a_run_trained_again_from_its_record_gives_the_same_adapter(reproduced):
    run, done = reproduced
    assert done.returncode == 0, done.stdout + done.stderr
    was, now = (read(directory, "run.json")["result"] for directory in (run, run.with_name("few-reproduced")))
    assert was == now and was["directory"] == "adapter"
    digest = was["files"]["adapter_model.safetensors"]
    assert f"bit for bit the same adapter: adapter_model.safetensors sha256 {digest}" in done.stdout
    assert "beside the weights differ" not in done.stdout


def test_a_package_of_another_version_is_named_before_anything_starts(reproduced):
    run, done = reproduced
    version = read(run, "run.json")["versions"]["peft"]
    said, _, _ = done.stdout.partition("--- check-data")
    assert f"warning: peft: was {version}, is 99.9\n" in said
    assert said.count("warning: ") == 1, "nothing else differs"


def test_the_new_run_says_whose_reproduction_it_is(reproduced):
    run, _ = reproduced
    again = read(run.with_name("few-reproduced"), "run.json")
    assert again["reproduces"] == {"name": "few", "identity": read(run, "run.json")["identity"]}
    assert again["identity"] == again["reproduces"]["identity"]
