"""Which models take packs, and what is said of those that do not."""

from itertools import pairwise

import pytest
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.unit.fast_cases import SHAPE, make_family, make_rows
from tests.unit.fast_cases import with_adapter as adapted
from train.fast.choose import FastPath, choose_path
from train.fast.forward import take_packs
from train.fast.packs import make_pack, sort_rows
from train.recipe import with_defaults


def choose(model: torch.nn.Module, **values) -> FastPath:
    """What is chosen for a recipe with these values."""
    values = {"model_name_or_path": "m", "train_file": "t", "method": "full", **values}
    return choose_path(with_defaults(values), model.train(), torch.float32)


def refused(model: torch.nn.Module, **values) -> str:
    """The one reason why rows are not packed; the model is what it was."""
    ids = torch.arange(2, 12)[None]
    model.eval()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        path = choose(model, **values)
        model.eval()
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not path.packing and not path.shared_prefixes and len(path.notes) == 1
    assert path.in_words() == path.notes
    return path.notes[0]


def test_what_is_on_is_said_in_one_line():
    path = choose(adapted(make_family("llama")), method="lora")
    assert path.in_words() == [
        "fast: rows share packs, common beginnings once; 21 adapters fused into their layers; 7 lean norms; "
        "3 lean feed-forward blocks"
    ]


def test_shared_dropout_is_said():
    path = choose(adapted(make_family("llama"), lora_dropout=0.1), method="lora", lora_dropout=0.1)
    assert path.notes == ["rows that begin alike share the dropout of their beginning, too (lora_dropout)"]
    assert path.in_words()[1:] == path.as_dict()["notes"] == path.notes


def test_a_recipe_may_switch_packing_off():
    assert refused(make_family("llama"), packing=False) == "packing is off: the recipe says packing: false"


def test_intels_extension_has_its_own_kernels():
    assert refused(make_family("llama"), use_ipex=True) == "packing is off: use_ipex brings kernels of its own"


@pytest.mark.parametrize(
    ("family", "more", "reason"),
    [
        ("Bloom", {"n_head": 4}, "its attention cannot be exchanged"),
        ("GPT2", {"n_embd": 64, "n_head": 4}, "it is no plain stack of layers with an output layer"),
        ("GptOss", {**SHAPE, "head_dim": 16, "num_local_experts": 4}, "its attention has attention sinks"),
        ("Mamba", {"hidden_size": 64, "num_hidden_layers": 2}, "its attention cannot be exchanged"),
    ],
)
def test_models_that_cannot_say_why(family, more, reason):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{"vocab_size": 96} | more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert refused(model) == f"packing is off, since {reason}"


def test_a_model_that_mixes_tokens_outside_attention_is_found_out():
    torch.manual_seed(0)
    config = transformers.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention", "conv"])
    assert "rows in a pack" in refused(transformers.Lfm2ForCausalLM(config)) or "differ" in refused(
        transformers.Lfm2ForCausalLM(config)
    )


def test_a_model_with_an_output_of_its_own_is_found_out():
    model = make_family("llama")
    original = model.forward

    def doubled(*arguments, **others):
        outputs = original(*arguments, **others)
        outputs.logits = outputs.logits * 3
        return outputs

    model.forward = doubled
    assert "its output layer does more than is known here" in refused(model)


def test_attention_dropout_is_refused_and_not_left_out():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, attention_dropout=0.1))
    assert refused(model) == "packing is off, since its attention has dropout (0.1)"


def test_flash_attention_gets_the_rows_bounds_and_no_tree(monkeypatch):
    told = []

    def kernel(module, query, key, value, mask, **others):
        bounds = others["cu_seq_lens_q"].tolist()
        told.append((bounds, others["cu_seq_lens_k"].tolist(), others["max_length_q"], mask))
        rows = [
            torch.nn.functional.scaled_dot_product_attention(
                *(part[:, :, first:last] for part in (query, key, value)), is_causal=True, enable_gqa=True
            )
            for first, last in pairwise(bounds)
        ]
        return torch.cat(rows, dim=2).transpose(1, 2), None

    model = make_family("llama")
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", kernel)
    model.config._attn_implementation_internal = "flash_attention_2"
    pack = make_pack(sort_rows(make_rows()[:3]), False)
    loss = take_packs(model)(pack=pack)
    lengths = [block.last - block.first for block in pack.blocks]
    assert [last - first for first, last in pairwise(told[-1][0])] == lengths
    assert told[-1][0] == told[-1][1] and told[-1][2] == pack.longest and told[-1][3] is None
    other = make_family("llama")
    assert take_packs(other)(pack=pack).item() == pytest.approx(loss.item(), rel=1e-5)


def windowed_by_mask(window: int) -> torch.nn.Module:
    """A model whose windows are in its masks alone."""
    torch.manual_seed(0)
    experts = {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    windows = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1}
    return transformers.Qwen2MoeForCausalLM(transformers.Qwen2MoeConfig(**SHAPE, **experts, **windows))


def test_windows_that_only_the_mask_has_are_not_left_out():
    reason = "packing is off, since its masks have windows of 40 tokens that its attention is not told of"
    assert refused(windowed_by_mask(40), max_length=41) == reason
    assert choose(windowed_by_mask(40), max_length=40).packing, "no row is longer than the window"
    assert choose(make_family("mistral with a window"), max_length=200).packing, "its attention is told of it"
