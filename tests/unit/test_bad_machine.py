"""What a machine, a model directory or a make line can have wrong is refused before anything starts, in words.

Each case spoils a sound world and names the words that its message must hold.
"""

import io
import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from scripts import run as chain
from scripts import runs
from tests.tiny import make_world
from train import preflight, processes
from train.errors import InputError
from train.launch import meet_here


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A world in which nothing is wrong."""
    return make_world(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def world(sound, tmp_path):
    """A copy of the sound world to spoil, with an overlay directory of its own."""
    shutil.copytree(sound.root, tmp_path / "world")
    values = yaml.safe_load((tmp_path / "world" / "train.yaml").read_text())
    values["model_name_or_path"] = str(tmp_path / "world" / "model")
    values["train_file"] = str(tmp_path / "world" / "rows.jsonl")
    overlay = tmp_path / "overlays" / "mine"
    overlay.mkdir(parents=True)
    (overlay / "train.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def refusal(monkeypatch, world: Path, *arguments: str, runs_dir: Path | None = None) -> str:
    """What `make run` says to a command line in this world; fails where it is not refused."""
    monkeypatch.setattr(chain, "OVERLAYS", world / "overlays")
    monkeypatch.setattr(chain, "ROOT", world)
    line = ["run", "--overlay", "mine", "--runs-dir", str(runs_dir or world / "runs"), *arguments]
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setattr(chain, "run_stage", lambda *_: pytest.fail("a stage was started"))
    with pytest.raises(InputError) as caught:
        chain.main()
    message = str(caught.value)
    assert "fix: " in message
    return message


def edit_json(path: Path, **changes) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_pickle(model: Path) -> None:
    """Leave pickled weights only."""
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def with_missing_shard(model: Path) -> None:
    """An index that names a file which is not there."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    save_file(tensors, model / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (number == 0)}-of-00002.safetensors" for number, name in enumerate(tensors)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def cut(path: Path, keep: int) -> None:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[:keep])


MODELS = {
    "no-directory": (shutil.rmtree, "model is no directory"),
    "no-config": (lambda model: (model / "config.json").unlink(), "has no config.json (it holds "),
    "broken-config": (lambda model: (model / "config.json").write_text("{"), "config.json: is not JSON"),
    "unknown-architecture": (
        lambda model: edit_json(model / "config.json", model_type="mymodel"),
        "'mymodel' is unknown",
    ),
    "no-text-model": (lambda model: edit_json(model / "config.json", model_type="vit"), "vit generates no text"),
    "quantised": (
        lambda model: edit_json(model / "config.json", quantization_config={"quant_method": "gptq"}),
        "already quantised (gptq)",
    ),
    "pickle-only": (as_pickle, "pickled weights only (pytorch_model.bin)"),
    "no-weights": (lambda model: (model / "model.safetensors").unlink(), "holds no *.safetensors"),
    "missing-shard": (with_missing_shard, "model-00002-of-00002.safetensors: is named but not there"),
    "cut-weights": (lambda model: cut(model / "model.safetensors", 9000), "has 9000 bytes, its header says"),
    "cut-header": (lambda model: cut(model / "model.safetensors", 100), "cut short: 100 bytes"),
    "no-tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer"),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_directory_that_cannot_be_trained_is_refused(world, monkeypatch, case):
    spoil, words = MODELS[case]
    spoil(world / "world" / "model")
    assert words in refusal(monkeypatch, world)


LINES = {
    "unknown-overlay": (["--overlay", "medcal"], "take one of: mine"),
    "setting-without-value": (["--set", "lora_r"], "lora_r: is no key=value"),
    "setting-misspelt": (["--set", "lora_rank=4"], "write lora_r"),
    "setting-of-wrong-type": (["--set", "learning_rate=2e-4"], "write 2.0e-4"),
    "model-not-here": (["--model", "nobody/nothing"], "nobody/nothing is not on this machine"),
    "data-not-here": (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    "too-many-processes": (["--nproc", "999"], "999 processes on"),
    "batch-not-divisible": (["--nproc", "2", "--set", "global_batch_size=20"], "2.50 is no whole number"),
    "target-unknown": (["--set", "lora_target_modules=[vproj]"], "vproj matches no linear module"),
    "one-target-of-two": (["--set", "lora_target_modules=[q_proj, vproj]"], "write v_proj"),
    "saved-module-unknown": (["--set", "modules_to_save=[head]"], "head is no module of the model"),
    "tied-head": (["--set", "modules_to_save=[lm_head]"], "shares its weights with the other end"),
    "nccl-without-gpu": (["--set", "ddp_backend=nccl"], "nccl needs an NVIDIA GPU"),
    "ccl-without-binding": (["--set", "ddp_backend=ccl"], "the last one was made for torch 2.8"),
    "ipex-absent": (["--set", "use_ipex=true"], "Intel's extension does not load"),
    "flash-attention-absent": (["--set", "attn_implementation=flash_attention_2"], "flash-attn"),
    "mlflow-absent": (["--set", "report_to=[mlflow]"], "pip install mlflow-skinny"),
}


@pytest.mark.parametrize("case", LINES)
def test_make_line_that_cannot_work_is_refused(world, monkeypatch, case):
    arguments, words = LINES[case]
    monkeypatch.setattr(chain, "choose_layout", small_machine)
    assert words in refusal(monkeypatch, world, *arguments)


def small_machine(wanted=None, threads=None):
    """The layout on a machine of four cores, whatever this one has."""
    from train.hardware import Cpus
    from train.layout import choose_layout

    return choose_layout(wanted, threads, Cpus({0: [0, 1, 2, 3]}, 1, None))


def test_all_problems_are_said_at_once(world, monkeypatch):
    as_pickle(world / "world" / "model")
    said = refusal(monkeypatch, world, "--set", "ddp_backend=nccl", "report_to=[mlflow]")
    assert all(words in said for words in ("pickled weights", "nccl needs", "mlflow-skinny"))


def test_too_little_memory_is_known_before_a_weight_is_loaded(world, monkeypatch):
    monkeypatch.setattr(preflight, "memory_available", lambda: 100 * 2**20)
    assert "memory" in refusal(monkeypatch, world).lower()


def test_full_disk_is_known_before_training(world, monkeypatch):
    usage = shutil.disk_usage(world)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert "0.0 GiB free, but" in refusal(monkeypatch, world)


def test_place_that_cannot_be_written_is_refused(world, monkeypatch):
    (world / "file").write_text("")
    assert "is not a writable directory" in refusal(monkeypatch, world, runs_dir=world / "file" / "runs")


@pytest.mark.parametrize("port", ["taken", "http", "70000"])
def test_port_that_cannot_be_used_is_refused(monkeypatch, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]) if port == "taken" else port)
        with pytest.raises(InputError, match=r"MASTER_PORT: .*: cannot be used"):
            meet_here()


def test_run_that_another_process_works_on_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SECONDS_TO_WAIT", 0.0)
    with (
        runs.lock_run(tmp_path),
        pytest.raises(InputError, match=r"is being worked on by process \d+"),
        runs.lock_run(tmp_path),
    ):
        pass


def test_name_of_another_run_is_refused(world, monkeypatch):
    other = world / "runs" / "kept"
    other.mkdir(parents=True)
    (other / "run.json").write_text(json.dumps({"identity": "0"}))
    said = refusal(monkeypatch, world, "--run", "kept")
    assert "holds another run" in said and "make delete-run RUN=kept" in said


@pytest.mark.parametrize(("name", "words"), [("nothing", "is no run"), ("../x", "is no run"), ("kept", "needs a yes")])
def test_deletion_needs_a_run_and_a_yes(tmp_path, monkeypatch, name, words):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.json").write_text("{}")
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal that could say yes
    with pytest.raises(InputError, match=words):
        runs.delete_run(tmp_path, name, yes=False)
    assert (tmp_path / "kept").is_dir()
    runs.delete_run(tmp_path, "kept", yes=True)
    assert not (tmp_path / "kept").exists()


def test_batch_message_says_what_would_fit():
    from types import SimpleNamespace

    recipe = SimpleNamespace(per_device_train_batch_size=8, global_batch_size=24)
    with pytest.raises(InputError, match="take per_device_train_batch_size 6"):
        processes.check_batch(recipe, 4, "train.yaml")
