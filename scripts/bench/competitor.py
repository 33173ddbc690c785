"""One of the others, trained for a few steps in its own environment.

    build/bench/venv/bin/python -m scripts.bench.competitor JOB.json

Uses nothing of this project: each trainer is called as its own documentation calls it, and only rows, batch, length,
learning rate, adapter, steps and seed are set. Writes metrics.jsonl, adapter/ and facts.json into the job's output.
"""

import ctypes
import json
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # it ends with the benchmark, also where that is killed
    job = json.loads(Path(sys.argv[1]).read_text())
    rows = [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]
    output = Path(job["output"])
    trainer = make_plain(job, rows) if job["trainer"] == "plain" else make_trl(job, rows)
    require_same_tokens(trainer.train_dataset, rows, packed=bool(job["options"].get("packing")))
    trainer.train()
    trainer.save_model(str(output / "adapter"))
    (output / "facts.json").write_text(json.dumps(facts(trainer)) + "\n")


def settings(job: dict) -> dict:
    """The arguments that every trainer here gets; all others are its own defaults, or the variant's `options`."""
    return {
        "output_dir": job["output"],
        "per_device_train_batch_size": job["micro_batch"],
        "gradient_accumulation_steps": job["accumulation"],
        "learning_rate": job["learning_rate"],
        "num_train_epochs": 1,
        "seed": job["seed"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),  # TRL's default of bf16 asks for it
        **job["options"],
    }


def adapter(job: dict) -> LoraConfig:
    """The same adapter as ours."""
    return LoraConfig(r=job["lora_r"], lora_alpha=job["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM")


def make_trl(job: dict, rows: list[dict]) -> Trainer:
    """TRL's SFTTrainer with prompt/completion rows, which it tokenises itself."""
    from trl import SFTConfig, SFTTrainer

    texts = Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows])
    return counting(SFTTrainer)(
        model=job["model"],
        args=SFTConfig(max_length=job["max_length"], **settings(job)),
        train_dataset=texts,
        peft_config=adapter(job),
        callbacks=[Steps(Path(job["output"]))],
    )


def make_plain(job: dict, rows: list[dict]) -> Trainer:
    """transformers' Trainer and PEFT, batches padded to their longest row."""
    set_seed(job["seed"])
    loading = job["options"].pop("model_init_kwargs", {})  # TRL has an argument for it, TrainingArguments has none
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(job["model"], **loading), adapter(job))
    tokens = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
    return counting(Trainer)(
        model=model,
        args=TrainingArguments(**settings(job)),
        train_dataset=tokens,
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job["model"])),
        callbacks=[Steps(Path(job["output"]))],
    )


def counting(kind: type) -> type:
    """The trainer's class, which besides counts the real tokens that it trains on."""

    class Counting(kind):
        def training_step(self, model, inputs, *arguments, **named):
            mask = inputs.get("attention_mask")
            self.real_tokens = getattr(self, "real_tokens", 0) + int(
                inputs["input_ids"].numel() if mask is None else mask.sum()
            )
            Steps.tokens = self.real_tokens
            return super().training_step(model, inputs, *arguments, **named)

    return Counting


class Steps(TrainerCallback):
    """A line for each step as it ends, like ours'."""

    tokens = 0  # real tokens so far

    def __init__(self, output: Path):
        output.mkdir(parents=True, exist_ok=True)
        self.metrics = output / "metrics.jsonl"
        self.metrics.write_text("")
        self.before = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write the step's line."""
        if "loss" in logs:
            line = {"step": state.global_step, "loss": logs["loss"], "tokens": Steps.tokens - self.before}
            self.before = Steps.tokens
            with self.metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")


def require_same_tokens(dataset: Dataset, rows: list[dict], packed: bool) -> None:
    """The trainer's rows must be ours, token by token; packed, their tokens and those with loss must be as many."""
    if not packed:
        if dataset["input_ids"][:] != [row["input_ids"] for row in rows]:
            raise SystemExit("its rows are not ours: other tokens")
        if dataset["labels"][:] != [row["labels"] for row in rows]:
            raise SystemExit("its rows are not ours: other tokens carry loss")
    if count(dataset) != count(rows):
        raise SystemExit(f"its rows are not ours: {count(dataset)} tokens and tokens with loss, not {count(rows)}")


def count(rows: list[dict]) -> tuple[int, int]:
    """Tokens, and tokens that carry loss."""
    tokens = sum(len(row["input_ids"]) for row in rows)
    return tokens, sum(label != -100 for row in rows for label in row["labels"])


def facts(trainer: Trainer) -> dict:
    """What its defaults came to."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    kinds = sorted({(str(p.dtype).removeprefix("torch."), p.requires_grad) for p in model.parameters()})
    return {
        "weights": [f"{kind} {'trained' if trained else 'frozen'}" for kind, trained in kinds],
        "autocast_bf16": trainer.args.bf16,
        "gradient_checkpointing": trainer.args.gradient_checkpointing,
        "attention": model.config._attn_implementation,
        "optim": str(trainer.args.optim),
        "steps": trainer.state.global_step,
        "rows_or_packs": len(trainer.train_dataset),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
