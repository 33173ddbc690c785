"""Every use case end to end on a real cluster, at test size, two at a time."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from tests.cluster.runs import (
    COLUMNS,
    MEDICAL,
    QUICK,
    SMALL,
    curve,
    deploy,
    kubectl,
    make,
    put,
    read,
    rows_as,
    team,
    wait_for_end,
)
from tests.e2e.chain import run_chain

pytestmark = pytest.mark.cluster
SPACE = "ft-runs"
LANES = 2  # as many as there are cores

PAIR = {"nodes": 2, "minNodes": 2}
ELASTIC = {"nodes": 2, "minNodes": 1}
# Overlay: values of its recipe, of its placement, and words for make. The rest of each is the use case's own.
CASES = {
    "alpaca": (
        {"validation_size": 24},
        PAIR | {"resources.requests.cpu": 1, "resources.requests.memory": "3Gi"},  # its CPUs are its own
        ["MODEL=demo/model", "DATA=datasets/instructions.jsonl"],
    ),
    "medical": ({}, ELASTIC, ["MODEL=demo/model", "DATA=datasets/medical.json"]),
    "financial": ({}, ELASTIC, ["MODEL=demo/model", "DATA=datasets/instructions.jsonl"]),
    "quotes": (
        {},
        {"processesPerNode": 2, "resources.limits.cpu": 2},
        ["MODEL=demo/model", "DATA=datasets/quotes.jsonl"],
    ),
    "argilla": (  # its store is S3: tests/cluster/test_s3_run.py
        {"max_grad_norm": 1.0},
        {"s3": ""},
        ["MODEL=demo/model", "DATA=datasets/ranked.jsonl", "WITHOUT=store-s3", "WITH=store-pvc"],
    ),
    "samsum": (
        {"validation_size": 24, "gradient_checkpointing": ""},
        PAIR | {"image": "localhost/tunefleet:cpu-000000000000", "sharedMemory": "64Mi",
                "resources.requests.nvidia.com/gpu": "", "resources.limits.nvidia.com/gpu": ""},
        ["MODEL=demo/model", "DATA=datasets/dialogues.jsonl", "WITHOUT=gpu-nvidia"],
    ),
    "template": ({}, ELASTIC, []),  # model and rows of its own, where its recipe says
    "demo": ({"validation_size": "", "exact_match": ""}, {"processesPerNode": 2, "resources.limits.cpu": 2}, []),
}  # fmt: skip
KINDS = {"alpaca": "mpijob", "medical": "pytorchjob", "financial": "pytorchjob", "quotes": "job", "argilla": "job",
         "samsum": "trainjob", "template": "pytorchjob", "demo": "job"}  # fmt: skip


@pytest.fixture(scope="session")
def lane(cluster):
    """The use cases' runs, each a Future of its name; the namespace goes when all tests are done."""
    with team(SPACE), ThreadPoolExecutor(LANES) as pool:
        for name, fields in COLUMNS.items():
            put(SPACE, f"datasets/{name}.jsonl", rows_as(fields))
        put(SPACE, "datasets/train.jsonl", rows_as(COLUMNS["instructions"]))
        put(SPACE, "datasets/medical.json", MEDICAL.read_bytes() if MEDICAL.exists() else b"")
        copy = "mkdir -p /store/models && cp -r /opt/tunefleet/demo/model /store/models/base"
        kubectl(SPACE, "exec", "deploy/data-access", "--", "sh", "-c", copy)
        runs = {name: pool.submit(run_case, name) for name in CASES if name != "medical" or MEDICAL.exists()}
        yield runs
        for run in runs.values():
            run.cancel()


def run_case(name: str) -> SimpleNamespace:
    """Deploy a use case and follow it to its end."""
    recipe, place, words = CASES[name]
    if name == "argilla":
        hold("Hold")
        words = [*words, "FORCE=1"]  # preflight sees that the queue is held
    run = deploy(SPACE, name, recipe, place, *words)
    held = ""
    if name == "argilla":
        held = make(SPACE, "status", f"RUN={run}")
        hold("None")
    return SimpleNamespace(name=run, seen=wait_for_end(SPACE, run), held=held)


def hold(policy: str) -> None:
    """Let the queue admit nothing, or admit again."""
    patch = json.dumps({"spec": {"stopPolicy": policy}})
    kubectl(SPACE, "patch", "localqueue", "finetune", "--type=merge", f"--patch={patch}")


@pytest.mark.parametrize("name", CASES)
def test_a_use_case_ends_with_an_adapter_a_proven_merge_and_its_record(lane, name):
    if name not in lane:
        pytest.skip("needs the medical rows (SHARED=directory with data/)")
    run = result(lane[name])
    record = json.loads(read(SPACE, run.name, "run.json"))
    assert record["status"] == "complete" and record["runtime"] == KINDS[name]
    assert record["placement"]["nodes"] == (SMALL | CASES[name][1])["nodes"]
    assert record["image"] and "latest" not in record["image"]
    assert len(curve(read(SPACE, run.name, "metrics.jsonl"))) == 4
    proof = json.loads(read(SPACE, run.name, "merged/merge.json"))
    assert proof["checks"] and all(check["result"] == "passed" for check in proof["checks"])
    assert json.loads(read(SPACE, run.name, "adapter/adapter_config.json"))["peft_type"] == "LORA"
    assert "is complete" in run.seen


def result(run: Future) -> SimpleNamespace:
    """The finished run; waits for it."""
    return run.result(timeout=1200)


def test_a_queue_holds_a_run_back_and_says_so(lane):
    assert "queued" in result(lane["argilla"]).held


@pytest.mark.parametrize("name", [name for name, (_, place, _) in CASES.items() if place.get("nodes") == 2])
def test_two_nodes_learn_what_two_local_processes_learn(lane, tmp_path, name):
    if name not in lane:
        pytest.skip("needs the medical rows (SHARED=directory with data/)")
    recipe, _, _ = CASES[name]
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows_as(COLUMNS["dialogues" if name == "samsum" else "instructions"]))
    values = [f"{key}={value}" for key, value in (QUICK | recipe).items()]
    data = ["--model", "demo/model", "--data", str(MEDICAL if name == "medical" else rows), "--until", "train"]
    run, _ = run_chain(tmp_path, name, *data, "--nproc", "2", "--threads", "1", "--set", *values)
    local, far = (
        curve((run / "metrics.jsonl").read_text()),
        curve(read(SPACE, result(lane[name]).name, "metrics.jsonl")),
    )
    assert local.keys() == far.keys() and len(local) == 4
    assert all(far[step] == pytest.approx(local[step], rel=1e-3) for step in local), (local, far)
