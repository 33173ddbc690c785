"""The operators of k8s/operators/versions.yaml: pinned, told the same way everywhere, and arranged beside each other.

.venv/bin/python -m pytest tests/manifests/test_operator_versions.py
"""

import json
import lzma
import os
import re
from pathlib import Path

import pytest
import yaml

from scripts.cluster.checks.operators import JOBSET, MPI, TRAINER, TRAINING
from scripts.cluster.operator_manifests import (
    MPIJOBS,
    ONLY_PYTORCHJOB,
    PYTORCHJOB,
    arranged,
    chosen,
    images,
    manifests,
    operators,
    parse,
)
from scripts.cluster.operators import judge, leave_alone
from train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / os.environ.get("SHARED", "../shared")


def test_every_operator_says_what_it_is_for_and_where_it_comes_from():
    assert list(operators()) == ["training", "mpi", "trainer", "jobset", "kueue", "secrets", "nfs"]
    for operator in operators().values():
        assert set(operator) == {
            "name",
            "for",
            "version",
            "minimum",
            "manifests",
            "deployment",
            "crd",
            "needs",
            "notes",
        }
        assert all(operator["version"] in url
                   for url in operator["manifests"])  # fmt: skip
        assert re.fullmatch(r"v\d+\.\d+\.\d+", operator["version"])
        assert set(operator["needs"]) <= set(operators())


def test_preflight_wants_the_same_versions():
    for name, operator in {"training": TRAINING, "mpi": MPI, "trainer": TRAINER, "jobset": JOBSET}.items():
        assert operators()[name]["minimum"] == operator.least
        assert operators()[name]["deployment"].partition("/")[2] == operator.deployment
        assert operators()[name]["crd"] == operator.crd


def test_whoever_deploys_may_look_at_each_controller():
    role = yaml.safe_load((ROOT / "k8s/cluster/clusterrole-tunefleet-preflight.yaml").read_text())
    readable = next(rule for rule in role["rules"] if rule["resources"] == ["deployments"])["resourceNames"]
    assert sorted(readable) == sorted(operator["deployment"].partition("/")[2] for operator in operators().values())
    leases = next(rule for rule in role["rules"] if rule["resources"] == ["leases"])["resourceNames"]
    assert leases == [operator.lease for operator in (TRAINING, MPI, TRAINER, JOBSET)]


def test_the_document_has_a_line_for_every_operator():
    text = (ROOT / "docs" / "operators.md").read_text()
    for name, operator in operators().items():
        assert f"| `{name}` | {operator['name']} | {operator['version']} |" in text


# ---- choosing, reading ----


def test_what_an_operator_needs_is_installed_before_it():
    assert chosen(["mpi", "trainer"]) == ["jobset", "mpi", "trainer"]
    with pytest.raises(InputError, match="volcano: is no operator"):
        chosen(["volcano"])


def test_a_folder_takes_the_place_of_the_network(tmp_path):
    (tmp_path / "kueue").mkdir()
    (tmp_path / "kueue" / "a.yaml").write_text("kind: Namespace\nmetadata: {name: a}\n---\n---\nkind: B\n")
    (tmp_path / "mpi.json").write_text(json.dumps({"kind": "List", "items": [{"kind": "C"}]}))
    assert [thing["kind"] for thing in manifests("kueue", str(tmp_path))] == ["Namespace", "B"]
    assert manifests("mpi", str(tmp_path)) == [{"kind": "C"}]
    with pytest.raises(InputError, match=r"has neither nfs.yaml nor nfs/\*.yaml"):
        manifests("nfs", str(tmp_path))


def test_the_images_of_an_operator_are_named():
    pods = {"containers": [{"image": "b"}], "initContainers": [{"image": "a"}]}
    assert images([{"kind": "DaemonSet", "spec": {"template": {"spec": pods}}}, {"kind": "Service"}]) == ["a", "b"]


# ---- beside each other ----


def controller(name: str, **container) -> dict:
    """An operator's Deployment."""
    metadata = {"name": operators()[name]["deployment"].partition("/")[2]}
    return {"kind": "Deployment", "metadata": metadata,
            "spec": {"template": {"spec": {"containers": [{"image": "x:v1.0.0", **container}]}}}}  # fmt: skip


def of_training() -> list[dict]:
    """The Training Operator, with its own kind of MPIJobs."""
    kinds = [{"kind": "CustomResourceDefinition", "metadata": {"name": name}} for name in (MPIJOBS, TRAINING.crd)]
    return [*kinds, controller("training", command=["/manager"])]


def test_beside_mpi_operator_the_training_operator_brings_no_mpijobs_and_leaves_them_alone():
    things = arranged("training", of_training(), {"training", "mpi"})
    assert [thing["metadata"]["name"] for thing in things] == [TRAINING.crd, "training-operator"]
    assert things[1]["spec"]["template"]["spec"]["containers"][0]["args"] == [ONLY_PYTORCHJOB]
    alone = arranged("training", of_training(), {"training"})
    assert alone == of_training()


def test_a_scheme_that_somebody_chose_stays():
    chosen_one = controller("training", args=["--enable-scheme=tfjob", "--enable-scheme=pytorchjob"])
    assert arranged("training", [chosen_one], {"mpi"})[0]["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "--enable-scheme=tfjob", "--enable-scheme=pytorchjob"]  # fmt: skip


def test_beside_the_training_operator_kueue_looks_after_pytorchjobs():
    text = 'kind: Configuration\nintegrations:\n  frameworks:\n  - "batch/job"\n  # - "kubeflow.org/pytorchjob"\n'
    thing = {"kind": "ConfigMap", "metadata": {"name": "kueue-manager-config"},
             "data": {"controller_manager_config.yaml": text}}  # fmt: skip
    assert arranged("kueue", [thing], {"kueue"})[0]["data"]["controller_manager_config.yaml"] == text
    content = yaml.safe_load(arranged("kueue", [thing], {"training"})[0]["data"]["controller_manager_config.yaml"])
    assert content == {"kind": "Configuration", "integrations": {"frameworks": ["batch/job", PYTORCHJOB]}}


def test_external_secrets_gets_a_namespace_of_its_own():
    things = arranged("secrets", [controller("secrets"), {"kind": "ClusterRole", "metadata": {"name": "r"}}], set())
    assert [thing["metadata"].get("namespace") for thing in things] == [None, "external-secrets", None]


def test_helms_and_newer_ones_are_left_alone():
    deployment = controller("kueue")
    assert leave_alone(operators()["kueue"], {"version": "0.20.1", "deployment": deployment, "old": False}) == (
        "0.20.1 is newer than v0.19.2"
    )
    deployment["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
    assert "Helm" in leave_alone(operators()["kueue"], {"version": "0.18.0", "deployment": deployment, "old": False})


@pytest.mark.parametrize(
    ("found", "state"),
    [(None, "missing"), ({"version": "0.15.9", "old": False}, "too old"), ({"version": "", "old": True}, "too old"),
     ({"version": "", "old": False}, "there"), ({"version": "0.19.0", "old": False}, "there"),
     ({"version": "0.20.0", "old": False}, "newer")],
)  # fmt: skip
def test_an_operator_is_judged_by_its_version(found, state):
    assert judge(operators()["kueue"], found)[0] == state


@pytest.mark.parametrize("name", ["training", "mpi", "trainer", "jobset", "kueue", "secrets"])
def test_the_published_manifests_are_understood(name):
    packed = SHARED / "testbed" / "manifests" / f"{name}.json.xz"
    if not packed.exists():
        pytest.skip("the test equipment under SHARED is not here")
    things = parse(lzma.decompress(packed.read_bytes()).decode())
    found = arranged(name, things, set(operators()))
    assert any(thing["metadata"]["name"] == operators()[name]["crd"] for thing in found)
    if name == "kueue":
        configuration = next(one for one in found if one["metadata"]["name"] == "kueue-manager-config")
        assert PYTORCHJOB in configuration["data"]["controller_manager_config.yaml"]
    if name == "training":
        assert any(ONLY_PYTORCHJOB in json.dumps(thing) for thing in found if thing["kind"] == "Deployment")
