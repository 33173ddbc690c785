"""Answer prompts greedily in batches, the same way before and after training. Used by train.evaluate.

The prompts are finished texts, as the training rendered them, and their ids must be those the training saw: `prefix`
is what stood before each (a BOS that the tokenizer puts before plain text; nothing before a chat template's text).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from train.data_tokens import own_prefix

CACHE_BYTES = 2 << 30  # what keys and values of one batch may take
LARGEST_BATCH = 64
# Below this many weights a step's products are so short that threads wait for each other longer than they compute;
# beside other work on the same cores one thread is up to eight times faster.
ONE_THREAD = 30_000_000


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int,
    prefix: tuple[int, ...] | None = None,
) -> list[tuple[str, bool]]:
    """The answer to each prompt and whether the model ended it by itself (else max_new_tokens or the context did).

    Greedy and deterministic. Prompts of like length share a batch, longest first, so that the time left rather shrinks
    than grows; the answers come back in the order of the prompts, without special tokens. Without `prefix`, a prompt
    gets what the tokenizer puts before any text, unless it begins with the BOS text already.
    """
    ids = prompt_ids(tokenizer, prompts, prefix)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    stops = stop_ids(model, tokenizer)
    answers: list[tuple[str, bool]] = [("", False)] * len(ids)
    bar = tqdm(total=len(ids), desc="answering", unit="prompt", file=sys.stderr, mininterval=0.5 if tty() else 15)
    with bar, torch.inference_mode(), plain_greedy(model), enough_threads(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            new = new_tokens(model, [ids[i] for i in rows], max_new_tokens, stops, padding_id(tokenizer, stops))
            for i, tokens in zip(rows, new, strict=True):
                answers[i] = cut(tokens, stops, tokenizer)
            bar.update(len(rows))
    return answers


def prompt_ids(tokenizer: Any, prompts: list[str], prefix: tuple[int, ...] | None = None) -> list[list[int]]:
    """Token ids of rendered prompts, behind the prefix."""
    coded = tokenizer.backend_tokenizer.encode_batch_fast(prompts, add_special_tokens=False)
    if prefix is not None:
        return [[*prefix, *one.ids] for one in coded]
    own, bos = own_prefix(tokenizer), tokenizer.bos_token
    return [
        one.ids if bos and prompt.startswith(bos) else [*own, *one.ids]
        for prompt, one in zip(prompts, coded, strict=True)
    ]


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those that the model's generation config names."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return sorted({i for i in [tokenizer.eos_token_id, *named] if i is not None})


def padding_id(tokenizer: Any, stops: list[int]) -> int:
    """What fills the left of shorter prompts; it is masked, so any token serves."""
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return stops[0] if stops else 0


def batch_size_for(config: Any, longest: int) -> int:
    """Prompts of up to `longest` tokens (answer included) whose keys and values fit into CACHE_BYTES."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    row = 2 * 4 * text.num_hidden_layers * heads * width * max(1, longest)  # keys and values, 4 bytes at most
    return max(1, min(LARGEST_BATCH, CACHE_BYTES // row))


@contextmanager
def plain_greedy(model: Any) -> Iterator[None]:
    """Evaluation mode, and no repetition penalty or sampling from the model's own generation config meanwhile.

    transformers fills what a call leaves open from that config, so a penalty there would change greedy answers.
    """
    from transformers import GenerationConfig

    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)


@contextmanager
def enough_threads(model: Any) -> Iterator[None]:
    """One thread for a small model meanwhile; a large one keeps those it has (OMP_NUM_THREADS)."""
    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def new_tokens(
    model: Any, batch: list[list[int]], max_new_tokens: int, stops: list[int], padding: int
) -> list[list[int]]:
    """What the model adds to each prompt of one batch, padded on the left; empty where the context is full."""
    from transformers import GenerationConfig

    longest = max(map(len, batch))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    budget = max_new_tokens if context is None else min(max_new_tokens, context - longest)
    if budget < 1 or longest < 1:
        return [[] for _ in batch]
    tokens = torch.tensor([[padding] * (longest - len(row)) + row for row in batch], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=model.device)
    # A new config a call: generate() writes into the one it is given.
    config = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, max_new_tokens=budget, eos_token_id=stops or None,
        pad_token_id=padding,
    )  # fmt: skip
    output = model.generate(input_ids=tokens, attention_mask=mask, generation_config=config)
    return output[:, longest:].tolist()


def cut(tokens: list[int], stops: list[int], tokenizer: Any) -> tuple[str, bool]:
    """The text up to the first stop token, and whether there is one.

    Spaces stay as they are: some tokenizers would take the one before a full stop away, and an exact match with it.
    """
    end = next((place for place, token in enumerate(tokens) if token in stops), None)
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, end is not None


def tty() -> bool:
    """Whether somebody watches; a log gets a line now and then instead."""
    return sys.stderr.isatty()
