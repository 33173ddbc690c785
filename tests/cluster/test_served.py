"""Models served on the cluster with a deployer's rights: ready when loaded, closed to strangers, gone without a trace.

.venv/bin/python -m pytest tests/cluster/test_served.py
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cluster.preflight_asks import as_deployer
from tests.cluster.runs import ROOT, clean, kubectl, make
from tests.cluster.teams import eventually, pod, reached

pytestmark = [pytest.mark.cluster, pytest.mark.operations]

TEAM, RUN = "ft-serve", "served-1"
MINE = f"--selector=tunefleet.io/serve={RUN}"
ROW = json.loads((ROOT / "demo/data/validation.jsonl").read_text().splitlines()[0])
QUESTION = f"{ROW['instruction']}\n\n{ROW['input']}"
# The image has the demo's model; here it is what a run has learned, and one that is not merged lies beside it.
WRITE = f"""
import json, shutil
from pathlib import Path
import demo
model = Path(demo.__path__[0]) / "model"
for name, made in (("{RUN}", "merged"), ("bare-1", "adapter")):
    run = Path("/store/runs") / name
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(model, run / made)
    record = {{"name": name, "model_path": str(model), "started": "2026-11-28T00:00:00", "overlay": "demo"}}
    (run / "run.json").write_text(json.dumps(record))
    recipe = ["model_name_or_path: demo/model", "train_file: rows.json", "system_prompt: Be brief."]
    (run / "train.yaml").write_text("\\n".join(recipe))
"""
ASK = f"""
import json, urllib.request
body = {{"model": "{RUN}", "temperature": 0, "max_tokens": 8, "messages": [{{"role": "user", "content": "hello"}}]}}
asked = urllib.request.Request("http://serve-{RUN}:8000/v1/chat/completions", json.dumps(body).encode(),
                               {{"Content-Type": "application/json"}})
print(json.load(urllib.request.urlopen(asked, timeout=60))["model"])
"""
PYTHON = "/opt/venv/bin/python"


@pytest.fixture(scope="module", autouse=True)
def deployer(cluster, tmp_path_factory):
    """A namespace with two runs on its store, pods that ask, and kubectl led to it as its deployer."""
    with as_deployer(TEAM, tmp_path_factory.mktemp("login") / "config", runs_and_pods):
        yield


def runs_and_pods() -> None:
    """Two runs on the store, and a pod that may ask and one that may not."""
    kubectl(TEAM, "exec", "-i", "deploy/data-access", "--", "python", "-", given=WRITE.encode())
    pods = [pod("asker", TEAM, {"tunefleet.io/chat": "allowed"}), pod("stranger", TEAM, {})]
    kubectl(TEAM, "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}).encode())
    kubectl(TEAM, "wait", "--for=condition=Ready", "pod/asker", "pod/stranger", "--timeout=120s")


@pytest.fixture(scope="module")
def served(deployer) -> str:
    """The run being served; what make says of it."""
    said = make(TEAM, "serve", "ON=cluster", f"RUN={RUN}")
    assert f"ready: {RUN} at http://serve-{RUN}.{TEAM}:8000/v1" in said
    return said


def pods() -> list[dict]:
    """The pods that serve it."""
    return json.loads(kubectl(TEAM, "get", "pods", MINE, "-o", "json"))["items"]


def address() -> str:
    """Its Service's address."""
    return kubectl(TEAM, "get", "service", f"serve-{RUN}", "-o", "jsonpath={.spec.clusterIP}")


def test_it_is_ready_no_sooner_than_its_model_is_loaded(served):
    (one,) = pods()
    since = next(when["lastTransitionTime"] for when in one["status"]["conditions"] if when["type"] == "Ready")
    lines = kubectl(TEAM, "logs", one["metadata"]["name"], "--timestamps").splitlines()
    loading = next(line for line in lines if " loading " in line)
    loaded = next(line for line in lines if f" ready: {RUN} " in line)
    assert loading[:19] <= loaded[:19] <= since[:19]


def test_the_same_again_changes_nothing(served):
    before = pods()[0]["metadata"]["uid"]
    assert "as it was" in make(TEAM, "serve", "ON=cluster", f"RUN={RUN}")
    assert pods()[0]["metadata"]["uid"] == before


def test_it_answers_a_pod_with_the_label_through_its_service(served):
    asked = ["exec", "asker", "--", PYTHON, "-c", ASK]
    eventually(lambda: kubectl(TEAM, *asked, code=None).strip(), RUN)


def test_a_stranger_is_refused_and_nothing_goes_out(served):
    targets = [(address(), 8000), (pods()[0]["status"]["podIP"], 8000)]
    eventually(lambda: bool(reached(TEAM, "asker", targets)), True)
    eventually(lambda: reached(TEAM, "stranger", targets), set())
    assert reached(TEAM, "deploy/data-access", targets) == set()
    others = json.loads(kubectl(TEAM, "get", "pods", "asker", "stranger", "-o", "json"))["items"]
    away = [(one["status"]["podIP"], 8080) for one in others]
    assert reached(TEAM, f"deploy/serve-{RUN}", away) == set()
    assert reached(TEAM, "asker", away[1:]) == set(), "the label opens the way to models and to nothing else"


def test_chat_on_the_cluster_answers_by_port_forward(served):
    command = ["make", "--silent", "chat", "ON=cluster", f"RUN={RUN}", f"NAMESPACE={TEAM}", f"PYTHON={sys.executable}",
               "BASE="]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=clean(), input=QUESTION, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_status_says_what_is_served(served):
    (entry,) = json.loads(make(TEAM, "--silent", "serve-status", "JSON=1"))
    assert (entry["name"], entry["model"], entry["state"]) == (RUN, RUN, "ready")
    assert f"http://serve-{RUN}.{TEAM}:8000/v1" in make(TEAM, "serve-status")


def test_what_cannot_be_served_is_said_before_anything_is_made(served):
    for words, said in (
        (["RUN=absent-1"], "no such run"),
        (["RUN=bare-1", "WITH=serve-vllm"], "is not merged"),
        (["MODEL=owner/absent"], "is no model of the store"),
        ([f"RUN={RUN}", "PLACE=image=localhost/tunefleet:cpu-000000000000"], "is not known"),
    ):
        assert said in make(TEAM, "serve", "ON=cluster", *words, code=2)
    assert "is not served" in make(TEAM, "chat", "ON=cluster", "RUN=absent-1", code=2)
    listed = kubectl(TEAM, "get", "deployments", "--selector=tunefleet.io/serve", "-o", "name").split()
    assert listed == [f"deployment.apps/serve-{RUN}"]


def test_unserve_takes_all_of_it_and_leaves_the_run(served):
    kinds = "deployments,services,networkpolicies,pods"
    assert f"serve-{RUN}" in kubectl(TEAM, "get", kinds, MINE, "-o", "name")
    make(TEAM, "unserve", f"RUN={RUN}")
    assert kubectl(TEAM, "get", kinds, MINE, "-o", "name") == ""
    assert f"nothing serves {RUN}" in make(TEAM, "unserve", f"RUN={RUN}")
    assert "nothing is served" in make(TEAM, "serve-status")
    assert "merged" in kubectl(TEAM, "exec", "deploy/data-access", "--", "ls", f"/store/runs/{RUN}")


# ---- by vLLM, on nodes that only exist in the API: its image cannot be had here, so no model answers ----


def test_vllm_is_admitted_under_restricted_and_scheduled_on_a_gpu_node(cluster, deployer):
    if not cluster.testbed:
        pytest.skip("needs the testbed's simulated nodes")
    place = "nodeTaint=testbed.local/simulated nodeSelector.testbed.local/simulated=true"
    command = ["make", "serve", "ON=cluster", f"RUN={RUN}", "WITH=serve-vllm", f"PLACE={place}", f"NAMESPACE={TEAM}",
               f"PYTHON={sys.executable}", "BASE="]  # fmt: skip
    view = subprocess.Popen(command, cwd=ROOT, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (placed := [one for one in pods() if one["spec"].get("nodeName")]):
            assert time.monotonic() < deadline, kubectl(TEAM, "describe", "deployment", f"serve-{RUN}")
            time.sleep(1)
    finally:
        with contextlib.suppress(ProcessLookupError):  # a simulated pod may be ready at once, and the view over
            os.killpg(view.pid, signal.SIGINT)
        view.communicate(timeout=30)
    spec = placed[0]["spec"]
    assert spec["nodeName"].startswith("simulated-")
    (server,) = spec["containers"]
    assert server["image"].startswith("docker.io/vllm/vllm-openai:v")
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server["args"][-2:] == [f"/store/runs/{RUN}/merged", f"--served-model-name={RUN}"]
    told = json.loads(kubectl(TEAM, "get", "deployment", f"serve-{RUN}", "-o", "json"))["metadata"]["annotations"]
    assert json.loads(told["tunefleet.io/asked"]) == {"asked": "chat", "frame": ["", ""], "system": "Be brief."}
    make(TEAM, "unserve", f"RUN={RUN}")
    assert kubectl(TEAM, "get", "deployments,pods", MINE, "-o", "name") == ""
