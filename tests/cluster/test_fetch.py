"""make fetch-model ON=cluster on the testbed: a job fetches from the tests' own hub, through the network's one opening.

The hub is this machine's, at the address that the testbed's nodes know it by.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import DATA_ACCESS
from tests.cluster.runs import clean
from tests.cluster.teams import ROOT, end_team, eventually, kubectl, make_team, tried
from tests.hub.server import serve

pytestmark = pytest.mark.cluster

TEAM, SOURCE = "ft-fetch", "ft-fetch-source"
TOKEN = "hf_token-of-these-tests"
SIZE = 40_000_000
RATE = 10e6  # bytes a second, while a fetch is disturbed
TRICKLE = 0.2e6  # once it is in its middle: it stays there while something is typed
SLACK = 6_000_000  # what was on its way, and what a killed pod had not yet written


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory):
    """A namespace with a store, and a hub that its fetches may reach; how to ask for one."""
    bridge = subprocess.run(["ip", "-j", "addr", "show", "testbed0"], capture_output=True, text=True)
    if bridge.returncode:
        pytest.skip("the hub is played by the testbed's machine")
    own = next(one["local"] for one in json.loads(bridge.stdout)[0]["addr_info"] if one["family"] == "inet")
    repositories = tmp_path_factory.mktemp("hub")
    for name in ("large", "gated"):
        shutil.copytree(ROOT / "demo/model", repositories / "models/o" / name / "main")
    (repositories / "models/o/gated/hub.json").write_text(json.dumps({"gated": "manual", "let_in": [TOKEN]}))
    large = repositories / "models/o/large/main"
    (large / "model.safetensors").unlink()
    (large / "model.safetensors").write_bytes(random.Random(0).randbytes(SIZE))
    (repositories / "datasets/o/rows/main").mkdir(parents=True)
    shutil.copy(ROOT / "demo/data/train.jsonl", repositories / "datasets/o/rows/main")
    try:
        with serve(repositories, own) as hub:
            make_team(TEAM, "--fetch-mirror", hub.endpoint.removeprefix("http://"))
            yield SimpleNamespace(hub=hub, place=Cluster("", TEAM), repositories=repositories)
    finally:
        end_team(TEAM)
        tried("delete", "namespace", SOURCE, "--ignore-not-found", "--timeout=120s")


@pytest.fixture(autouse=True)
def empty(world):
    """Nothing on the store, no job, and nothing counted yet."""
    kubectl("delete", "jobs", "--all", "--namespace", TEAM, "--timeout=60s")
    eventually(lambda: world.place.list("pods", "tunefleet.io/role=fetch"), [])
    inside(world, "rm", "-rf", "/store/models", "/store/datasets")
    world.hub.sent.clear()
    world.hub.rate = None


def begin(world, target: str, *words: str) -> subprocess.Popen:
    """make fetch-model or fetch-data, begun."""
    command = ["make", target, "ON=cluster", f"NAMESPACE={TEAM}", f"PYTHON={sys.executable}", "BASE=", *words]
    environment = clean() | {"HF_ENDPOINT": world.hub.endpoint}
    environment.pop("HF_TOKEN", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def fetch(world, target: str, *words: str, code: int = 0) -> str:
    """What it says in all; make's own status is 2 for any failure."""
    process = begin(world, target, *words)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == code, said
    return said


def inside(world, *words: str) -> str:
    return world.place.run("exec", f"deployment/{DATA_ACCESS}", "--", *words, seconds=120)


def whole(world) -> bool:
    """Whether the large model is published, with the bytes that the hub has."""
    path = world.repositories / "models/o/large/main/model.safetensors"
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    return digest in inside(world, "sh", "-c", "sha256sum /store/models/o/large/*/model.safetensors")


def await_sent(world, count: int, process: subprocess.Popen) -> None:
    """Wait until the hub has sent so many bytes."""
    deadline = time.monotonic() + 120
    while sum(world.hub.sent.values()) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def test_a_model_comes_into_the_store_once_however_often_it_is_asked_for(world):
    said = fetch(world, "fetch-model", "MODEL=o/large")
    assert "started" in said and "verified" in said and whole(world)
    before = sum(world.hub.sent.values())
    assert SIZE < before < SIZE + SLACK
    assert "is there" in fetch(world, "fetch-model", "MODEL=o/large")
    assert sum(world.hub.sent.values()) < before + 100_000


def test_rows_come_too(world):
    fetch(world, "fetch-data", "DATA=o/rows")
    rows = inside(world, "sh", "-c", "cat /store/datasets/o/rows/*/train.jsonl")
    assert rows == (ROOT / "demo/data/train.jsonl").read_text()


def test_two_who_ask_at_once_follow_one_job(world):
    world.hub.rate = RATE
    first = begin(world, "fetch-model", "MODEL=o/large")
    await_sent(world, 1_000_000, first)
    second = begin(world, "fetch-model", "MODEL=o/large")
    told = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert "started" in told[0] and "runs already, and is followed" in told[1] and "verified" in told[1]
    assert len(world.place.list("jobs")) == 1 and whole(world)


def test_a_pod_that_is_deleted_in_the_middle_costs_next_to_nothing(world):
    world.hub.rate = RATE
    process = begin(world, "fetch-model", "MODEL=o/large")
    await_sent(world, SIZE // 2, process)
    world.hub.rate = TRICKLE
    kubectl("delete", "pods", "--selector", "tunefleet.io/role=fetch", "--namespace", TEAM, "--grace-period=1")
    world.hub.rate = None
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert whole(world) and sum(world.hub.sent.values()) < SIZE + SLACK


def test_ctrl_c_leaves_the_job_at_work_and_the_same_command_comes_back_to_it(world):
    world.hub.rate = RATE
    process = begin(world, "fetch-model", "MODEL=o/large")
    await_sent(world, SIZE // 4, process)
    world.hub.rate = TRICKLE
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert "the view is closed, the fetch goes on" in said
    world.hub.rate = RATE
    assert "runs already" in fetch(world, "fetch-model", "MODEL=o/large")
    assert whole(world) and sum(world.hub.sent.values()) < SIZE + SLACK


def test_a_fetch_is_stopped_and_goes_on_later(world):
    world.hub.rate = RATE
    process = begin(world, "fetch-model", "MODEL=o/large")
    await_sent(world, SIZE // 2, process)
    world.hub.rate = TRICKLE
    assert "stopped" in fetch(world, "fetch-stop", "MODEL=o/large")
    assert "taken away before it was done" in process.communicate(timeout=60)[0]
    world.hub.rate = None
    fetch(world, "fetch-model", "MODEL=o/large")
    assert whole(world) and sum(world.hub.sent.values()) < SIZE + SLACK


def test_a_gated_model_needs_the_token_and_gets_it_from_another_namespace(world):
    said = fetch(world, "fetch-model", "MODEL=o/gated", code=2)
    assert "is gated" in said and "the token is the Secret hub-token" in said
    if tried("get", "crd", "externalsecrets.external-secrets.io").returncode:
        pytest.skip("the cluster has no External Secrets")
    kubectl("create", "namespace", SOURCE)
    kubectl("create", "secret", "generic", "hub", "--namespace", SOURCE, f"--from-literal=token={TOKEN}")
    server = kubectl("config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}")
    make_team(TEAM, "--token-from", f"{SOURCE}/hub/token", "--token-server", server)
    eventually(lambda: tried("get", "secret", "hub-token", "--namespace", TEAM).returncode, 0, 60)
    said = fetch(world, "fetch-model", "MODEL=o/gated")
    assert "verified" in said
    job = kubectl("get", "jobs", "--namespace", TEAM, "--output", "yaml")
    log = kubectl("logs", "--namespace", TEAM, "--selector", "tunefleet.io/role=fetch", "--tail=-1")
    assert TOKEN not in said + job + log and "hub-token" in job


def test_what_the_hub_does_not_have_is_told_as_it_is_here(world):
    said = fetch(world, "fetch-model", "MODEL=o/absent", code=2)
    assert "model: o/absent: is not on" in said and "Error 2" in said
    said = fetch(world, "fetch-model", "MODEL=o/large", "REVISION=v9", code=2)
    assert "has no revision v9" in said
    assert [job["status"]["failed"] for job in world.place.list("jobs")] == [1, 1], "bad input is not tried again"
