"""Processes whose machines differ train in one way: that which all of them can."""

import json
import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist

from tests.unit.fast_cases import make_family, make_rows
from tests.unit.fast_cases import with_adapter as adapted
from train.fast import lora
from train.fast.choose import choose_path, take_what_all_can
from train.fast.packs import make_pack, sort_rows
from train.processes import agree
from train.recipe import with_defaults


def process(rank: int, place: Path) -> None:
    """One of two processes; the other one's machine has another number format, packs nothing and fuses wrongly."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    if rank == 1:
        own = lora.multiply
        lora.multiply = lambda *given: (own(*given)[0] * 2, *own(*given)[1:])
    recipe = with_defaults({"model_name_or_path": "m", "train_file": "t", "packing": rank == 0})
    model = adapted(make_family("llama"))
    path = choose_path(recipe, model, torch.float32)
    alone = (path.packing, path.shared_prefixes, path.fused_adapters)
    take_what_all_can(path, model, 2)
    try:
        model(pack=make_pack(sort_rows(make_rows()[:2]), True))
        takes_packs = True
    except ValueError:  # the model's own forward has no input_ids
        takes_packs = False
    dtype = agree([torch.float32, torch.bfloat16][rank], 2)
    agreed = (path.packing, path.shared_prefixes, path.fused_adapters, takes_packs)
    (place / f"{rank}.json").write_text(json.dumps([alone, agreed, str(dtype), path.notes]))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_that_disagree_take_what_both_can(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=process, args=(rank, tmp_path)) for rank in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(300)
        one.kill()
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one[0] for one in said] == [[True, True, 21], [False, False, 0]]
    assert [one[1] for one in said] == [[False, False, 0, False]] * 2
    assert [one[2] for one in said] == ["torch.float32"] * 2
    notes = said[0][3]
    assert "process 1: packing is off: the recipe says packing: false" in notes
    assert any(note.startswith("process 1: adapters computed by PEFT, not fused: ") for note in notes)
