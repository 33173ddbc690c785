"""What a run on a cluster survives, with its figures: steps lost, seconds to go on. Breaks nodes and operators.

Each run meets several faults one after the other and ends with the curve of the same recipe undisturbed on one machine.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.faults import PAIR, Faults, undisturbed
from tests.cluster.runs import kubectl, team, told, wait_for_end

pytestmark = [pytest.mark.cluster, pytest.mark.breaks]
SPACE = "ft-faults"
ELASTIC = {"nodes": 2, "minNodes": 1}


@pytest.fixture(scope="module")
def faults(cluster):
    """A namespace for these runs."""
    with team(SPACE):
        yield Faults(SPACE)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[int, float]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def lose(link: str, state: str = "down") -> None:
    """Pull a node's cable, or put it in again."""
    subprocess.run(["ip", "link", "set", link, state], check=True)


def evict(pod: str) -> None:
    """What a drained node does to a pod."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    path = f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction"
    kubectl(SPACE, "create", "--raw", path, "-f", "-", given=json.dumps(body).encode())


def restart(name: str) -> None:
    """Kill a program of the testbed and start it again with the same words."""
    state, programs = Path(os.environ["KUBECONFIG"]).parent, known_programs()
    os.kill(pid_of(state, name), signal.SIGKILL)
    time.sleep(2)
    begin(state, name, *programs[name])
    if name != "apiserver":
        return
    # Without an API server operators lose their lease and end; a cluster would start them again, the testbed does not.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for other in programs:
            if other.startswith(("operator", "controller", "scheduler")) and not pid_of(state, other):
                print(f"{other} ended without the API server and is started again", flush=True)
                begin(state, other, *programs[other])
        time.sleep(1)


def known_programs() -> dict[str, tuple]:
    """By name: words, environment, directory and binary of every program of the testbed that runs."""
    state, found = Path(os.environ["KUBECONFIG"]).parent, {}
    for path in (state / "pid").iterdir():
        if pid := pid_of(state, path.name):
            process = Path(f"/proc/{pid}")
            words, lines = ((process / part).read_bytes().split(b"\0")[:-1] for part in ("cmdline", "environ"))
            variables = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            found[path.name] = (words, variables, (process / "cwd").readlink(), (process / "exe").readlink())
    return found


def programs_ended() -> list[str]:
    """The testbed's programs that do not run, one line each."""
    state = Path(os.environ["KUBECONFIG"]).parent
    return [f"{path.name} has ended" for path in (state / "pid").iterdir() if not pid_of(state, path.name)]


def pid_of(state: Path, name: str) -> int:
    """The pid of a program of the testbed, 0 where it does not run."""
    pid, began = (state / "pid" / name).read_text().split()
    return int(pid) if start_of(pid) == began else 0


def start_of(pid: int | str) -> str:
    """When a process began, in the kernel's ticks; empty for none, or one that has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def begin(state: Path, name: str, words: list, variables: dict, place: Path, binary: Path) -> None:
    """Start a program of the testbed, in the way the testbed does."""
    with (state / "log" / f"{name}.log").open("ab") as log:
        new = subprocess.Popen(words, executable=binary, cwd=place, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                               stderr=log, start_new_session=True)  # fmt: skip
    (state / "pid" / name).write_text(f"{new.pid} {start_of(new.pid)}")


def test_an_indexed_job_survives_lost_and_evicted_pods_and_the_api_server(faults, cluster, expected):
    run = faults.start("job", PAIR)
    faults.strike(run, "Job: a pod is killed", lambda: faults.kill(faults.named(run, "-1-")))
    faults.strike(run, "Job: the first pod is deleted", lambda: faults.delete(faults.named(run, "-0-")))
    faults.strike(run, "Job: a pod is evicted", lambda: evict(faults.named(run, "-1-")), most=1)
    if cluster.testbed:
        faults.strike(run, "Job: the API server is restarted", lambda: restart("apiserver"), most=0)
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected, 1e-3)


def test_an_elastic_pytorchjob_goes_on_without_a_lost_node_and_takes_it_back(faults, cluster, expected):
    if not cluster.testbed:
        pytest.skip("loses a node: the testbed's alone")
    run = faults.start("pytorchjob", ELASTIC)
    faults.strike(run, "PyTorchJob: the operator is restarted", lambda: restart("operator-training"), most=0)
    node = next(pod["spec"]["nodeName"] for pod in faults.pods(run) if pod["metadata"]["name"].endswith("worker-1"))
    link = f"tb{node.removeprefix('node')}"
    keep_data_access_off(node)
    try:
        faults.strike(run, "PyTorchJob: a node is lost", lambda: lose(link))
        alone = told(kubectl(SPACE, "logs", f"{run}-worker-0"))
        assert any("silent" in event.get("reason", "") for event in alone), alone[-8:]
        assert "1 process x" in kubectl(SPACE, "logs", f"{run}-worker-0")
    finally:
        lose(link, "up")
    faults.strike(run, "PyTorchJob: the node is back", lambda: wait_for_two(run), most=1)
    wait_for_end(SPACE, run)
    faults.same_curve(run, expected, 1e-3)


def keep_data_access_off(node: str) -> None:
    """Have the pod through which these tests read the store on another node than the one that will be lost."""
    kubectl(SPACE, "cordon", node)
    kubectl(SPACE, "delete", "pods", "--selector=tunefleet.io/role=data-access")
    try:
        kubectl(SPACE, "rollout", "status", "deployment/data-access", "--timeout=150s")
    except AssertionError as late:
        seen = (kubectl(SPACE, "describe", "deployments,replicasets,pods"), kubectl(SPACE, "get", "events"))
        raise AssertionError("\n".join([str(late), *seen, *programs_ended()])) from None
    kubectl(SPACE, "uncordon", node)


def wait_for_two(run: str, seconds: float = 240) -> None:
    """Return when two nodes train again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = kubectl(SPACE, "logs", f"{run}-worker-0")
        if log.rfind("2 processes x") > log.rfind("1 process x"):
            return
        time.sleep(1)
    raise AssertionError(f"{run}: the second node never came back")
