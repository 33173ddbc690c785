"""Asks the preflight on a real cluster, in this process, for the demo on an image that the nodes have."""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.cluster.checks.answers import Answer
from scripts.cluster.checks.everything import check
from scripts.cluster.overlay import add_run_options, make_plan, render
from tests.cluster.teams import end_team, image, kubectl, make_team

TEAM, BARE = "ft-preflight", "ft-preflight-bare"


def asked(namespace: str, line: str = "", change: Callable[[list[dict]], object] = len) -> list[Answer]:
    """All answers for the demo with these words on the make line; `change` may change the rendered objects."""
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    words, place = line.split(), [f"image={image()}", "resources.requests.cpu=100m", "resources.requests.memory=256Mi"]
    if "--place" in words:
        words[words.index("--place") + 1 : words.index("--place") + 1] = place
    else:
        words += ["--place", *place]
    plan = make_plan(parser.parse_args([*words, "--namespace", namespace]))
    objects = render(plan)
    change(objects)
    return check(plan, objects)


def said(answers: list[Answer], status: str) -> list[str]:
    """What was said under a status, with its question."""
    return [f"{answer.question}: {answer.found}" for answer in answers if answer.status == status]


def login(path: Path, account: str = "", namespace: str = TEAM, **cluster: str | None) -> str:
    """A kubeconfig of a ServiceAccount of a namespace, or with other facts of the cluster (None: without them)."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--output", "json"))
    if account:
        token = kubectl("create", "token", account, "--namespace", namespace).strip()
        config["users"][0]["user"] = {"token": token}
    facts = config["clusters"][0]["cluster"] | cluster
    config["clusters"][0]["cluster"] = {key: value for key, value in facts.items() if value is not None}
    path.write_text(json.dumps(config))
    return str(path)


@contextlib.contextmanager
def as_deployer(namespace: str, config: Path, prepare: Callable[[], object]) -> Iterator[None]:
    """A namespace, prepared as its administrator, and kubectl led to it as its deployer; gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            make_team(namespace, "--deployers", f"serviceaccount:{namespace}/deployer")
            kubectl("create", "serviceaccount", "deployer", "--namespace", namespace)
            prepare()
            patch.setenv("KUBECONFIG", login(config, "deployer", namespace))
            yield
        finally:
            patch.undo()
            end_team(namespace)
