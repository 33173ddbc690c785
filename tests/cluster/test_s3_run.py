"""A run whose store is S3, on a real cluster: its pod deleted with all it had, and the server gone for a while.

The server is these tests' own, on the testbed's bridge, so that stopping it disturbs nobody.
"""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.s3 import objects
from tests.cluster import bucket
from tests.cluster.runs import (
    COLUMNS,
    LASTING,
    QUICK,
    curve,
    deploy,
    described,
    kubectl,
    make,
    rows_as,
    team,
    told,
    wait_for_end,
)
from tests.e2e.chain import run_chain
from tests.s3 import s3_server
from train import checkpoint
from train.files import hash_file

pytestmark = [pytest.mark.cluster, pytest.mark.operations]
SPACE = "ft-s3"
STORE = "s3://runs/team"
EVERY = 10  # steps between two checkpoints
STEPS = LASTING["max_steps"]
SILENCE = 25.0  # seconds without the server: longer than one look at it is tried
RECIPE = {
    **LASTING,
    "learning_rate": "3.0e-4",
    "max_grad_norm": 1.0,
    "save_steps": EVERY,
    "eval_strategy": "'no'",
    "eval_steps": "",
    "load_best_model_at_end": "false",
    "generate_samples": 0,
    "max_eval_samples": 4,
    "max_length": 128,
}
VAULT = "ft-s3-vault"  # the namespace that holds the keys
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
CONSENT = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: bucket}}
rules: [{{apiGroups: [""], resources: [secrets], resourceNames: [bucket], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: bucket}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: bucket}}
subjects: [{{kind: ServiceAccount, name: bucket-reader, namespace: {space}}}]
"""
EXTERNAL = """
apiVersion: v1
kind: ServiceAccount
metadata: {{name: bucket-reader}}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {{name: bucket}}
spec:
  provider:
    kubernetes:
      remoteNamespace: {vault}
      server: {{url: "{api}", caProvider: {{type: ConfigMap, name: kube-root-ca.crt, key: ca.crt}}}}
      auth: {{serviceAccount: {{name: bucket-reader}}}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {{name: s3-credentials}}
spec:
  refreshInterval: 1h0m0s
  secretStoreRef: {{kind: SecretStore, name: bucket}}
  target: {{name: s3-credentials}}
  dataFrom: [{{extract: {{key: bucket}}}}]
"""


@pytest.fixture(scope="module")
def server(cluster, tmp_path_factory):
    with bucket.serving(cluster, tmp_path_factory.mktemp("s3"), STORE) as running:
        yield running


@pytest.fixture(scope="module")
def space(server):
    """A namespace whose runs may reach the server; the keys come into it by External Secrets."""
    address = server.endpoint.removeprefix("http://")
    kubectl(VAULT, "wait", "--for=delete", f"namespace/{VAULT}", "--timeout=170s")  # an earlier session's
    with team(SPACE):
        make(SPACE, "cluster-setup", f"SETUP_FLAGS=--s3 {address}")
        keys = "".join(f"{name}={s3_server.KEYS[name]}\n" for name in KEYS)
        kubectl(SPACE, "create", "namespace", VAULT)
        kubectl(VAULT, "create", "secret", "generic", "bucket", "--from-env-file=/dev/stdin", given=keys.encode())
        api = kubectl(SPACE, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
        kubectl(VAULT, "apply", "-f", "-", given=CONSENT.format(space=SPACE).encode())
        kubectl(SPACE, "apply", "-f", "-", given=EXTERNAL.format(vault=VAULT, api=api).encode())
        kubectl(SPACE, "wait", "--for=condition=Ready", "externalsecret/s3-credentials", "--timeout=90s")
        yield SPACE
    kubectl(VAULT, "delete", "namespace", VAULT, "--wait=false")


@pytest.fixture(scope="module")
def disturbed(space, server) -> SimpleNamespace:
    """The run: its pod deleted behind the second checkpoint, then the server killed in the middle of a mirror."""
    run = deploy(SPACE, "argilla", RECIPE, bucket.placed(server, STORE), *bucket.WORDS)
    checkpoints = server.data / "runs/team/runs" / run / "checkpoints"
    until(lambda: (checkpoints / f"checkpoint-{2 * EVERY}" / checkpoint.MANIFEST).exists(), run)
    first = pods(run)[0]
    kubectl(SPACE, "delete", "pod", first["metadata"]["name"], "--grace-period=0", "--force")
    until(lambda: any(one["metadata"]["uid"] != first["metadata"]["uid"] for one in pods(run)), run)
    until(lambda: any(event["event"] == "resumed" for event in log(run)), run)
    resumed = next(event["step"] for event in log(run) if event["event"] == "resumed")
    # ---- the server ends while a checkpoint is on its way ----
    half = []
    watcher = threading.Thread(target=kill_at_a_half, args=(server, checkpoints, resumed + 2 * EVERY, half))
    watcher.start()
    watcher.join(600)
    assert half, "no checkpoint was seen on its way"
    before, began = last_step(run), time.monotonic()
    time.sleep(SILENCE - 2)
    during = last_step(run)
    seen = [(checkpoints / name / checkpoint.MANIFEST).exists() for name in half]
    time.sleep(max(SILENCE - (time.monotonic() - began), 0))
    server.start_again()
    found = SimpleNamespace(name=run, resumed=resumed, half=half, half_was_whole=seen, steps=(before, during))
    found.log = wait_for_end(SPACE, run)
    found.pod_log = log(run)
    return found


def kill_at_a_half(server, checkpoints: Path, least: int, half: list[str]) -> None:
    """Kill the server when a checkpoint from this step on has come in part; it holds still while that is looked at."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        for path in checkpoints.glob("checkpoint-*"):
            started = any(one.is_file() for one in path.iterdir()) and not (path / checkpoint.MANIFEST).exists()
            if int(path.name.partition("-")[2]) >= least and started:
                server.freeze()
                if not (path / checkpoint.MANIFEST).exists():
                    half.append(path.name)
                    server.kill()
                    return
                server.thaw()
        time.sleep(0.001)


def pods(run: str) -> list[dict]:
    """The run's pods."""
    return json.loads(kubectl(SPACE, "get", "pods", "--selector", f"tunefleet.io/run={run}", "-o", "json"))["items"]


def log(run: str) -> list[dict]:
    """What the newest pod tells."""
    newest = max(pods(run), key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"]
    return told(kubectl(SPACE, "logs", newest, code=None))


def last_step(run: str) -> int:
    """The step that the training has reached."""
    return max((event["step"] for event in log(run) if event["event"] == "step"), default=0)


def until(true, run: str, seconds: float = 400) -> None:
    """Return when something is true. Fails, with the run's state, where it never is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, make(SPACE, "status", f"RUN={run}", code=None)
        time.sleep(0.2)


def test_a_pod_with_nothing_goes_on_from_the_second_checkpoint(disturbed):
    assert disturbed.resumed >= 2 * EVERY
    assert f"s3://runs/team/runs/{disturbed.name}" in disturbed.log


def test_the_curve_is_that_of_an_undisturbed_run(disturbed, server, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows_as(COLUMNS["ranked"]))
    values = [f"{key}={value}" for key, value in (QUICK | RECIPE).items()]
    data = ["--model", "demo/model", "--data", str(rows), "--until", "train", "--nproc", "1", "--threads", "1"]
    alone, _ = run_chain(tmp_path, "argilla", *data, "--set", *values)
    found = curve((server.data / "runs/team/runs" / disturbed.name / "metrics.jsonl").read_text())
    expected = curve((alone / "metrics.jsonl").read_text())
    assert found.keys() == expected.keys() and len(found) == STEPS
    assert all(found[step] == pytest.approx(expected[step], rel=1e-3) for step in expected)


def test_a_server_that_ends_stops_no_step_loses_nothing_and_leaves_nothing_half_whole(disturbed, server, tmp_path):
    before, during = disturbed.steps
    assert during > before, "the training went on"
    assert disturbed.half_was_whole == [False]
    kept = sorted((server.data / "runs/team/runs" / disturbed.name / "checkpoints").glob("checkpoint-*/*"))
    kept = sorted({path.parent for path in kept})
    whole = [path for path in kept if (path / checkpoint.MANIFEST).exists()]
    assert whole == kept and f"checkpoint-{STEPS}" in {path.name for path in whole}
    for path in whole:
        objects.pull(f"{STORE}/runs/{disturbed.name}/checkpoints/{path.name}", tmp_path / path.name)
        assert checkpoint.damage(tmp_path / path.name) is None


def test_results_come_from_the_bucket_every_byte_verified(disturbed, server, tmp_path):
    make(SPACE, "results", f"RUN={disturbed.name}", f"TO={tmp_path / 'to'}")
    record = json.loads((tmp_path / "to/run.json").read_text())
    assert record["status"] == "complete" and (tmp_path / "to/report.html").exists()
    there = server.data / "runs/team/runs" / disturbed.name
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert hash_file(tmp_path / "to" / name) == hash_file(there / name)
    assert "0 B of them came now" in make(SPACE, "results", f"RUN={disturbed.name}", f"TO={tmp_path / 'to'}")


def test_the_same_deploy_again_finds_it_done_and_the_keys_stand_nowhere(disturbed, server):
    words = [*described("argilla", RECIPE, bucket.placed(server, STORE)), *bucket.WORDS]
    assert f"{disturbed.name}: complete" in make(SPACE, "deploy", *words)
    rendered = make(SPACE, "render", *words)
    secret = s3_server.KEYS["AWS_SECRET_ACCESS_KEY"]
    logs = make(SPACE, "logs", f"RUN={disturbed.name}", code=None)
    objects_there = kubectl(SPACE, "get", "jobs,pods,configmaps", "-o", "json")
    assert secret not in rendered + logs + objects_there
    assert "name: s3-credentials" in rendered


def test_preflight_asks_the_bucket(space, server, monkeypatch):
    words = [*described("argilla", RECIPE, bucket.placed(server, STORE)), bucket.WORDS[1]]
    assert "models/base" in make(SPACE, "preflight", *words, bucket.WORDS[0], code=None)
    absent = make(SPACE, "preflight", *words, "MODEL=models/absent", code=None)
    assert "models/absent is not under s3://runs/team" in absent
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "was not looked at" in make(SPACE, "preflight", *words, bucket.WORDS[0], code=None)
