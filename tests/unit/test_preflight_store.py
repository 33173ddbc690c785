"""What lies on the store and on the nodes: the program that runs in the data-access pod, places, images, rights, time.

.venv/bin/python -m pytest tests/unit/test_preflight_store.py
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from preflight_cases import SPACE, cluster_queue, good_facts, inside, local_queue, node, plan, recipe, rendered

import train.memory
from scripts.cluster.checks import counted, images, kueue, memory, operators, rights
from scripts.cluster.checks.duration import judge_duration
from scripts.cluster.checks.operators import deployed_version
from scripts.cluster.checks.references import references
from scripts.cluster.checks.shapes import pod_sets
from scripts.cluster.checks.store import PROGRAM, ROOT, judge_store, places, question
from scripts.pod_prepare import settle
from tests.stores import FIRST, SECOND, put
from train.files import write_json

DIGEST = "sha256:" + "a" * 64


def look(root, **asked: object) -> dict:
    """What the program says of a store."""
    asked = {"root": str(root), "models": [], "data": [], **asked}
    words = [sys.executable, "-I", "-", json.dumps(asked)]
    done = subprocess.run(words, input=PROGRAM.read_text(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def put_model(directory, files: int = 1) -> None:
    """A model's files, without weights in them."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    for number in range(files):
        (directory / f"model-{number}.safetensors").write_bytes(b"x" * 100)


def test_a_model_is_found_where_the_recipe_says_and_at_its_revision(tmp_path):
    put_model(tmp_path / "models/base")
    put_model(tmp_path / "models/org/name/abc", files=2)
    asked = [
        places("models/base", None, "models"),
        places("org/name", "abc", "models"),
        places("org/name", None, "models"),
    ]
    found = look(tmp_path, models=asked)["models"]
    assert [one["path"] for one in found] == ["models/base", "models/org/name/abc", None]
    assert [one["weights"] for one in found[:2]] == [100, 200]
    assert found[0]["config"] == {"model_type": "llama"}
    assert found[0]["tokenizer"]


def test_a_model_that_is_not_there_is_told_with_what_lies_beside_it(tmp_path):
    put_model(tmp_path / "models/bass")
    (found,) = look(tmp_path, models=[places("models/base", None, "models")])["models"]
    assert found == {"path": None, "beside": ["models/bass"]}


def test_weights_that_the_index_names_and_that_are_not_there_are_told(tmp_path):
    put_model(tmp_path / "models/base")
    index = {"weight_map": {"a": "model-0.safetensors", "b": "model-1.safetensors"}}
    write_json(tmp_path / "models/base/model.safetensors.index.json", index)
    told = look(tmp_path, models=[["models/base"]])
    assert told["models"][0]["missing"] == ["model-1.safetensors"]
    said = judge_store(recipe(model_name_or_path="models/base"), SPACE, {"inside": told})
    assert any("not the weights model-1.safetensors that its index names" in one.found for one in said)


def test_a_torn_record_of_a_run_and_an_empty_store_do_no_harm(tmp_path):
    assert look(tmp_path, runs=True)["runs"] == []
    (tmp_path / "runs/torn").mkdir(parents=True)
    (tmp_path / "runs/torn/run.json").write_text('{"training": ')
    told = look(tmp_path, runs=True, models=[["models/x"]], data=[["datasets/x"]])
    assert (told["runs"], told["writable"]) == ([], True)
    assert told["free"] > 0


def test_the_demos_model_and_data_are_not_asked_for_on_the_store():
    asked = question(recipe())
    assert (asked["models"], asked["data"]) == ([], [])
    asked = question(recipe(dataset_name="org/rows", dataset_revision="b" * 40, train_file=None))
    assert asked["data"] == [[{"home": "datasets/org/rows", "revision": "b" * 40}, "org/rows"]]


@pytest.mark.parametrize("revision", [FIRST, SECOND, "v2", "main", None, "c" * 40])
def test_the_pod_and_the_preflight_look_for_a_name_by_one_rule(tmp_path, revision):
    put(tmp_path, "model", "org/name", FIRST, {"config.json": b"{}"})
    put(tmp_path, "model", "org/name", SECOND, {"config.json": b"{}"}, reference="v2")
    put_model(tmp_path / "models/hand/with" / ("c" * 40))
    put_model(tmp_path / "models/hand/without")
    for name in ("org/name", "hand/with", "hand/without", "no/where"):
        (found,) = look(tmp_path, models=[places(name, revision, "models")])["models"]
        settled = settle({"model_name_or_path": name, "model_revision": revision}, tmp_path, {})["model_name_or_path"]
        assert (found["path"] or name) == settled.removeprefix(f"{tmp_path}/"), name


def test_a_fetched_model_whose_files_have_other_sizes_fails_before_a_pod_starts(tmp_path):
    directory = put(tmp_path, "model", "org/name", FIRST, {"config.json": b"{}", "x.safetensors": b"123"})
    (directory / "x.safetensors").write_bytes(b"12")
    asked = recipe(model_name_or_path="org/name", model_revision=FIRST)
    told = look(tmp_path, models=question(asked)["models"])
    said = next(one for one in judge_store(asked, SPACE, {"inside": told}) if one.question == "is the model there")
    assert said.status == "failed" and "not the sizes that were fetched: x.safetensors" in said.found
    assert said.fix.startswith(f"make fetch-model ON=cluster MODEL=org/name REVISION={FIRST}; without network")


def earlier(processes: int, speed: float, **values: object) -> dict:
    """A run that was measured."""
    return {
        "name": f"demo-{processes}", "recipe": vars(recipe(**values)), "layout": {"processes": processes},
        "training": {"tokens_per_second": speed, "processes": processes},
        "tokens": {"train": {"total": 130_000}}, "rows": {"train": {"kept": 2000}},
    }  # fmt: skip


def test_the_time_is_told_from_the_run_most_like_this_one():
    runs = [earlier(8, 9000.0), earlier(1, 1000.0), earlier(2, 500.0, method="full")]
    placement = {"nodes": 4, "processesPerNode": 1}
    (answer,) = judge_duration(recipe(num_train_epochs=3), placement, {"inside": inside(runs=runs)})
    assert answer.found == (
        "about 87 s of training (390,000 tokens, 3 x what demo-8 counted; demo-8 did 9,000 tokens/s, "
        "scaled from 8 processes to 4)"
    )


def test_steps_that_the_recipe_bounds_bound_the_time():
    placement = {"nodes": 1, "processesPerNode": 1}
    (answer,) = judge_duration(recipe(max_steps=10), placement, {"inside": inside(runs=[earlier(1, 1000.0)])})
    assert answer.found.startswith("about 21 s of training (20,800 tokens;")


@pytest.mark.parametrize(
    ("listed", "image", "held"),
    [("localhost/tunefleet:cpu-1", "localhost/tunefleet:cpu-1", True),
     ("localhost/tunefleet:cpu-1", "localhost/tunefleet:cpu-2", False),
     (f"host:5000/tunefleet@{DIGEST}", f"host:5000/tunefleet@{DIGEST}", True),
     (f"host:5000/tunefleet@{DIGEST}", f"host:5000/tunefleet:cpu-1@{DIGEST}", True),
     ("docker.io/library/busybox:1", "busybox:1", True), ("docker.io/org/name:1", "org/name:1", True)],
)  # fmt: skip
def test_an_image_is_known_by_all_its_names(listed: str, image: str, held: bool):
    assert images.holds(node("n", images=(listed,)), image) is held


def test_an_image_pushed_to_all_nodes_passes_and_simulated_nodes_need_none():
    simulated = node("s1", images=())
    simulated["metadata"]["annotations"] = {"kwok.x-k8s.io/node": "fake"}
    objects = rendered()
    (answer,) = images.judge_images(pod_sets(objects), {"nodes": [node("n1"), simulated]})
    assert (answer.status, answer.found) == (
        "passed",
        "localhost/tunefleet:cpu-f53501729007 is on the one node that may take it",
    )


def test_an_image_pushed_a_minute_ago_is_no_reason_to_stop_where_a_kubelet_has_not_told_of_it_yet(tmp_path):
    record = tmp_path / "push.json"
    record.write_text('{"name": "localhost/tunefleet:cpu-f53501729007", "nodes": {"n1": {}}}')
    now = record.stat().st_mtime
    assert images.just_pushed(record, now + 60) == "localhost/tunefleet:cpu-f53501729007"
    assert images.just_pushed(record, now + 3600) == images.just_pushed(tmp_path / "absent") == ""
    bare = {"nodes": [node("n1", images=())]}
    (answer,) = images.judge_images(pod_sets(rendered()), bare | {"pushed": images.just_pushed(record, now)})
    assert answer.status == "unknown" and "make push has just run" in answer.found
    (answer,) = images.judge_images(pod_sets(rendered()), bare)
    assert answer.status == "failed"


def test_rights_are_asked_for_every_kind_that_is_rendered_and_for_following_it():
    wanted = rights.wanted_rights(rendered("trainjob"), SPACE)
    asked = {(one["group"], one["resource"], one.get("subresource", ""), one["verb"]) for one in wanted}
    assert ("trainer.kubeflow.org", "trainingruntimes", "", "create") in asked
    assert ("", "pods", "exec", "create") in asked
    assert ("", "pods", "log", "get") in asked
    assert len(asked) == len(wanted)


def test_what_the_run_brings_itself_is_not_asked_for():
    objects = rendered()
    spec = objects[0]["spec"]["template"]["spec"]
    spec["containers"][0]["envFrom"] = [{"configMapRef": {"name": "own"}}, {"secretRef": {"name": "filled"}}]
    spec["volumes"].append({"name": "p", "projected": {"sources": [{"secret": {"name": "maybe", "optional": True}}]}})
    objects.append({"kind": "ConfigMap", "metadata": {"name": "own"}})
    objects.append({"kind": "ExternalSecret", "metadata": {"name": "x"}, "spec": {"target": {"name": "filled"}}})
    named = references(pod_sets(objects), objects)
    assert named == [("ServiceAccount", "trainer", ""), ("PersistentVolumeClaim", "store", "")]


def test_a_job_that_waits_for_its_queue_is_asked_about_as_one_that_would_start_at_once():
    job = rendered("pytorchjob", queue="finetune")[0]
    job["spec"]["runPolicy"]["suspend"] = True
    assert kueue.unsuspended(job)["spec"]["runPolicy"] == {}
    assert job["spec"]["runPolicy"] == {"suspend": True}


@pytest.mark.parametrize(
    ("image", "version"),
    [("mpioperator/mpi-operator:0.8.2", "0.8.2"), ("ghcr.io/x/training-operator:v1.9.0", "1.9.0"),
     ("kubeflow/training-operator:v1-855e096", ""), (f"x/y@{DIGEST}", ""), ("x/y:latest", "")],
)  # fmt: skip
def test_an_operators_version_is_read_from_its_image(image: str, version: str):
    containers = {"spec": {"containers": [{"name": "m", "image": image}]}}
    assert deployed_version({"metadata": {}, "spec": {"template": containers}}) == version


def test_a_chart_says_the_version_too():
    labels = {"helm.sh/chart": "kueue-0.19.2"}
    containers = {"spec": {"containers": [{"name": "m", "image": f"x@{DIGEST}"}]}}
    assert deployed_version({"metadata": {"labels": labels}, "spec": {"template": containers}}) == "0.19.2"


def test_the_batch_is_checked_for_every_size_an_elastic_job_may_have():
    placement = {"nodes": 4, "minNodes": 3, "processesPerNode": 1}
    (answer,) = memory.judge_batch(recipe(global_batch_size=64, per_device_train_batch_size=16), placement)
    assert answer.status == "failed"
    assert answer.found.endswith("when 3 of 4 nodes are there")


def test_a_gpu_is_compared_with_what_its_node_says():
    objects = rendered()
    container = objects[0]["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["nvidia.com/gpu"] = "1"
    trainer, estimate = pod_sets(objects)[0], {2: {"per_rank": 50 * 2**30, "weights": 40 * 2**30}}
    nodes = [node("g", labels={"nvidia.com/gpu.memory": "40960"})]
    placement = SimpleNamespace(**plan().placement)
    facts = {"estimates": estimate, "nodes": nodes}
    (answer,) = memory.judge_memory(recipe(), vars(placement), trainer, facts)
    assert answer.found == "a process takes about 50.0 GiB of its GPU (weights 40.0 GiB), and the largest has 40.0 GiB"


def test_the_memory_of_a_model_is_counted_once(tmp_path):
    placement = plan().placement
    config = memory.model_config(recipe(), None)
    trainer = pod_sets(rendered())[0]
    first = memory.estimates(recipe(), placement, trainer, config, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert memory.estimates(recipe(), placement, trainer, config, tmp_path) == first
    assert list(first) == [4]
    assert 6e8 < first[4]["per_rank"] < 1e9


def test_a_memory_counted_holds_for_recipes_that_differ_where_none_hangs_on_it(tmp_path, monkeypatch):
    placement, trainer = plan().placement, pod_sets(rendered())[0]
    config = memory.model_config(recipe(), None)
    first = memory.estimates(recipe(), placement, trainer, config, tmp_path)
    asked, count = [], train.memory.estimate
    monkeypatch.setattr(train.memory, "estimate", lambda *words: asked.append(words) or count(*words))
    other = recipe(seed=7, learning_rate=1.0e-5, max_steps=3, train_file="other.jsonl", save_steps=2)
    assert memory.estimates(other, placement, trainer, config, tmp_path) == first and not asked
    for change in ({"max_length": 64}, {"optim": "sgd"}, {"lora_r": 32}, {"per_device_train_batch_size": 1}):
        memory.estimates(recipe(**change), placement, trainer, config, tmp_path)
    assert len(asked) == 4, "what memory hangs on is counted anew"
    monkeypatch.setattr(counted, "files_hash", lambda: "other code")
    memory.estimates(recipe(), placement, trainer, config, tmp_path)
    assert len(asked) == 5


def test_a_queue_that_is_full_now_holds_the_run_and_fails_nothing():
    objects = rendered(queue="finetune")
    facts = good_facts(objects, queues=(local_queue(), cluster_queue(used="63")))
    said = kueue.judge_kueue(objects[0], pod_sets(objects), SPACE, facts)
    assert (said[-1].status, said[-1].found) == (
        "passed",
        "ClusterQueue finetune, flavour default-flavor: 1 cpu short (asked 2, 63 of 64 reserved); "
        "the queue holds it until others end",
    )


def test_operators_are_those_of_the_list_that_installs_them():
    listed = yaml.safe_load((ROOT / "k8s/operators/versions.yaml").read_text())
    known = {
        "training": operators.TRAINING,
        "mpi": operators.MPI,
        "trainer": operators.TRAINER,
        "jobset": operators.JOBSET,
    }
    for name, operator in known.items():
        entry = listed[name]
        assert (operator.name, operator.least, operator.crd) == (entry["name"], entry["minimum"], entry["crd"])
        assert operator.deployment == entry["deployment"].partition("/")[2]
