"""Whatever ends a merge, what lies at its output is a complete, proven model or nothing."""

import errno
import multiprocessing
import os
import shutil
import time

import pytest
from merge_cases import (
    B0,
    WEIGHTS,
    edit_json,
    edit_tensors,
    pair,
    refusal,
)

from train import merge as program
from train import merge_output
from train.base_model import read_base
from train.direct_io import DirectFile
from train.errors import InputError
from train.merge import merge


def test_an_output_that_is_no_earlier_merge_is_left_alone(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "other.tmp").mkdir()
    (tmp_path / "other.tmp" / "thesis.txt").write_text("more")
    with pytest.raises(InputError, match="exists and was not made by this program"):
        merge(base, adapter, tmp_path / "mine", check_logits=False)
    with pytest.raises(InputError, match="exists and was not left by a merge"):
        merge(base, adapter, tmp_path / "other", check_logits=False)
    with pytest.raises(InputError, match="lies in it and would be replaced"):
        merge(base, adapter, adapter, check_logits=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert (tmp_path / "other.tmp" / "thesis.txt").exists()


def test_an_earlier_merge_is_replaced_only_after_the_new_one_is_proven(tmp_path):
    base, adapter = pair(tmp_path)
    output = tmp_path / "merged"
    merge(base, adapter, output, check_logits=False)
    first = (output / WEIGHTS).read_bytes()
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].zero_())
    with pytest.raises(InputError, match="did not change"):
        merge(base, adapter, output, check_logits=False)
    assert (output / WEIGHTS).read_bytes() == first
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].fill_(0.1))
    merge(base, adapter, output, check_logits=False)
    assert (output / WEIGHTS).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


@pytest.mark.parametrize("place", ["nothing", "complete", "empty", "marked"])
def test_a_merge_killed_while_it_replaced_an_earlier_one_gives_the_earlier_one_back(tmp_path, place):
    base, adapter = pair(tmp_path)
    output, work = tmp_path / "merged", tmp_path / "merged.tmp"
    merge(base, adapter, output, check_logits=False)
    if place != "nothing":
        work.mkdir()
    if place == "complete":
        shutil.copytree(output, work, dirs_exist_ok=True)
    if place == "marked":
        (work / merge_output.MARK).write_text("")
        (work / WEIGHTS).write_bytes(b"half")
    output.rename(tmp_path / "merged.old")
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors[B0].zero_())
    with pytest.raises(InputError, match="did not change"):
        merge(base, adapter, output, check_logits=False)
    assert (output / "merge.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


def test_a_directory_beside_the_output_that_no_merge_left_is_not_touched(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "merged.old").mkdir()
    (tmp_path / "merged.old" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"merged\.old: exists and was not left by a merge"):
        merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert (tmp_path / "merged.old" / "thesis.txt").exists()


def test_a_merge_into_an_empty_directory_works(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "merged").mkdir()
    merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert (tmp_path / "merged" / "merge.json").exists()


def test_a_killed_merge_leaves_no_output_and_the_same_command_ends_well(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path, shard_size="40KB")
    output, work = tmp_path / "merged", tmp_path / "merged.tmp"
    write = DirectFile.write
    monkeypatch.setattr(DirectFile, "write", lambda *given: (write(*given), time.sleep(0.1)))
    options = {"check_logits": False}
    process = multiprocessing.get_context("fork").Process(target=merge, args=(base, adapter, output), kwargs=options)
    process.start()
    monkeypatch.undo()
    deadline = time.monotonic() + 60
    while len(list(work.glob("*.safetensors"))) < 2:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(InputError, match="another merge is working there"):
        merge(base, adapter, output, check_logits=False)
    process.kill()
    process.join()
    assert not output.exists()
    assert work.exists()
    merge(base, adapter, output, check_logits=False)
    assert (output / "merge.json").exists()
    assert not work.exists()


def test_a_full_disk_ends_the_merge_with_a_clear_message_and_nothing_left(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DirectFile, "write", full)
    message = refusal(base, adapter, tmp_path / "merged")
    assert "No space left on device" in message
    assert "free space there" in message


def test_too_little_space_is_found_before_the_first_byte(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    monkeypatch.setattr(merge_output.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(program, "write_weights", lambda *_: pytest.fail("must not start"))
    assert "0.0 GB are free" in refusal(base, adapter, tmp_path / "merged")
    (tmp_path / "merged.tmp").mkdir()
    (tmp_path / "merged.tmp" / merge_output.MARK).write_text("")
    with (tmp_path / "merged.tmp" / WEIGHTS).open("wb") as left:
        left.truncate(1 << 30)  # what a killed merge left is cleared away, so it counts as free
    merge_output.check_space(read_base(base), tmp_path / "merged")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    base, adapter = pair(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="an --output that can be written"):
        merge(base, adapter, tmp_path / "file" / "merged", check_logits=False)


def test_the_problems_of_base_adapter_and_output_are_told_at_once(tmp_path):
    base, adapter = pair(tmp_path)
    os.truncate(base / WEIGHTS, 1000)
    edit_json(adapter / "adapter_config.json", use_qalora=True, lora_bias=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    with pytest.raises(InputError) as caught:
        merge(base, adapter, tmp_path / "mine", check_logits=False)
    assert len(caught.value.problems) == 4
