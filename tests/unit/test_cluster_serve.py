"""make serve ON=cluster: what is found, how it stands, what is taken away; every bad input has its message.

.venv/bin/python -m pytest tests/unit/test_cluster_serve.py
"""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import yaml

from scripts.cluster import forward, serve, serve_plan
from scripts.cluster.kubectl import Refused
from scripts.cluster.serve_plan import ASKED, make_plan, slug_of
from scripts.serve.frame import frame_of
from tests.makefile import make
from train.errors import InputError
from train.recipe import schema

IMAGE = "registry.example.com/t:cpu-0123456789ab"
RECIPE = "model_name_or_path: models/base\ntrain_file: rows.json\n"


class World:
    """A namespace with a store, in place of kubectl: objects by kind and name, and what was asked of it."""

    context, namespace, connection = "", "team", "itself"

    def __init__(self):
        self.objects = {("persistentvolumeclaim", "store"): {}}
        self.pods: list[dict] = []
        self.asked: list[tuple] = []
        self.says = ""

    def get(self, kind: str, name: str) -> dict | None:
        return self.objects.get((kind, name))

    def list(self, kind: str, selector: str = "") -> list[dict]:
        if kind == "pods":
            return self.pods
        return [one for (of, _), one in self.objects.items() if kind.startswith(of) and of == "deployment"]

    def raw(self, path: str, seconds: float = 60) -> dict:
        return {"items": []}

    def run(self, *words: str, given: str | None = None, seconds: float = 60) -> str:
        self.asked.append(words)
        return self.says


class Shelf:
    """The store: three runs and a model."""

    def __init__(self, cluster):
        self.files = {"runs/plain-1": {"train.yaml": RECIPE}, "runs/plain-1/merged": {"tokenizer_config.json": "{}"}}

    def ask(self, what: str, *paths: str):
        if what == "runs":
            return [{"name": name, "has": has, "record": {"overlay": "demo"}} for name, has in
                    (("plain-1", ["adapter", "merged"]), ("bare-1", ["adapter"]), ("begun-1", ["data"]))]  # fmt: skip
        there = ("models/owner/name/main", "models/owner/name/main/config.json")
        return {path: {"exists": path in there or path.startswith("runs/"), "size": 2 << 30} for path in paths}

    def text(self, path: str, file: str) -> str:
        return self.files.get(path, {}).get(file, "")


@pytest.fixture
def world(monkeypatch, tmp_path):
    build = serve_plan.BUILD.with_name(f"cluster-{tmp_path.name}")
    monkeypatch.setattr(serve_plan, "BUILD", build)
    monkeypatch.setattr(serve_plan, "Store", Shelf)
    monkeypatch.setattr(serve_plan, "built_image", lambda image: IMAGE)
    monkeypatch.delenv("STORE", raising=False)
    yield World()
    shutil.rmtree(build, ignore_errors=True)


def given(run: str = "", model: str = "", more: str = "", place: str = "") -> argparse.Namespace:
    return argparse.Namespace(
        run=run, model=model, overlay="", more=more.split(), place=place.split(), namespace="team", context=""
    )


def complaint(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return "\n".join(error.value.problems)


# ---- what would be served ----


def test_a_run_is_found_on_the_store_and_gets_memory_for_its_weights(world):
    plan = make_plan(world, given("plain-1"))
    assert (plan.path, plan.name, plan.engine) == ("runs/plain-1", "plain-1", "serve-transformers")
    assert plan.values["resources"]["limits"] == {"cpu": "2", "memory": "7Gi"} and plan.values["image"] == IMAGE
    assert yaml.safe_load((plan.directory / "cluster.yaml").read_text())["spec"] == plan.values
    plan = make_plan(world, given("plain-1", place="resources.limits.cpu=16 resources.limits.memory=9Gi"))
    assert plan.values["resources"]["limits"] == {"cpu": "16", "memory": "9Gi"}


def test_a_model_is_found_by_its_path_and_its_objects_get_a_short_name(world):
    plan = make_plan(world, given(model="owner/name/main"))
    assert (plan.path, plan.name) == ("models/owner/name/main", "owner/name/main")
    assert plan.slug.startswith("m-owner-name-main-") and len(f"serve-clients-{plan.slug}") < 60
    long = slug_of(given(model="Owner/" + "Very.Long_Name-" * 9))
    assert len(long) <= 40 and long == long.lower()


def test_what_vllm_does_not_know_of_a_run_stands_on_its_deployment(world):
    plan = make_plan(world, given("plain-1", more="serve-vllm"))
    patch = json.loads(yaml.safe_load((plan.directory / "kustomization.yaml").read_text())["patches"][0]["patch"])
    told = json.loads(next(one for one in patch if one["path"].endswith("annotations"))["value"][ASKED])
    before, after = schema()["properties"]["prompt_without_input"]["default"].split("{instruction}")
    assert told == {"asked": "text", "frame": [before, after], "system": ""}


def test_a_frame_is_the_recipes_own_and_none_where_the_template_is_all():
    chat = json.dumps({"chat_template": "{{ messages }}"})
    assert frame_of(RECIPE, "", chat) == {"asked": "chat", "frame": ["", ""], "system": ""}
    told = frame_of(RECIPE + "data_format: dialogue\nsystem_prompt: Be brief.\n", "{{ messages }}", "")
    assert told == {"asked": "chat", "system": "Be brief.",
                    "frame": ["Summarize this dialog:\n", "\n---\nSummary:\n"]}  # fmt: skip
    assert frame_of(RECIPE + "data_format: text\n", "", "{}")["asked"] == "text"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (given(), "RUN or MODEL: is missing"),
        (given("plain-1", "owner/name"), "RUN and MODEL: are both given"),
        (given("absent-1"), "absent-1: no such run in the namespace team\n  fix: there are: bare-1, begun-1, plain-1"),
        (given("begun-1"), "has learned nothing yet"),
        (given(model="owner/absent"), "is no model of the store\n  fix: make models ON=cluster"),
        (given("bare-1", more="serve-vllm"), "is not merged, and vLLM is given whole models only"),
        (given("plain-1", more="queue-kueue"), "WITH: queue-kueue: serves nothing"),
        (given("plain-1", more="serve-vllm serve-transformers"), "names both"),
        (given("plain-1", place="nodes=2"), "nodes"),
        (given("plain-1", place="resources.limits.memory=lots"), "resources.limits.memory"),
        (given("plain-1", place="serverImage=vllm/vllm-openai:latest"), "serverImage"),
        (given("plain-1", place="image=t:main"), "moves"),
        (given("plain-1", place="image=localhost/tunefleet:cpu-000000000000"), "is not known: none was built here"),
        (given("plain-1", more="serve-vllm", place="resources.limits.nvidia.com/gpu="), "have no nvidia.com/gpu"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_has_its_message(world, words, said):
    assert said in complaint(make_plan, world, words)
    assert not any(words[0] == "apply" for words in world.asked)


def test_a_namespace_without_a_store_is_not_set_up(world):
    world.objects.clear()
    assert "is not set up: it has no store\n  fix: make cluster-setup" in complaint(make_plan, world, given("plain-1"))


# ---- how it stands ----


def deployment(generation: int = 1, **status) -> dict:
    metadata = {"name": "serve-plain-1", "generation": generation, "labels": {"tunefleet.io/serve": "plain-1"},
                "creationTimestamp": "2026-11-28T00:00:00Z"}  # fmt: skip
    spec = {"template": {"spec": {"containers": [{"image": IMAGE}]}}}
    return {"metadata": metadata, "spec": spec, "status": {"observedGeneration": 1} | status}


def pod(**state) -> dict:
    statuses = [{"name": "server", "image": IMAGE, "state": state}] if state else []
    metadata = {"name": "serve-plain-1-x", "uid": "1", "labels": {}, "creationTimestamp": "2026-11-28T00:00:00Z"}
    status = {"phase": "Pending", "containerStatuses": statuses}
    return {"metadata": metadata, "spec": {"nodeName": "node1", "containers": [{"name": "server"}]}, "status": status}


def test_it_is_ready_only_when_the_pod_of_the_newest_change_is():
    running, done = [pod(running={})], {"readyReplicas": 1, "updatedReplicas": 1}
    assert serve.state_of(deployment(**done), running, []) == ("ready", "")
    assert serve.state_of(deployment(generation=2, **done), running, []) == ("loading", "")
    assert serve.state_of(deployment(readyReplicas=1), running, [])[0] == "loading"
    refused = {"conditions": [{"type": "ReplicaFailure", "message": "violates PodSecurity"}]}
    assert serve.state_of(deployment(**refused), [], []) == ("pending", "violates PodSecurity")
    lacks = [pod(waiting={"reason": "ErrImagePull", "message": "no such image"})]
    state, why = serve.state_of(deployment(), lacks, [])
    assert state == "pending" and IMAGE in why and serve.is_lost(lacks)
    ended = {"exitCode": 2, "message": "RUN: x", "finishedAt": "2026-11-28T00:01:00Z"}
    assert serve.state_of(deployment(), [pod(terminated=ended)], [])[0] == "failing"


def test_status_lists_what_is_served_and_says_where_nothing_is(world, capsys):
    assert serve.status(world, "", False) == 0
    assert "nothing is served in namespace team" in capsys.readouterr().out
    world.objects["deployment", "serve-plain-1"] = deployment()
    world.pods = [pod(running={})]
    serve.status(world, "", True)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["state"]) == ("plain-1", "loading")
    assert entry["address"] == "http://serve-plain-1.team:8000/v1"


def test_up_applies_and_waits_until_it_is_ready_and_the_same_again_says_so(world, capsys, monkeypatch):
    monkeypatch.setattr(serve, "SECONDS_BETWEEN_LOOKS", 0)
    looks = iter([deployment(), deployment(readyReplicas=1, updatedReplicas=1)] * 2)
    world.get = lambda kind, name: next(looks) if kind == "deployment" else {}
    world.says = "deployment.apps/serve-plain-1 created\nservice/serve-plain-1 unchanged\n"
    assert serve.up(world, given("plain-1")) == 0
    said = capsys.readouterr().out
    assert "serve-plain-1 created" in said and "unchanged" not in said
    assert "make chat ON=cluster RUN=plain-1 NAMESPACE=team" in said
    world.says = "deployment.apps/serve-plain-1 unchanged\n"
    assert serve.up(world, given("plain-1")) == 0 and "as it was" in capsys.readouterr().out


def test_unserve_takes_all_of_it_by_its_label_and_nothing_where_there_is_nothing(world, capsys):
    world.says = 'deployment.apps "serve-plain-1" deleted\nservice "serve-plain-1" deleted\n'
    assert serve.down(world, "plain-1") == 0
    (words,) = world.asked
    assert words[:4] == ("delete", serve.KINDS, "--selector", "tunefleet.io/serve=plain-1")
    world.says = "No resources found\n"
    assert serve.down(world, "plain-1") == 0
    assert "nothing serves plain-1 in namespace team" in capsys.readouterr().out


# ---- chat ----


def test_chat_on_a_cluster_says_what_is_not_served_or_not_ready(world, monkeypatch):
    monkeypatch.setattr(forward, "Cluster", lambda *_: world)

    def enter() -> None:
        with forward.forwarded(given("plain-1")):
            pass

    assert "RUN=plain-1: is not served in namespace team" in complaint(enter)
    world.objects["deployment", "serve-plain-1"] = deployment()
    assert "is not ready yet" in complaint(enter)

    def refuse(kind: str, name: str):
        raise Refused("deployments is forbidden", 1)

    world.get = refuse
    assert "deployments is forbidden" in complaint(enter)


def test_chat_opens_a_port_and_takes_what_the_deployment_tells(world, monkeypatch, tmp_path):
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'Forwarding from 127.0.0.1:45678 -> 8000'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(forward, "Cluster", lambda *_: world)
    world.command = lambda *words: [str(program), *words]
    one = deployment(readyReplicas=1)
    one["metadata"]["annotations"] = {ASKED: json.dumps({"asked": "text"})}
    world.objects["deployment", "serve-plain-1"] = one
    arguments = given("plain-1")
    with forward.forwarded(arguments) as url:
        assert url == "http://127.0.0.1:45678/v1" and arguments.told == {"asked": "text"}


# ---- make ----


def test_make_hands_on_what_a_person_types(tmp_path):
    recorder = Path(tmp_path / "recorder")
    recorder.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    recorder.chmod(0o755)

    def words(target: str, **variables: str) -> list[str]:
        return make(target, BASE="", PYTHON=str(recorder), **variables).stdout.split("|")[1:-1]

    assert words("serve", RUN="a b", PORT="81") == ["scripts.serve.serve", "--run", "a b", "--host", "127.0.0.1",
                                                    "--port", "81", "--runs-dir", "runs"]  # fmt: skip
    assert words("serve", MODEL="m", ON="cluster", WITH="serve-vllm", PLACE="image=x s3.size=1Gi") == [
        "scripts.cluster.serve", "up", "--model", "m", "--place", "image=x", "s3.size=1Gi", "--with", "serve-vllm",
        "--namespace", "finetune"]  # fmt: skip
    chat = words("chat", RUN="r", SYSTEM="Be brief.", URL="http://x/v1")
    assert chat[1:7] == ["--run", "r", "--url", "http://x/v1", "--system", "Be brief."]
    assert words("unserve", RUN="r", NAMESPACE="t") == [
        "scripts.cluster.serve",
        "down",
        "--run",
        "r",
        "--namespace",
        "t",
    ]
    assert words("serve-status", JSON="1") == ["scripts.cluster.serve", "status", "--namespace", "finetune", "--json"]
