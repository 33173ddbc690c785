"""The proof of a merge finds every way in which a merged model is not its base plus its adapter."""

import json
import math
import os
import shutil
import sys

import pytest
import torch
from merge_cases import B0, Q0, WEIGHTS, edit_json, edit_tensors, pair, saved_adapter
from safetensors.torch import load_file, save_file

from train import proof as program
from train import proof_logits
from train.adapter import read_pair
from train.errors import InputError
from train.merge import merge
from train.proof import prove
from train.proof_logits import check_memory, compare_logits
from train.proof_tensors import Seen, own_scale

NORM = "model.norm.weight"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def merged(tmp_path):
    """Base, adapter and merged model of a llama in bfloat16."""
    base, adapter = pair(tmp_path)
    merge(base, adapter, tmp_path / "merged", check_logits=False)
    return base, adapter, tmp_path / "merged"


def failure(base, adapter, merged) -> str:
    """The message of a proof that must fail."""
    with pytest.raises(InputError) as caught:
        prove(base, adapter, merged, check_logits=False)
    return str(caught.value)


def test_a_finished_merge_is_proven_again_from_its_three_directories(merged):
    record = prove(*merged)
    assert [check["result"] for check in record["checks"]] == ["passed"] * 6
    written = json.loads((merged[2] / "merge.json").read_text())
    assert record["files"][WEIGHTS] == written["files"][WEIGHTS]
    assert record["checks"][3]["max_error_steps"] <= 0.5 + 2**-10


def test_the_program_prints_every_check(merged, monkeypatch, capsys):
    names = zip(("--base", "--adapter", "--merged"), map(str, merged), strict=True)
    monkeypatch.setattr(sys, "argv", ["proof", *(part for pair in names for part in pair), "--skip-logits"])
    program.main()
    printed = capsys.readouterr().out
    assert printed.count("passed") == 5
    assert "skipped  logits agree" in printed


def test_a_changed_byte_outside_the_targets_is_found(merged):
    file = merged[2] / WEIGHTS
    tensor = next(tensor for tensor in read_pair(*merged[:2])[0].shards[WEIGHTS].tensors if tensor.name == NORM)
    data = bytearray(file.read_bytes())
    data[tensor.begin + 5] ^= 1
    file.write_bytes(data)
    message = failure(*merged)
    assert f"{NORM}: differs from the base in 1 bytes, and the adapter does not touch it" in message
    assert f"{WEIGHTS}: is not the file that merge.json describes" in message


def test_one_target_element_off_by_one_rounding_step_is_found(merged):
    def nudge(tensors):
        tensors[Q0].view(torch.int16)[7, 5] += 1

    edit_tensors(merged[2] / WEIGHTS, nudge)
    assert f"{Q0}: 1 elements are not W + s*BA" in failure(*merged)


def test_a_merge_with_another_scale_is_found(merged):
    edit_json(merged[1] / "adapter_config.json", lora_alpha=8.5)
    message = failure(*merged)
    assert message.count("elements are not W + s*BA") == 6


def test_an_unmerged_model_is_found(merged):
    shutil.copy(merged[0] / WEIGHTS, merged[2])
    assert failure(*merged).count("elements are not W + s*BA") == 6


def test_a_nan_in_the_merged_model_is_found(merged):
    edit_tensors(merged[2] / WEIGHTS, lambda tensors: tensors[Q0][0, 0].fill_(float("nan")))
    assert f"{Q0}: holds NaN or infinity (1 elements)" in failure(*merged)


def test_a_wrong_length_in_a_dora_merge_is_found(tmp_path):
    base, adapter = pair(tmp_path, {"use_dora": True}, dtype=torch.float32)
    merge(base, adapter, tmp_path / "merged", check_logits=False)
    edit_tensors(tmp_path / "merged" / WEIGHTS, lambda tensors: tensors[Q0][3].mul_(1 + 2**-20))
    assert f"{Q0}: " in failure(base, adapter, tmp_path / "merged")


def test_a_truncated_a_missing_and_an_extra_file_are_found(merged):
    file = merged[2] / WEIGHTS
    os.truncate(file, file.stat().st_size - 1)
    assert "is truncated" in failure(*merged)
    file.rename(merged[2] / "other.safetensors")
    message = failure(*merged)
    assert f"{WEIGHTS}: is missing" in message
    assert "other.safetensors: is no weight file of the base" in message


def test_a_changed_dtype_and_a_changed_configuration_are_found(merged):
    edit_tensors(merged[2] / WEIGHTS, lambda tensors: tensors.update({NORM: tensors[NORM].float()}))
    edit_json(merged[2] / "config.json", rms_norm_eps=1.0)
    message = failure(*merged)
    assert "its header differs from the base's" in message
    assert "config.json: differs from the base's" in message


def test_a_carried_file_changed_after_the_merge_is_found(merged):
    edit_json(merged[2] / "generation_config.json", temperature=0.1)
    assert "generation_config.json: is not the file that merge.json describes" in failure(*merged)


def test_logits_of_a_model_that_is_not_base_plus_adapter_are_found(merged):
    base, adapter = read_pair(*merged[:2])
    with pytest.raises(InputError, match="differ from base \\+ adapter by more than rounding explains"):
        compare_logits(base, adapter, merged[0], None, skip=False)


def test_an_adapter_that_drowns_in_rounding_is_refused_with_the_figures(tmp_path):
    base, _ = pair(tmp_path)
    weak = saved_adapter(base, "{}", 1e-4)
    with pytest.raises(InputError, match="rounding is no longer small against what the adapter changes"):
        merge(base, weak, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_logits_are_not_compared_where_the_memory_does_not_suffice(merged, monkeypatch):
    monkeypatch.setattr(proof_logits, "memory_available", lambda: 1 << 20)
    with pytest.raises(InputError, match="--skip-logits"):
        check_memory(*read_pair(*merged[:2]))
    with pytest.raises(InputError, match=r"0\.0 GiB are free"):
        merge(*merged[:2], merged[2].with_name("again"))


def test_the_proof_computes_its_own_scale_and_tells_when_it_differs_from_pefts(tmp_path):
    lora = {"use_rslora": True, "alpha_pattern": {"q_proj": 32}, "rank_pattern": {"layers.1.self_attn.q_proj": 2}}
    _, adapter = read_pair(*pair(tmp_path, lora))
    ranks = {"model.layers.1.self_attn.q_proj.weight": 2}
    scales = {one.parameter: own_scale(adapter, one, ranks.get(one.parameter, 4)) for one in adapter.targets}
    assert scales[Q0] == 16.0
    assert scales["model.layers.1.self_attn.q_proj.weight"] == pytest.approx(32 / math.sqrt(2))
    assert scales["model.layers.0.self_attn.v_proj.weight"] == 4.0
    with pytest.raises(InputError, match="lora_alpha: PEFT scales"):
        own_scale(adapter, adapter.targets[0], 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_correct_rounding_passes_for_every_size_of_number_and_one_step_off_does_not(dtype):
    exponents = torch.linspace(math.log2(torch.finfo(dtype).smallest_normal) - 12, 14, 4096, dtype=torch.float64)
    exact = (torch.exp2(exponents) * torch.linspace(-2, 2, 4096, dtype=torch.float64)).view(64, 64)
    exact[0, :2] = 0
    right = exact.to(dtype)
    found = Seen()
    found.measure(right, exact, exact.abs)
    assert (found.bad, found.beyond) == (0, 0)
    assert 0.4 < found.worst <= 0.5 + 2**-10
    off = (right.view({2: torch.int16, 4: torch.int32}[right.element_size()]) + 1).view(dtype)
    found = Seen()
    found.measure(off, right.double(), exact.abs)
    assert (found.beyond, found.worst) == (64 * 64, 1.0)


def test_an_error_of_float64_where_terms_cancel_is_not_taken_for_a_defect():
    exact = torch.full((1, 1), 1e-20, dtype=torch.float64)
    found = Seen()
    found.measure(torch.zeros(1, 1), exact, lambda: torch.ones(1, 1, dtype=torch.float64))
    assert found.beyond == 0
    found.measure(torch.zeros(1, 1), exact, lambda: torch.full((1, 1), 1e-12, dtype=torch.float64))
    assert found.beyond == 1


def test_tensors_of_other_dtypes_are_compared_as_bytes(merged):
    base, adapter, output = merged
    for path in (base, output):
        tensors = load_file(path / WEIGHTS)
        tensors["extra.index"] = torch.arange(5)
        tensors["extra.empty"] = torch.zeros(0, 3)
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    (output / "merge.json").unlink()
    prove(base, adapter, output, check_logits=False)
    edit_tensors(output / WEIGHTS, lambda tensors: tensors["extra.index"].add_(1))
    assert "extra.index: differs from the base in 5 bytes" in failure(base, adapter, output)


def test_a_target_with_an_unchanged_b_is_named_by_the_proof(merged):
    edit_tensors(merged[1] / "adapter_model.safetensors", lambda tensors: tensors[B0].zero_())
    edit_tensors(merged[2] / WEIGHTS, lambda tensors: tensors[Q0].copy_(load_file(merged[0] / WEIGHTS)[Q0]))
    assert f"{Q0}: did not change: B is zero" in failure(*merged)
