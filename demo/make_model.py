"""Make the demo's base model: a tokenizer and a small Qwen3, trained from nothing on the text of pretraining.py.

    python -m demo.make_model                    # rewrites demo/model; minutes on 2 CPU cores
    python -m demo.make_model --steps 20 --output build/tiny-model     # a quick look, useless weights

The seed fixes the text, the order and the start; the last digits of the weights depend on the processor.
"""

import argparse
import math
import random
import shutil
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from demo.pretraining import END, documents, reading

HERE = Path(__file__).resolve().parent
VOCABULARY = 768
ROW_TOKENS = 96
BATCH_ROWS = 24
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
SPECIAL_TOKENS = [END, "<|im_start|>", "<|im_end|>", "<|pad|>"]
# Qwen's own way of cutting text, which makes every digit a token: numbers can then be copied digit by digit.
CUTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, learnt from a sample of the text."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(islice(documents(seed), 30_000), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", END],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_network(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained network of about a million weights."""
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    network = Qwen3ForCausalLM(config)
    network.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return network


def weigh(ids: list[int], start: int, assistant: int, end: int) -> list[float]:
    """How much each token counts in the loss: answers fully, the rest, mostly names drawn by chance, little."""
    weights, answering = [], False
    for position, token in enumerate(ids):
        weights.append(1.0 if answering else 0.1)
        if token == assistant and position and ids[position - 1] == start:
            answering = True
        elif token == end:
            answering = False
    return weights


def pack(documents_ids: list[list[int]]) -> list[list[int]]:
    """Whole documents, one behind the other, in rows of at most ROW_TOKENS."""
    rows: list[list[int]] = []
    for ids in documents_ids:
        row = next((row for row in rows if len(row) + len(ids) <= ROW_TOKENS), None)
        if row is None:
            rows.append(row := [])
        row += ids[:ROW_TOKENS]
    return rows


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Batches:
    """Endless batches of token ids and their weights."""
    texts, rows = documents(seed), []
    start, assistant, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "assistant", "<|im_end|>"])
    while True:
        while len(rows) < BATCH_ROWS:
            rows += pack(tokenizer(list(islice(texts, 1000)))["input_ids"])
        batch, rows = rows[:BATCH_ROWS], rows[BATCH_ROWS:]
        ids = torch.full((BATCH_ROWS, ROW_TOKENS), tokenizer.pad_token_id)
        weights = torch.zeros(BATCH_ROWS, ROW_TOKENS)
        for index, row in enumerate(batch):
            ids[index, : len(row)] = torch.tensor(row)
            weights[index, : len(row)] = torch.tensor(weigh(row, start, assistant, end))
        yield ids, weights


def pace(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: a short rise, then half a cosine down to a twentieth."""
    if step < 50:
        return (step + 1) / 50
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))


def make_optimizers(network: Qwen3ForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, which halves the steps needed here, and AdamW for the rest."""
    layers = [weight for weight in network.model.layers.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in layers}
    rest = [weight for weight in network.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(layers, lr=peak, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.6 * peak, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(network: Qwen3ForCausalLM, data: Batches, steps: int, peak: float) -> float:
    """Trains the network in place and returns the loss on the answers, averaged over the last steps."""
    optimizers = make_optimizers(network, peak)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: pace(step, steps)) for each in optimizers]
    begin, losses = time.monotonic(), deque(maxlen=50)
    for step, (ids, weights) in enumerate(islice(data, steps), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        each = torch.nn.functional.cross_entropy(scores.float(), ids[:, 1:].flatten(), reduction="none")
        weights = weights[:, 1:].flatten()
        ((each * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        network.zero_grad()
        losses.append(each.detach()[weights == 1].mean().item())
        if step % 50 == 0 or step == steps:
            recent = sum(losses) / len(losses)
            print(f"step {step}/{steps}  loss on answers {recent:.4f}  {time.monotonic() - begin:.0f} s", flush=True)
    return sum(losses) / len(losses)


@torch.no_grad()
def skill(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, chats: int = 100) -> float:
    """The share of fresh first questions that the model answers to the letter."""
    network.eval()
    draw = random.Random(seed)
    turns = [reading(draw) for _ in range(chats)]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": chat[0][1]}], tokenize=False,
                                      add_generation_prompt=True)
        for chat in turns
    ]  # fmt: skip
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = network.generate(**inputs, max_new_tokens=40)[:, inputs["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(output, skip_special_tokens=True)
    return sum(answer == chat[1][1] for answer, chat in zip(answers, turns, strict=True)) / chats


def save(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write model and tokenizer aside, keep the model card that is there, and put them in place."""
    aside = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    network.bfloat16().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    if (output / "README.md").exists():
        shutil.copy(output / "README.md", aside)
    shutil.rmtree(output, ignore_errors=True)
    aside.rename(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "model", help="directory that is written")
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps")
    parser.add_argument("--lr", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1, help="seed of text, order and start")
    parser.add_argument("--threads", type=int, default=2, help="threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer(options.seed)
    network = make_network(tokenizer)
    print(f"{network.num_parameters():,} weights, {len(tokenizer)} tokens")
    train(network, batches(tokenizer, options.seed + 1), options.steps, options.lr)
    save(network, tokenizer, options.output)
    print(f"{skill(network, tokenizer, options.seed + 2):.0%} of 100 fresh questions answered right")


if __name__ == "__main__":
    main()
