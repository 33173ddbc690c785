"""What a pod serves comes from a real S3 server's bucket to its volume: whole, with its recipe, or not at all.

.venv/bin/python -m pytest tests/s3/test_s3_serve.py
"""

import json

import pytest

from scripts.s3.address import parse
from scripts.s3.objects import push, put_text, reached
from scripts.serve import bring
from scripts.serve.find import find_served
from tests.tiny import ROOT
from train.errors import InputError

DEMO = ROOT / "demo" / "model"


def ask(keys, bucket: str, path: str, root) -> int:
    """The program as the pod's first container starts it."""
    keys.setenv("S3_URL", f"{bucket}/team")
    keys.setattr("sys.argv", ["bring", path, "--store", str(root)])
    return bring.main()


@pytest.fixture
def run(bucket) -> str:
    """A run in the bucket that has no result yet."""
    address = parse(f"{bucket}/team/runs/r")
    client = reached(address)
    put_text(client, address, "run.json", json.dumps({"name": "r", "model_path": "/nowhere"}), {})
    put_text(client, address, "train.yaml", "model_name_or_path: demo/model\ntrain_file: rows.json\n", {})
    return f"{bucket}/team/runs/r"


def test_a_merged_run_is_brought_with_what_tells_how_to_ask_it_and_a_second_time_is_no_harm(
    run, bucket, keys, tmp_path
):
    push(DEMO, f"{run}/merged")
    for _ in range(2):
        assert ask(keys, bucket, "runs/r", tmp_path) == 0
    served = find_served("r", "", tmp_path / "runs")
    assert served.directory == tmp_path / "runs" / "r" / "merged" and served.recipe.data_format == "instruction"
    assert (served.directory / "model.safetensors").read_bytes() == (DEMO / "model.safetensors").read_bytes()


def test_a_model_is_brought_to_its_path(bucket, keys, tmp_path):
    push(DEMO, f"{bucket}/team/models/o/m/main")
    assert ask(keys, bucket, "models/o/m/main", tmp_path) == 0
    assert find_served("", str(tmp_path / "models/o/m/main"), tmp_path).directory.is_dir()


def test_what_is_not_whole_is_bad_input(run, bucket, keys, tmp_path):
    for path, words in (("runs/r", "has no merged model and no whole one"), ("models/o/absent", "absent")):
        with pytest.raises(InputError, match=words):
            ask(keys, bucket, path, tmp_path)
