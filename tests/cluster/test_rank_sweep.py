"""The rank sweep of argilla on a real cluster, through a queue that admits two at a time, interrupted and repeated.

.venv/bin/python -m pytest -m cluster tests/cluster/test_rank_sweep.py
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cluster.runs import COLUMNS, ROOT, clean, described, kubectl, make, put, read, rows_as, team, wait_for_step

pytestmark = [pytest.mark.cluster, pytest.mark.operations]
SPACE = "ft-sweep"
RANKS = [8, 16, 32, 64]
ADMITTED = 2
RECIPE = {"max_grad_norm": 1.0}
PLACE = {"s3": ""}  # the namespace's own store
WORDS = ["MODEL=demo/model", "DATA=datasets/ranked.jsonl", "WITHOUT=store-s3", "WITH=store-pvc", "ON=cluster"]


@pytest.fixture(scope="module")
def space(cluster):
    """A namespace with argilla's rows, whose queue admits two pods."""
    with team(SPACE):
        put(SPACE, "datasets/ranked.jsonl", rows_as(COLUMNS["ranked"]))
        queue = json.loads(kubectl(SPACE, "get", "clusterqueue", SPACE, "-o", "json"))
        resources = queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
        index = next(number for number, one in enumerate(resources) if one["name"] == "pods")
        path = f"/spec/resourceGroups/0/flavors/0/resources/{index}/nominalQuota"
        patch = json.dumps([{"op": "replace", "path": path, "value": ADMITTED}])
        kubectl(SPACE, "patch", "clusterqueue", SPACE, "--type=json", f"--patch={patch}")
        yield SPACE


def words(place: Path, **recipe) -> list[str]:
    """make's words for a sweep of argilla at test scale, with what it keeps here under `place`."""
    return [*described("argilla", RECIPE | recipe, PLACE), *WORDS, f"RUNS={place / 'runs'}"]


def hold_queue(held: bool) -> None:
    """Have the queue let nobody in, or again as many as it admits."""
    policy = json.dumps({"spec": {"stopPolicy": "Hold" if held else "None"}})
    kubectl(SPACE, "patch", "clusterqueue", SPACE, "--type=merge", f"--patch={policy}")


def interrupted(*given: str, when: str) -> str:
    """Begin a sweep, and press Ctrl-C in its terminal when a line holds these words; what was printed.

    A queue that is held is opened when all points stand in it.
    """
    command = ["make", "sweep", *given, f"NAMESPACE={SPACE}", f"PYTHON={sys.executable}", "BASE="]
    process = subprocess.Popen(command, cwd=ROOT, env=clean(), text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    printed = ""
    for line in process.stdout:
        printed += line
        if ": queued" in line and printed.count(": queued") == len(RANKS):
            hold_queue(False)
        if when in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: make, the program and its kubectl
            break
    printed += process.stdout.read()
    assert process.wait() != 0 and "the view is closed" in printed, printed
    return printed


def jobs() -> dict[str, str]:
    """The runs' jobs, and what tells one from another of the same name."""
    found = json.loads(kubectl(SPACE, "get", "jobs", "-o", "json"))["items"]
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


def most_at_once() -> int:
    """How many pods ran at the same time, by when each began and ended."""
    moments = []
    for pod in json.loads(kubectl(SPACE, "get", "pods", "--selector=tunefleet.io/role=trainer", "-o", "json"))["items"]:
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        moments += [(ended["startedAt"], 1), (ended["finishedAt"], -1)]
    most = now = 0
    for _, change in sorted(moments):  # in the same second an end comes before a beginning
        now += change
        most = max(most, now)
    return most


@pytest.fixture(scope="module")
def swept(space, tmp_path_factory) -> SimpleNamespace:
    """The overlay's own sweep: interrupted when the first point is done, and gone on with to its end."""
    place = tmp_path_factory.mktemp("sweep")
    hold_queue(True)  # or the first points might be done before the last one is deployed
    first = interrupted(*words(place), "FORCE=1", when=": complete  (")
    deployed = jobs()
    printed = make(SPACE, "sweep", *words(place))
    (record,) = (place / "runs").glob("*.sweep.json")
    return SimpleNamespace(place=place, first=first, deployed=deployed, after=jobs(), printed=printed,
                           record=json.loads(record.read_text()), most=most_at_once())  # fmt: skip


def test_all_points_are_deployed_at_once_and_the_queue_lets_two_in(swept):
    assert "deployed all at once; the queue finetune decides how many run" in swept.first
    assert "not deployed" not in swept.first and len(swept.deployed) == len(RANKS)
    assert swept.first.count(": queued") == len(RANKS)
    assert swept.most == ADMITTED


def test_after_ctrl_c_the_runs_go_on_and_the_same_command_deploys_none_again(swept):
    assert swept.after == swept.deployed
    assert set(swept.after) == {point["run"] for point in swept.record["points"]}


def test_every_point_learned_with_its_rank_from_one_model(swept):
    records = [json.loads(read(SPACE, point["run"], "run.json")) for point in swept.record["points"]]
    assert [record["recipe"]["lora_r"] for record in records] == RANKS
    assert all(record["status"] == "complete" for record in records)
    assert len({record["model_path"] for record in records}) == 1


def test_it_ends_with_the_best_marked_and_the_comparison_of_all_here(swept):
    runs = swept.place / "runs"
    assert "4 of 4 done" in swept.printed and swept.printed.count("  best") >= 1
    page = runs / f"{swept.record['name']}.html"
    assert f"comparison: {page}" in swept.printed
    for point in swept.record["points"]:
        assert point["run"] in page.read_text()
        assert (runs / point["run"] / "report.html").exists()
        assert (runs / point["run"] / "adapter" / "adapter_model.safetensors").exists()


def test_what_is_complete_on_the_store_is_not_deployed_again_when_its_job_is_gone(swept):
    gone = swept.record["points"][0]["run"]
    make(SPACE, "undeploy", f"RUN={gone}")
    printed = make(SPACE, "sweep", *words(swept.place))
    assert "; 4 are done" in printed and "4 of 4 done" in printed
    assert set(jobs()) == set(swept.deployed) - {gone}
    status = make(SPACE, "sweep-status", "OVERLAY=argilla", "ON=cluster", f"RUNS={swept.place / 'runs'}")
    assert "4 of 4 done" in status and "  best" in status


def test_stop_takes_the_unfinished_runs_away_and_their_files_stay(space, tmp_path):
    (tmp_path / "sweep.yaml").write_text("grid: {lora_r: [2, 4, 6]}\n")
    steps = {"max_steps": 50_000, "eval_steps": 50_000, "save_steps": 50_000}
    seen = interrupted(*words(tmp_path, **steps), f"SWEEP={tmp_path / 'sweep.yaml'}", when=": running  (")
    begun = re.search(r": running  \((\S+)\)", seen)[1]
    wait_for_step(SPACE, begun, 1)
    (record,) = (tmp_path / "runs").glob("*.sweep.json")
    runs = {point["run"] for point in json.loads(record.read_text())["points"]}
    assert runs <= set(jobs()) and len(runs) == 3
    printed = make(SPACE, "sweep-stop", "OVERLAY=argilla", "ON=cluster", f"RUNS={tmp_path / 'runs'}")
    assert all(run in printed for run in runs) and not runs & set(jobs())
    assert json.loads(read(SPACE, begun, "run.json"))["status"] != "complete"
    again = make(SPACE, "sweep-stop", "OVERLAY=argilla", "ON=cluster", f"RUNS={tmp_path / 'runs'}")
    assert "nothing unfinished of it was on the cluster" in again
