"""A merge reads, adds, writes, hashes and proves at once; what fails in any thread ends it with one message."""

import errno
import json
import os
import resource
import threading
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from merge_cases import SIZES, WEIGHTS, kept_until_exit, name_base, pair, refusal, saved_adapter
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from train import direct_io, merge_weights, proof_tensors
from train.base_model import describe_base
from train.direct_io import DirectFile
from train.merge import merge
from train.safetensors_io import blocks, in_order, workers


@pytest.fixture(autouse=True)
def no_thread_left():
    """Every thread that a merge starts ends with it (tqdm's own is a daemon)."""
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    yield
    assert {thread for thread in threading.enumerate() if not thread.daemon} == before


def on_call(number: int, function, act):
    """The function, but `act` in its place on the call of that number, counted from 1."""
    calls = iter(range(1, 1 << 30))
    lock = threading.Lock()

    def called(*given):
        with lock:
            now = next(calls)
        return act(*given) if now == number else function(*given)

    return called


def fail(code: int):
    """What raises the system's error of that number."""

    def failing(*_):
        raise OSError(code, os.strerror(code))

    return failing


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (merge_weights, "read_rows"),
        (merge_weights, "read_bytes"),
        (proof_tensors, "read_rows"),
        (proof_tensors, "read_bytes"),
        (DirectFile, "write"),
        (DirectFile, "read"),
    ],
)
def test_a_failed_read_or_write_ends_the_merge_with_the_systems_words(tmp_path, monkeypatch, module, name, number):
    base, adapter = pair(tmp_path)
    monkeypatch.setattr(module, name, on_call(number, getattr(module, name), fail(errno.EIO)))
    assert "Input/output error" in refusal(base, adapter, tmp_path / "merged")
    monkeypatch.undo()
    merge(base, adapter, tmp_path / "merged", check_logits=False)


def test_what_does_not_reach_the_disk_ends_the_merge(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    monkeypatch.setattr(direct_io.os, "fsync", fail(errno.EIO))
    assert "Input/output error" in refusal(base, adapter, tmp_path / "merged")


def test_a_file_that_may_not_grow_any_more_ends_the_merge(tmp_path):
    base, adapter = pair(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((base / WEIGHTS).stat().st_size // 2, before[1]))
    try:
        message = refusal(base, adapter, tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in message


def test_a_base_truncated_meanwhile_ends_the_merge(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    write = DirectFile.write

    def truncate(*given):
        os.truncate(base / WEIGHTS, 4096)
        write(*given)

    monkeypatch.setattr(DirectFile, "write", on_call(2, write, truncate))
    assert "early while it was read" in refusal(base, adapter, tmp_path / "merged")


def test_a_base_changed_meanwhile_ends_the_merge(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    status = (base / WEIGHTS).stat()
    write = DirectFile.write

    def touch(*given):
        os.utime(base / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        write(*given)

    monkeypatch.setattr(DirectFile, "write", on_call(2, write, touch))
    assert f"{WEIGHTS}: was changed while it was merged" in refusal(base, adapter, tmp_path / "merged")


def flipped(data: torch.Tensor) -> torch.Tensor:
    """The tensor with the sign of a number in its middle turned over."""
    one = data.clone()
    view = one.view(-1).view(torch.uint8)
    view[len(view) // 2 | 1] ^= 0x80
    return one


def test_a_bit_read_wrongly_before_adding_is_found(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    read = merge_weights.read_rows
    biggest = max(tensor.numel() for tensor in load_file(adapter / "adapter_model.safetensors").values())

    def misread(*given):
        rows = read(*given)
        return flipped(rows) if rows.numel() > biggest else rows  # a row of the base, not of the adapter

    monkeypatch.setattr(merge_weights, "read_rows", misread)
    assert refusal(base, adapter, tmp_path / "merged").count("elements are not W + s*BA") == 6


@pytest.mark.parametrize("size", ["whole", "halves"])
def test_a_bit_written_wrongly_is_found_in_every_tensor(tmp_path, monkeypatch, size):
    base, adapter = pair(tmp_path)
    write = DirectFile.write

    def miswrite(file, begin, data):
        write(file, begin, flipped(data) if begin else data)  # the header stays

    if size == "halves":
        monkeypatch.setattr(proof_tensors, "blocks", partial(blocks, elements=24 * 48))
    monkeypatch.setattr(DirectFile, "write", miswrite)
    message = refusal(base, adapter, tmp_path / "merged")
    assert message.count("elements are not W + s*BA") == 6
    assert message.count("differs from the base") == len(load_file(base / WEIGHTS)) - 6


@cache
def smallest_base() -> Path:
    """A base of a thousand elements, so that one at a time are few blocks; q_proj has 40 rows, more than MULTIPLE."""
    torch.manual_seed(0)
    path = kept_until_exit("smallest-")
    sizes = SIZES | {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "head_dim": 20, "vocab_size": 40}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_bytes_are_the_same_whatever_the_size_of_a_block(tmp_path, monkeypatch, lora):
    base, adapter = smallest_base(), saved_adapter(smallest_base(), json.dumps(lora))
    first = merge(base, adapter, tmp_path / "merged", check_logits=False)
    for elements in (1, 10, 100):  # of q_proj: one row, two rows, 16 rows and a rest
        monkeypatch.setattr(proof_tensors, "blocks", partial(blocks, elements=elements))
        monkeypatch.setattr(proof_tensors, "JOB", elements)
        for slice_elements in (1, elements):
            monkeypatch.setattr(proof_tensors, "SLICE", slice_elements)
            monkeypatch.setattr(proof_tensors, "SAMPLE", slice_elements)
            monkeypatch.setattr(merge_weights, "SLICE", slice_elements)
            again = merge(base, adapter, tmp_path / "merged", check_logits=False)
            assert again["files"] == first["files"]
            assert again["checks"][3]["elements"] == first["checks"][3]["elements"]


def test_an_interrupted_merge_leaves_nothing_and_the_same_command_ends_well(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DirectFile, "write", on_call(4, DirectFile.write, interrupted))
    with pytest.raises(KeyboardInterrupt):
        merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    monkeypatch.undo()
    merge(base, adapter, tmp_path / "merged", check_logits=False)


def test_a_weight_file_of_another_base_is_refused_whichever_it_is(tmp_path):
    base, adapter = pair(tmp_path, shard_size="40KB")
    name_base(base, adapter)
    last = sorted(base.glob("*.safetensors"))[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert f"{last.name}: the adapter belongs to another base: sha256" in refusal(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_hashes_of_the_bytes_compared_are_those_of_the_bases_files(tmp_path, lora):
    base, adapter = pair(tmp_path, lora, shard_size="40KB")
    record = merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert len(record["base"]["files"]) > 2
    assert record["base"]["files"] == describe_base(base)["files"]


def test_what_is_hashed_of_the_base_is_what_the_proof_has_read(tmp_path, monkeypatch):
    base, adapter = pair(tmp_path)
    name_base(base, adapter)
    read_bytes = merge_weights.read_bytes
    for module in (merge_weights, proof_tensors):  # both misread alike, so that the comparison finds nothing
        monkeypatch.setattr(module, "read_bytes", lambda *given: flipped(read_bytes(*given)))
    assert f"{WEIGHTS}: the adapter belongs to another base: sha256" in refusal(base, adapter, tmp_path / "merged")


def test_after_a_failed_job_those_not_yet_started_are_not_done():
    done = []
    gate = threading.Event()

    def job(number):
        if number == 0:
            raise OSError(errno.EIO, "broken")
        gate.wait(60)
        done.append(number)

    with workers() as pool, pytest.raises(OSError, match="broken"):
        try:
            list(in_order(pool, (partial(job, number) for number in range(1000))))
        finally:
            gate.set()
    assert len(done) <= pool._max_workers


def refuse_direct(monkeypatch, way: str) -> None:
    """Make the file system one that does not go past its cache: it says so at opening, or only at the first read."""
    if way == "at opening":
        monkeypatch.setattr(direct_io, "open_direct", lambda *_: None)
    else:
        real = os.preadv
        direct = set()
        opened = direct_io.open_direct
        monkeypatch.setattr(direct_io, "open_direct", lambda *given: direct.add(one := opened(*given)) or one)
        monkeypatch.setattr(direct_io.os, "pwritev", fail(errno.EINVAL))
        monkeypatch.setattr(
            direct_io.os, "preadv", lambda file, *given: fail(errno.EINVAL)() if file in direct else real(file, *given)
        )


@pytest.mark.parametrize("way", ["past the cache", "at opening", "at the first read"])
def test_parts_of_a_file_are_read_as_they_were_written_wherever_they_begin(tmp_path, monkeypatch, way):
    if way != "past the cache":
        refuse_direct(monkeypatch, way)
    torch.manual_seed(0)
    content = torch.randint(256, (100_003,), dtype=torch.uint8)
    ends = [0, 1, 4095, 4096, 4097, 20_000, 20_001, 36_864, 45_056, 100_003]
    parts = list(pairwise(ends))
    with DirectFile(tmp_path / "file", len(content)) as file:
        for begin, end in parts[::2] + parts[1::2]:
            file.write(begin, content[begin:end])
        file.sync()
        for begin, end in [*parts, (0, 100_003), (4000, 90_000)]:
            assert torch.equal(file.read(begin, end - begin), content[begin:end])
        with pytest.raises(OSError, match="ended 7 bytes early"):
            file.read(50_000, 50_010)
    assert (tmp_path / "file").read_bytes() == content.numpy().tobytes()


@pytest.mark.parametrize("way", ["at opening", "at the first read"])
def test_a_file_system_that_always_caches_gets_the_same_bytes(tmp_path, monkeypatch, way):
    base, adapter = pair(tmp_path)
    first = merge(base, adapter, tmp_path / "merged", check_logits=False)
    refuse_direct(monkeypatch, way)
    again = merge(base, adapter, tmp_path / "merged", check_logits=False)
    assert again["files"] == first["files"]


def test_tensors_at_odd_places_are_merged_the_same(tmp_path):
    base, adapter = pair(tmp_path)
    merge(base, adapter, tmp_path / "even", check_logits=False)
    data = (base / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    (base / WEIGHTS).write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])
    merge(base, adapter, tmp_path / "odd", check_logits=False)
    tensors = (data[8 + int.from_bytes(data[:8], "little") :] for data in
               ((tmp_path / name / WEIGHTS).read_bytes() for name in ("even", "odd")))  # fmt: skip
    assert next(tensors) == next(tensors)
