"""make deliver into a real cluster: over a limited link, cut twice, two at once, a lost pod, and into a bucket."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cluster.kubectl import Cluster
from scripts.cluster.names import DATA_ACCESS
from tests.cluster import bench_deliver
from tests.cluster.bench_deliver import COMMIT, MODEL
from tests.cluster.teams import end_team, make_team
from train.files import hash_file

pytestmark = [pytest.mark.cluster, pytest.mark.operations]

ROOT = Path(__file__).resolve().parents[2]
TEAM = "ft-deliver"
MEGABYTES = 300  # enough for two cuts at full speed
SIZE = MEGABYTES * 1_000_000
SLACK = 12_000_000  # bytes on their way between two programs, two kubelets and an API server when a stream is cut


@pytest.fixture(scope="module")
def place(cluster):
    """A namespace with a store."""
    try:
        make_team(TEAM)
        yield Cluster("", TEAM)
    finally:
        end_team(TEAM)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A store of this machine with a model."""
    store = tmp_path_factory.mktemp("here")
    bench_deliver.make_model(store, MEGABYTES)
    return store


@pytest.fixture(autouse=True)
def clean(place):
    bench_deliver.forget(place)


def right(place: Cluster, here: Path) -> bool:
    """Whether the pod's own sha256sum finds what lies here."""
    return bench_deliver.far_hash(place) == hash_file(here / MODEL.path / "model.safetensors")


def sent(said: str) -> float:
    """Bytes that the last delivery says it sent."""
    line = next(line for line in said.splitlines() if "read back there" in line)
    number, unit = line.split()[:2]
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def test_cut_twice_it_goes_on_and_the_far_hashes_are_printed(place, here):
    _, said, at = bench_deliver.deliver(place, here, SIZE, 2)
    assert "going on" in said and "are there already" in said
    assert hash_file(here / MODEL.path / "model.safetensors") in said and right(place, here)
    assert sent(said) <= SIZE - at[1] + SLACK


@pytest.mark.breaks
def test_over_a_link_of_200_mbit_it_goes_on_too(place, here, cluster):
    if cluster.testbed is None:
        pytest.skip("the link of a node is limited on the testbed only")
    with bench_deliver.limited(place, 200):
        seconds, said, at = bench_deliver.deliver(place, here, SIZE, 2)
    assert seconds >= SIZE * 8 / 200e6 * 0.95, "the link was limited"
    assert right(place, here) and sent(said) <= SIZE - at[1] + SLACK


def test_two_at_once_do_it_once(place, here):
    first, second = bench_deliver.begin(place, here), bench_deliver.begin(place, here)
    told = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert sum("read back there" in said for said in told) == 1
    assert sum("is there already" in said for said in told) == 1
    assert right(place, here)


def test_a_pod_that_goes_in_the_middle_is_waited_for(place, here):
    process = bench_deliver.begin(place, here)
    bench_deliver.await_landed(place, SIZE // 4, process)
    place.run("delete", "pods", "--selector", f"tunefleet.io/role={DATA_ACCESS}", "--grace-period=1", seconds=120)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "going on" in said, said
    assert right(place, here)


def test_what_is_delivered_is_found_by_name_and_listed(place, here):
    process = bench_deliver.begin(place, here)
    assert process.wait(300) == 0, process.stdout.read()
    path = f"/store/models/{MODEL.name}/refs.json"
    assert json.loads(place.run("exec", f"deployment/{DATA_ACCESS}", "--", "cat", path)) == {"main": COMMIT}
    listed = subprocess.run(["make", "models", "ON=cluster", f"NAMESPACE={TEAM}", f"PYTHON={sys.executable}", "BASE="],
                            cwd=ROOT, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert MODEL.name in listed.stdout, listed.stdout + listed.stderr


def test_a_namespace_without_a_store_is_told_so(cluster, here):
    process = bench_deliver.begin(Cluster("", "ft-no-such"), here)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "no pod answers for the store" in said and "make cluster-setup" in said


def test_it_goes_into_a_bucket_as_well(here):
    if "AWS_ENDPOINT_URL_S3" not in os.environ:
        pytest.skip("no S3 server is known: AWS_ENDPOINT_URL_S3")
    from scripts.s3.client import connect

    client, bucket = connect(), "ft-deliver"
    if bucket not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
    command = [sys.executable, "-m", "scripts.deliver", "--model", MODEL.name, "--store", str(here)]
    for _ in range(2):
        done = subprocess.run([*command, "--to", f"s3://{bucket}/team"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "0 B of them sent now" in done.stderr
    refs = client.get_object(Bucket=bucket, Key=f"team/models/{MODEL.name}/refs.json")["Body"].read()
    head = client.head_object(Bucket=bucket, Key=f"team/{MODEL.path}/model.safetensors")
    assert json.loads(refs) == {"main": COMMIT} and head["ContentLength"] == SIZE
