"""A run's GGUF files in llama.cpp itself, beside the merged model in transformers; by hand: it compiles for minutes.

    CMAKE_ARGS=-DGGML_NATIVE=ON .venv/bin/python -m pip install --target LLAMA --no-deps llama-cpp-python diskcache
    make export RUN=demo-13b7f276 && make export RUN=demo-13b7f276 BITS=8
    PYTHONPATH=LLAMA .venv/bin/python -m tests.exports_by_hand runs/demo-13b7f276

Asked of each file: are the tokens of the held-out rows the same, is the chat template taken from it and renders the
same prompt, are greedy answers the same and end at the stop token, perplexity and speed. Exit status 1 where not.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM

from train.data_tokens import load_codec
from train.evaluate import read_prompts
from train.export_measure import NEW_TOKENS, ROUNDS, ROWS
from train.export_table import read_exports
from train.files import PROMPTS
from train.generate import generate_answers
from train.prepared import load_prepared

MOST = 64  # tokens of an answer
TEXTS = [
    "Hello, world! It's 3 o'clock.",
    "  two  spaces\nand 1234 Straße: ok",
    "日本語 🙂\t\ttabs",
    "don't WE'LL 12345678",
]


def main() -> int:
    """Ask every GGUF of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run with GGUF exports")
    run = parser.parse_args().run
    files = [run / name / "model.gguf" for name in read_exports(run) if name.startswith("gguf")]
    if not files:
        parser.error(f"{run} has no GGUF: make export RUN={run.name}")
    codec, prompts = load_codec(run / "merged"), read_prompts(run / "data" / PROMPTS)
    model = AutoModelForCausalLM.from_pretrained(run / "merged", dtype="auto").eval()
    wanted = generate_answers(model, codec.tokenizer, [one["prompt"] for one in prompts], MOST, 16, ())
    return max(ask(path, codec, prompts, wanted, load_prepared(run / "data").validation) for path in files)


def ask(path: Path, codec: Any, prompts: list[dict], wanted: list[tuple[str, bool]], rows: Any) -> int:
    """Print what llama.cpp makes of a file; 1 where something is not as in transformers."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, llama-cpp-python {llama_cpp.__version__}")
    texts = [*(one["prompt"] + one["answer"] for one in prompts), *TEXTS]
    tokens = [ids_of(llama, text) == codec.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = [answer(llama, ids_of(llama, one["prompt"]), codec) for one in prompts]
    figures = {
        "texts with the same tokens": (sum(tokens), len(tokens)),
        "prompts rendered by the file's template": (int(rendered(llama, codec)), 1),
        "greedy answers the same": (sum(map(tuple.__eq__, found, wanted)), len(wanted)),
        "answers that end at a stop token": (sum(end for _, end in found), sum(end for _, end in wanted)),
    }
    for name, (count, of) in figures.items():
        print(f"  {name:42} {count} of {of}")
    print(f"  {'perplexity':42} {perplexity(llama, rows):.4f}")
    first, each = speed(llama, ids_of(llama, prompts[0]["prompt"]))
    print(f"  {'first token, further tokens':42} {first * 1e3:.1f} ms, {1 / each:.1f} tokens/s")
    same, of = figures.pop("greedy answers the same")  # rounding may turn one of many
    return int(same < 0.95 * of or any(count < of for count, of in figures.values()))


def ids_of(llama: Any, text: str) -> list[int]:
    """llama.cpp's tokens of a text that holds special tokens already."""
    return llama.tokenize(text.encode(), add_bos=False, special=True)


def rendered(llama: Any, codec: Any) -> bool:
    """Whether the chat handler that llama-cpp-python makes of the file's own template writes the same prompt."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = llama.metadata.get("tokenizer.chat_template", "")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is wrong?"}]
    eos = llama.detokenize([llama.token_eos()], special=True).decode()
    own = codec.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    made = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token="")(messages=messages).prompt
    ends = llama.create_chat_completion(messages, max_tokens=1, temperature=0.0)["usage"]["prompt_tokens"]
    return made == own and ends == len(codec.tokenizer(own, add_special_tokens=False)["input_ids"])


def answer(llama: Any, ids: list[int], codec: Any) -> tuple[str, bool]:
    """The greedy answer, and whether llama.cpp ended it by itself."""
    done = llama.create_completion(ids, max_tokens=MOST, temperature=0.0)["choices"][0]
    return done["text"], done["finish_reason"] == "stop"


def perplexity(llama: Any, rows: Any) -> float:
    """That of the tokens that carry loss, in as many rows as make export measures."""
    total, count = 0.0, 0
    for i in range(min(ROWS, len(rows))):
        ids, labels = rows[i]["input_ids"].tolist(), rows[i]["labels"].numpy()
        llama.reset()
        llama.eval(ids)
        carries = np.flatnonzero(labels[1:] != -100)
        logits = llama.scores[carries].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        total -= (logits[np.arange(len(carries)), labels[1:][carries]] - np.log(np.exp(logits).sum(axis=1))).sum()
        count += len(carries)
    return float(np.exp(total / count))


def speed(llama: Any, ids: list[int]) -> tuple[float, float]:
    """Seconds to the first token and to each further one, the best of some rounds, as make export measures it."""
    best = [np.inf, np.inf]
    for _ in range(ROUNDS):
        llama.reset()
        started = time.perf_counter()
        for place, _token in enumerate(llama.generate(ids, temp=0.0), 1):
            if place == 1:
                first = time.perf_counter() - started
            if place == NEW_TOKENS:
                break
        best = [min(best[0], first), min(best[1], (time.perf_counter() - started - first) / (NEW_TOKENS - 1))]
    return best[0], best[1]


if __name__ == "__main__":
    sys.exit(main())
