"""How the files of kustomize/ are laid out: one object a file under its own name, one fact a component.

.venv/bin/python -m pytest tests/manifests/test_kustomize_layout.py
"""

import re
from pathlib import Path

import pytest
import yaml

from scripts.cluster.names import RUNTIMES

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "kustomize"
FILES = sorted(path for path in KUSTOMIZE.rglob("*.yaml") if path.parent.name != "tasks")  # those are make eval's
MAKES = {"sweep.yaml", "tasks"}  # for make sweep and make eval, which an overlay may have; no cluster sees them
COMPONENTS = sorted((KUSTOMIZE / "components").iterdir())
BESIDE = [KUSTOMIZE / name for name in ("base", "fetch", "serve", "serve-s3", "serve-transformers", "serve-vllm")]
OF_FETCHES = ("hub-token", "proxy", "pull-secret")  # components that concern the job that fetches, too
OVERLAYS = sorted(path for path in (KUSTOMIZE / "overlays").iterdir())


def load(path: Path):
    return yaml.safe_load(path.read_text())


def kustomization(directory: Path) -> dict:
    return load(directory / "kustomization.yaml")


def test_there_is_something_to_look_at():
    assert len(FILES) > 60
    assert len(COMPONENTS) > 18
    assert {path.name for path in COMPONENTS} >= {f"runtime-{name}" for name in RUNTIMES}


@pytest.mark.parametrize("directory", [*BESIDE, *COMPONENTS], ids=lambda path: path.name)
def test_a_component_is_one_and_says_first_what_is_true_of_the_place(directory):
    text = (directory / "kustomization.yaml").read_text()
    assert re.match(r"# [A-Z].{20,}", text)
    assert kustomization(directory)["kind"] == "Component"


@pytest.mark.parametrize("directory", [*BESIDE, *COMPONENTS, *OVERLAYS], ids=lambda path: path.name)
def test_every_file_is_used_and_every_used_file_is_there(directory):
    whole = kustomization(directory)
    used = {"kustomization.yaml", *whole.get("configurations", [])}
    used |= set(whole.get("resources", []))
    used |= {one["path"] for key in ("patches", "replacements") for one in whole.get(key, [])}
    used |= {name for one in whole.get("configMapGenerator", []) for name in one["files"]}
    assert {path.name for path in directory.iterdir()} - MAKES == used


def objects_of(directory: Path) -> list[Path]:
    return [directory / name for name in kustomization(directory).get("resources", [])]


@pytest.mark.parametrize("directory", [*BESIDE, *COMPONENTS], ids=lambda path: path.name)
def test_an_object_has_a_file_of_its_own_named_for_kind_and_name(directory):
    for path in objects_of(directory):
        (one,) = yaml.safe_load_all(path.read_text())
        name = "run" if one["metadata"]["name"] == "PARAM" else one["metadata"]["name"]
        assert path.name == f"{one['kind'].lower()}-{name}.yaml"


@pytest.mark.parametrize("directory", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_is_three_files_with_the_base_first_and_the_runtime_last(directory):
    files = {path.name for path in directory.iterdir()} - MAKES
    assert files == {"kustomization.yaml", "train.yaml", "cluster.yaml"}
    whole = kustomization(directory)
    assert whole["components"][0] == "../../base"
    names = [Path(path).name for path in whole["components"]]
    assert [name.startswith("runtime-") for name in names] == [False] * (len(names) - 1) + [True]
    assert whole["labels"] == [{"pairs": {"tunefleet.io/overlay": directory.name}}]
    assert load(directory / "cluster.yaml")["spec"]["run"] == directory.name
    assert len((directory / "kustomization.yaml").read_text().splitlines()) <= 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(KUSTOMIZE)))
def test_a_file_holds_no_template_language_no_moving_tag_and_no_secret(path):
    text = path.read_text()
    for pattern in (r"\{\{", r"\$\{", r":latest\b", r"\bhf_[A-Za-z0-9]{4}", r"kind: Secret\b"):
        found = re.search(pattern, text)
        assert not found or (path.name == "train.yaml" and pattern == r"\{\{"), found


def test_a_component_changes_no_more_than_the_pod_before_the_runtime_takes_it_over():
    for directory in COMPONENTS:
        if directory.name.startswith("runtime-"):
            continue
        targets = [patch["target"]["kind"] for patch in kustomization(directory).get("patches", [])]
        for entry in kustomization(directory).get("replacements", []):
            targets += [
                target["select"]["kind"] for one in load(directory / entry["path"]) for target in one["targets"]
            ]
        own = {load(path)["kind"] for path in objects_of(directory)}
        # NetworkPolicy: a run has one, named for it, and what a component lets in or out stands there.
        allowed = {"PodTemplate", "NetworkPolicy"} | own | ({"Job"} if directory.name in OF_FETCHES else set())
        assert set(targets) <= allowed, directory.name


def test_what_changes_a_job_changes_only_the_one_that_fetches():
    for name in OF_FETCHES:
        whole = kustomization(KUSTOMIZE / "components" / name)
        targets = [patch["target"] for patch in whole["patches"] if patch["target"]["kind"] == "Job"]
        assert targets == [{"kind": "Job", "labelSelector": "tunefleet.io/role=fetch"}]
        for entry in whole.get("replacements", []):
            for one in load(KUSTOMIZE / "components" / name / entry["path"]):
                selected = [target["select"] for target in one["targets"] if target["select"]["kind"] == "Job"]
                assert selected == [{"kind": "Job", "name": "fetch"}]
