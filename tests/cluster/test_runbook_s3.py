"""Runbook s3-refuses: a run with a wrong key is told why and where to read, and goes on with the right one."""

import pytest

from tests.cluster import bucket
from tests.cluster.runbook_pages import Desk, until_told
from tests.cluster.runs import deploy, kubectl, make, team, wait_for_end
from tests.s3 import s3_server

pytestmark = [pytest.mark.cluster, pytest.mark.operations]
SPACE = "ft-runbook-s3"
STORE = "s3://finetune/argilla"  # as on the page
RECIPE = {"max_grad_norm": 1.0}


@pytest.fixture
def server(cluster, tmp_path):
    with bucket.serving(cluster, tmp_path / "s3", STORE) as running:
        yield running


def test_s3_refuses(server):
    place = bucket.placed(server, STORE)
    with team(SPACE):
        make(SPACE, "cluster-setup", f"SETUP_FLAGS=--s3 {server.endpoint.removeprefix('http://')}")
        keys = f"AWS_ACCESS_KEY_ID={s3_server.KEYS['AWS_ACCESS_KEY_ID']}\nAWS_SECRET_ACCESS_KEY=of-another-server\n"
        kubectl(SPACE, "create", "secret", "generic", "s3-credentials", "--from-env-file=/dev/stdin",
                given=keys.encode())  # fmt: skip
        run = deploy(SPACE, "argilla", RECIPE, place, *bucket.WORDS)
        desk = Desk(SPACE, run, overlay="argilla", recipe=RECIPE, place=place, words=bucket.WORDS)
        until_told(desk, "ended with exit code 2")
        seen = desk.type("s3-refuses", "Diagnosis")
        assert "docs/runbooks/s3-refuses.md" in seen and "SignatureDoesNotMatch" in seen
        assert "datasets/ranked.jsonl" in seen, "the right key, from here"
        desk.type("s3-refuses", "Mitigation")
        wait_for_end(SPACE, run)
