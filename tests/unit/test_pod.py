"""What a pod of a run does: where it stands, what it starts, when it tries again, and how it ends. No cluster.

.venv/bin/python -m pytest tests/unit/test_pod.py
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml

from scripts import pod, pod_mpi, pod_peers, pod_training
from scripts.cluster.placement import dump_placement
from scripts.pod_place import read_place
from scripts.pod_prepare import settle
from tests.clock import set_time
from tests.tiny import ROOT
from train import mpi_rank
from train.errors import InputError
from train.events import tell

ENVIRONMENT = {
    "RUN": "medical-1a2b3c4d",
    "IMAGE": "localhost/tunefleet:cpu-1",
    "RUNTIME": "pytorchjob",
    "NODE_INDEX": "1",
    "NODES": "3",
    "MIN_NODES": "1",
    "PROCESSES": "2",
    "THREADS": "8",
    "RESTARTS": "2",
    "GRACE_SECONDS": "300",
    "POD_IP": "10.0.0.7",
}


@pytest.fixture
def place(tmp_path):
    """The second pod of three, with a store of its own."""
    return read_place(ENVIRONMENT | {"STORE": str(tmp_path)})


# ---- where it stands ----


def test_every_variable_that_is_missing_or_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        read_place({"RUN": "x", "RUNTIME": "pod", "NODES": "two", "IMAGE": "i"})
    told = "\n".join(caught.value.problems)
    for words in ("RUNTIME: pod is unknown", "NODES: 'two' is no number", "PROCESSES: is not set", "THREADS: is not"):
        assert words in told


@pytest.mark.parametrize(
    ("runtime", "leader", "other"),
    [
        ("job", "medical-1a2b3c4d-0.medical-1a2b3c4d", "medical-1a2b3c4d-2.medical-1a2b3c4d"),
        ("pytorchjob", "medical-1a2b3c4d-worker-0", "medical-1a2b3c4d-worker-2"),
        ("trainjob", "medical-1a2b3c4d-node-0-0.medical-1a2b3c4d", "medical-1a2b3c4d-node-0-2.medical-1a2b3c4d"),
    ],
)
def test_pods_know_each_other_by_the_names_their_runtime_gives_them(place, runtime, leader, other):
    follower = read_place(ENVIRONMENT | {"RUNTIME": runtime})
    assert follower.others == [leader] and not follower.leads
    first = read_place(ENVIRONMENT | {"RUNTIME": runtime, "NODE_INDEX": "0"})
    assert first.leads and first.others[1] == other


def test_rank_0_is_the_leaders_because_its_address_sorts_before_the_others(place):
    def address(one):
        words = pod.layout_words(one)
        return words[words.index("--address") + 1]

    assert address(replace(place, index=0, address="10.0.0.9")) < address(place)
    assert address(replace(place, index=0, address="fd00::9")) < address(place)


def test_elastic_nodes_are_told_as_a_range_and_fixed_ones_as_a_number(place):
    words = pod.layout_words(place)
    assert words[words.index("--nodes") + 1] == "1:3" and "--host" not in words
    assert pod.layout_words(replace(place, min_nodes=3))[7] == "3"
    assert "--leader" not in pod.layout_words(replace(place, nodes=1, min_nodes=1))


def test_names_in_a_recipe_are_found_on_the_store_then_in_the_image(tmp_path):
    hub = tmp_path / "models" / "org" / "name" / ("a" * 40)
    rows = tmp_path / "datasets" / "rows.jsonl"
    for directory in (hub, rows.parent):
        directory.mkdir(parents=True)
    (hub / "config.json").touch(), rows.touch()
    values = {"model_name_or_path": "org/name", "model_revision": "a" * 40, "train_file": "datasets/rows.jsonl"}
    settled = settle(values | {"validation_file": "demo/data/validation.jsonl"}, tmp_path, {})
    assert settled["model_name_or_path"] == str(hub) and settled["train_file"] == str(rows)
    assert settled["validation_file"] == str(ROOT / "demo/data/validation.jsonl")
    other = settle(values | {"model_revision": "b" * 40}, tmp_path, {})
    assert other["model_name_or_path"] == "org/name", "another revision is another model"


def test_a_training_that_is_asked_to_leave_has_less_time_than_its_pod(place):
    words = pod.layout_words(place)
    assert words[words.index("--grace") + 1] == "240", "four fifths of the pod's 300"
    assert 0 < replace(place, grace=10).seconds_to_save < 10


# ---- trying again ----


@pytest.fixture
def attempts(monkeypatch, place):
    """Lets train() meet a list of (status, signal, reason, newest checkpoint afterwards); returns what it told."""
    told, steps = [], [0]
    monkeypatch.setattr(pod_training, "newest", lambda run: steps[-1])
    set_time(monkeypatch, pod_training, sleep=lambda seconds: None)
    monkeypatch.setattr(pod_training, "tell", lambda event, **facts: told.append(event))

    def meet(*outcomes):
        left = list(outcomes)

        def attempt(*_):
            status, received, reason, step = left.pop(0)
            steps.append(step)
            return status, received, reason

        monkeypatch.setattr(pod_training, "attempt", attempt)
        pod_training.train(place, [], -1)
        assert not left
        return told

    return meet


LOST = (1, None, "lost a peer", 0)


def test_a_training_is_started_again_as_often_as_the_placement_says_and_then_has_failed(attempts):
    with pytest.raises(pod_training.Ended, match="lost a peer; failed 3 times without a new checkpoint") as ended:
        attempts(LOST, LOST, LOST)
    assert ended.value.status == 1


def test_a_new_checkpoint_between_two_failures_makes_them_count_anew(attempts):
    outcomes = [(1, None, "lost a peer", step) for step in (10, 20, 30, 40)]
    assert attempts(*outcomes, LOST, LOST, (0, None, "", 50)).count("restart") == 6


def test_bad_input_is_never_tried_again(attempts):
    with pytest.raises(pod_training.Ended) as ended:
        attempts((2, None, "", 0))
    assert ended.value.status == 2


def test_a_pod_that_is_asked_to_leave_says_so_and_that_it_left_a_checkpoint(attempts):
    with pytest.raises(pod_training.Ended, match="left a checkpoint") as ended:
        attempts((75, signal.SIGTERM, "", 12))
    assert ended.value.status == 143


def test_others_that_leave_cost_no_failure(attempts):
    left = (75, None, "another pod was asked to leave", 0)
    assert attempts(*[left] * 9, (0, None, "", 0)).count("restart") == 9


def test_memory_that_is_not_enough_twice_is_final_at_once(attempts, monkeypatch):
    kills = iter(range(9))
    monkeypatch.setattr(pod_training, "kills_for_memory", lambda: next(kills))
    with pytest.raises(pod_training.Ended, match=r"memory limit was reached .* raise resources\.limits\.memory"):
        attempts((1, None, "", 0))


# ---- MPI ----


def test_hosts_are_read_from_open_mpis_and_from_intels_file(tmp_path):
    path = tmp_path / "hostfile"
    path.write_text("x-worker-0.x.ft.svc slots=2\nx-worker-1.x.ft.svc slots=2\n")
    assert pod_mpi.read_hosts(path) == ["x-worker-0.x.ft.svc", "x-worker-1.x.ft.svc"]
    path.write_text("a:2\nb:2\n")
    assert pod_mpi.read_hosts(path) == ["a", "b"]


def test_ranks_get_variables_by_name_so_that_no_value_stands_on_a_command_line(place):
    environment = {"HF_TOKEN": "secret", "OMP_NUM_THREADS": "8", "HOME": "/x", "OMPI_MCA_a": "b", "POD_IP": "1.2.3.4"}
    words = pod_mpi.on_all(place, ["a", "b", "c"], ["python", "-m", "train.mpi_rank"], environment)
    assert words[:3] == ["mpirun", "-n", "6"] and "ppr:2:node" in words
    passed = [words[index + 1] for index, word in enumerate(words) if word == "-x"]
    assert passed == ["HF_TOKEN", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
    assert "secret" not in " ".join(words) and environment["MASTER_ADDR"] == "a"


def test_intels_mpirun_gets_its_own_words(place, monkeypatch):
    monkeypatch.setenv("I_MPI_HYDRA_HOST_FILE", "/etc/mpi/hostfile")
    words = pod_mpi.on_first(["a", "b"], ["python"], {"X": "1"})
    assert words[:7] == ["mpirun", "-n", "1", "-hosts", "a", "-genvlist", "X"]


def test_a_rank_takes_its_numbers_from_open_mpi_or_from_intel(monkeypatch):
    monkeypatch.setattr(mpi_rank.finetune, "main", lambda: 0)
    for names in (0, 1):
        for name, candidates in mpi_rank.NAMES.items():
            monkeypatch.delenv(name, raising=False)
            for number, candidate in enumerate(candidates):
                monkeypatch.delenv(candidate, raising=False)
                if number == names:
                    monkeypatch.setenv(candidate, "3")
        assert mpi_rank.main() == 0 and os.environ["RANK"] == "3"
        for name in mpi_rank.NAMES:
            os.environ.pop(name)


def test_a_rank_without_mpirun_is_told_so(monkeypatch):
    for candidates in mpi_rank.NAMES.values():
        for candidate in candidates:
            monkeypatch.delenv(candidate, raising=False)
    with pytest.raises(InputError, match="start this with mpirun"):
        mpi_rank.main()


# ---- peers ----


def test_a_peer_that_falls_silent_is_told_once_and_one_that_never_spoke_is_not():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    lost = []
    with pod_peers.watched([("127.0.0.1", port), ("127.0.0.1", 1)], lost.append, every=0.05, silent=0.5):
        time.sleep(0.8)
        assert lost == []
        server.close()
        time.sleep(1.2)
    assert lost == ["127.0.0.1"]


@pytest.fixture
def waiting(monkeypatch, place):
    """What a pod prints that waits, with a leader who prepares from some second on and trains from a later one."""

    def wait(prepares, trains, capsys):
        now = [0.0]
        set_time(monkeypatch, pod, monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
        monkeypatch.setattr(pod, "tell", lambda *_, **__: None)
        ports = {pod_peers.PORT: prepares, place.port: trains}
        monkeypatch.setattr(pod, "answers", lambda host, port: host == place.leader and now[0] >= ports[port])
        assert pod.wait_for_leader(place)
        return capsys.readouterr().out.splitlines()

    return wait


def test_a_pod_whose_leader_does_not_answer_says_once_after_a_minute_what_helps(waiting, capsys):
    (said,) = waiting(400, 600, capsys)
    assert "waiting for the first pod, medical-1a2b3c4d-worker-0, which has not answered for 61 s" in said
    assert "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in said and "--force" in said


def test_a_leader_that_prepares_for_long_is_no_cause_for_advice(waiting, capsys):
    assert waiting(50, 900, capsys) == []


def test_the_pods_of_a_pytorchjob_stay_until_the_first_has_told_its_end_and_is_gone(place, monkeypatch):
    """The operator ends all pods of an elastic job as soon as one has succeeded, also one that is telling."""
    now = [0.0]
    set_time(monkeypatch, pod, sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(pod, "tell", lambda *_, **__: None)
    monkeypatch.setattr(pod, "run_status", lambda run: "complete" if now[0] >= 60 else "incomplete, has data")
    monkeypatch.setattr(pod, "answers", lambda host, port: (host, port) == (place.leader, pod.PORT) and now[0] < 95)
    pod.wait_for_end(place)
    assert now[0] == 95.0


# ---- what it tells ----


def test_events_are_lines_that_begin_with_a_word_and_go_on_as_json(capsys, monkeypatch, tmp_path):
    tell("step", step=1)
    assert capsys.readouterr().out == "", "only in a pod"
    monkeypatch.setenv("TUNEFLEET_EVENTS", str(tmp_path / "log.jsonl"))
    tell("step", step=1, loss=0.123456789, memory_gb=None)
    line = capsys.readouterr().out
    assert line == 'tunefleet: {"event": "step", "step": 1, "loss": 0.123457}\n'
    kept = json.loads((tmp_path / "log.jsonl").read_text())
    assert kept.pop("time") > 1.7e9 and kept == {"event": "step", "step": 1, "loss": 0.123457}


def test_a_full_store_ends_no_training_over_an_event(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEFLEET_EVENTS", str(tmp_path / "absent" / "log.jsonl"))
    tell("checkpoint", step=5)
    assert "absent" in capsys.readouterr().err


def test_two_pods_train_one_run_and_the_first_merges_and_reports(tmp_path):
    """The programs themselves, on this machine: they meet at a port as on a cluster."""
    config = tmp_path / "config"
    config.mkdir()
    recipe = (ROOT / "kustomize/overlays/demo/train.yaml").read_text()
    recipe = recipe.replace("num_train_epochs: 2", "max_steps: 2").replace("exact_match: true", "generate_samples: 0")
    (config / "train.yaml").write_text(recipe + "max_eval_samples: 4\nmax_train_samples: 64\n")
    spec = yaml.safe_load((ROOT / "kustomize/overlays/demo/cluster.yaml").read_text())["spec"]
    (config / "cluster.yaml").write_text(dump_placement(spec, "demo"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"STORE": str(tmp_path), "CONFIG": str(config), "LEADER": "127.0.0.1", "POD_IP": "127.0.0.1"}
    shared |= {"RUNTIME": "job", "NODES": "2", "MIN_NODES": "2", "PROCESSES": "1", "THREADS": "1", "PORT": port}
    pods = []
    for index in ("1", "0"):
        own = {
            "NODE_INDEX": index,
            "NODE_NAME": f"node{index}",
            "TMPDIR": str(tmp_path / index),
            "PYTHONPATH": str(ROOT),
        }
        (tmp_path / index).mkdir()
        environment = os.environ | ENVIRONMENT | shared | own
        pods.append(subprocess.Popen([sys.executable, "-m", "scripts.pod"], cwd=tmp_path, env=environment,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))  # fmt: skip
    follower, leader = (one.communicate(timeout=600)[0] for one in pods)
    assert [one.returncode for one in pods] == [0, 0], leader + follower
    run = tmp_path / "runs" / "medical-1a2b3c4d"
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "complete" and record["overlay"] == "demo" and record["layout"]["processes"] == 2
    assert [(one["rank"], one["node"]) for one in record["training"]["ranks"]] == [(0, "node0"), (1, "node1")]
    assert (run / "merged" / "merge.json").exists() and (run / "report.html").exists()
    assert '"event": "step"' in leader and '"event": "step"' not in follower
    told = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert told[0] == "start" and told[-1] == "end"
