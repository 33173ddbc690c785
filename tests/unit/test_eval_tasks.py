"""The task files of `make eval`: what is read of them, and what is said about each wrong one.

.venv/bin/python -m pytest tests/unit/test_eval_tasks.py
"""

import json
from pathlib import Path

import pytest
import yaml

from scripts.eval.tasks import Loader, read_tasks, write_task
from tests.makefile import ROOT
from train.errors import InputError

FIXTURES = ROOT / "tests" / "fixtures"
INVALID = sorted((FIXTURES / "invalid" / "tasks").glob("*.yaml"))
SHIPPED = sorted((ROOT / "kustomize" / "overlays").glob("*/tasks"))
TASK = {
    "task": "tickets", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip


def write(directory: Path, name: str = "tickets.yaml", rows: str = "rows.jsonl", text: str = "", **changes) -> Path:
    """A task file with its rows beside it; a change of None leaves a key out."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / rows).write_text('{"question": "one?", "answer": "1"}\n')
    values = {key: value for key, value in (TASK | changes).items() if value is not None}
    path = directory / name
    path.write_text(text + yaml.safe_dump(values))
    return path


def refusal(*given: Path | str, allowed: frozenset = frozenset()) -> str:
    with pytest.raises(InputError) as caught:
        read_tasks(list(map(str, given)), set(allowed))
    return str(caught.value)


# ---- wrong ones ----


def test_there_are_wrong_tasks_to_test_with():
    assert len(INVALID) >= 25


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_wrong_task_is_refused_in_the_words_on_its_first_line_with_file_and_fix(path):
    first = path.read_text().split("\n")[0]
    assert first.startswith("# expects: ")
    message = refusal(path)
    for words in first.removeprefix("# expects: ").split(" | "):
        assert words.strip() in message
    assert "\n  fix: " in message
    assert path.name in message or "broken.jsonl" in message


def test_all_problems_of_all_files_are_told_at_once(tmp_path):
    one = write(tmp_path, "one.yaml", metric_list=None, test_split="train")
    two = write(tmp_path, "two.yaml", dataset_path="squad")
    message = refusal(one, two, tmp_path / "nowhere", tmp_path)
    for words in ("one.yaml", "metric_list", "test_split: is train", "squad", "nowhere: is no file and no directory"):
        assert words in message, words


def test_no_path_a_directory_without_tasks_and_two_tasks_of_one_name_are_refused(tmp_path):
    assert "TASKS: (empty): names no task" in refusal()
    (tmp_path / "empty").mkdir()
    assert "empty: holds no .yaml or .yml file" in refusal(tmp_path / "empty")
    write(tmp_path / "two", "a.yaml")
    write(tmp_path / "two", "b.yaml")
    assert "b.yaml: task: is tickets, as in" in refusal(tmp_path / "two")


# ---- right ones ----


def test_the_tasks_of_every_use_case_are_right_and_name_rows_that_are_there():
    assert SHIPPED
    for directory in SHIPPED:
        for task in read_tasks([str(directory)], set()):
            for path in task.config["dataset_kwargs"]["data_files"].values():
                assert Path(path).is_absolute() and Path(path).is_file()


def test_a_file_and_its_directory_give_a_task_once(tmp_path):
    path = write(tmp_path)
    assert [task.name for task in read_tasks([str(tmp_path), str(path)], set())] == ["tickets"]


def test_what_is_included_lies_under_the_task_and_its_rows_beside_itself(tmp_path):
    write(tmp_path / "common", "base.yaml", task=None, doc_to_text="base: {{question}}", test_split="test")
    path = tmp_path / "mine" / "task.yaml"
    path.parent.mkdir()
    path.write_text("include: ../common/base.yaml\ntask: mine\ndoc_to_target: '{{answer}}!'\n")
    (task,) = read_tasks([str(tmp_path)], set())
    assert (task.name, task.file) == ("mine", path)
    assert task.config["doc_to_text"] == "base: {{question}}" and task.config["doc_to_target"] == "{{answer}}!"
    assert task.config["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "common" / "rows.jsonl")}
    assert "include" not in task.config
    (tmp_path / "common" / "base.yaml").write_text("test_split: 7\nnonsense: 1\n")
    assert f"{tmp_path}/mine/../common/base.yaml:2: nonsense: is no key of a task" in refusal(path)


@pytest.mark.parametrize("files", ["rows.jsonl", ["rows.jsonl"], {"train": ["rows.jsonl"]}])
def test_rows_may_be_a_file_a_list_or_files_by_split(tmp_path, files):
    write(tmp_path, dataset_kwargs={"data_files": files}, test_split="train")
    assert read_tasks([str(tmp_path)], set())
    write(tmp_path, dataset_kwargs={"data_files": files}, test_split="test")
    assert "data_files has no such rows" in refusal(tmp_path)


def test_code_is_read_as_code_only_where_it_was_allowed_and_goes_along(tmp_path):
    path = write(tmp_path / "given", text="process_docs: !function ask.clean\n")
    assert "ALLOW=code" in refusal(path)
    assert "ask.clean is in no file of" in refusal(path, allowed=frozenset({"code"}))
    (tmp_path / "given" / "ask.py").write_text("def clean(rows):\n    return rows\n")
    (task,) = read_tasks([str(path)], {"code"})
    written = write_task(task, tmp_path / "work")
    assert (written / "ask.py").resolve() == (tmp_path / "given" / "ask.py").resolve()
    again = yaml.load((written / "task.yaml").read_text(), Loader=Loader)
    assert again["process_docs"].said == "ask.clean"
    assert again["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "given" / "rows.jsonl")}}


def test_a_task_is_another_where_its_words_its_rows_or_its_code_are(tmp_path):
    path = write(tmp_path, text="process_docs: !function ask.clean\n")
    (tmp_path / "ask.py").write_text("clean = list\n")

    def identity() -> str:
        return read_tasks([str(path)], {"code"})[0].identity()

    first = identity()
    assert identity() == first
    (tmp_path / "ask.py").write_text("clean = tuple\n")
    second = identity()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "two?", "answer": "2"}))
    third = identity()
    path.write_text(path.read_text() + "num_fewshot: 1\n")
    assert len({first, second, third, identity()}) == 4
