"""What a finished training leaves: the adapter or the model, whole or not there, and its record."""

import importlib.metadata
import json
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig

from train.allocator import allocator
from train.base_model import describe_base
from train.checkpoint import seal
from train.files import write_json
from train.hardware import describe_hardware

BASE_RECORD = "base_model.json"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "safetensors",
    "tokenizers",
    "numpy",
)


def save_result(trainer, recipe: SimpleNamespace, tokenizer, base: Path, run: Path) -> None:
    """Write RUN/adapter (RUN/model for method full) aside and rename it; all ranks take part, rank 0 writes."""
    final = run / result_name(recipe)
    aside = run / f".{final.name}.tmp"
    weights = gather_weights(trainer, recipe)
    if trainer.args.should_save:
        write_json(run / BASE_RECORD, describe_base(base, recipe.model_name_or_path, recipe.model_revision))
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if recipe.method == "full":
            save_as_stored(model, weights, base, aside)
            copy_generation_config(base, aside)
        else:
            put_in_order(model)
            model.save_pretrained(aside, state_dict=weights, save_embedding_layers=False)
            shutil.copyfile(run / BASE_RECORD, aside / BASE_RECORD)
        tokenizer.save_pretrained(aside)
        seal(aside, final)
    trainer.barrier()


def result_name(recipe: SimpleNamespace) -> str:
    """The directory of the result inside the run."""
    return "model" if recipe.method == "full" else "adapter"


def gather_weights(trainer, recipe: SimpleNamespace) -> dict[str, torch.Tensor] | None:
    """The whole weights on rank 0 where they are sharded (a collective call); None where each rank has them all."""
    if not trainer.is_fsdp_enabled:
        model = trainer.accelerator.unwrap_model(trainer.model)
        return model.state_dict() if recipe.method == "full" else None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=recipe.method != "full")
    return get_model_state_dict(trainer.model, options=options)


def save_as_stored(model, weights: dict[str, torch.Tensor], base: Path, target: Path) -> None:
    """Write trained weights in the base's number format: trained in float32, but nobody wants the file to double."""
    stored = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
    model.config.use_cache = True
    model.save_pretrained(target, state_dict={name: tensor.to(stored) for name, tensor in weights.items()})
    config = json.loads((target / "config.json").read_text())  # says the trained model's format, not the file's
    write_json(target / "config.json", config | {"dtype": str(stored).removeprefix("torch.")})


def put_in_order(model) -> None:
    """Sort what PEFT keeps as sets, whose order is another in each process: the same adapter has the same files."""
    for config in model.peft_config.values():
        for key, value in vars(config).items():
            if isinstance(value, set):
                setattr(config, key, sorted(value))


def copy_generation_config(base: Path, target: Path) -> None:
    """The base's own way to generate, stop tokens included, rather than one derived from its config."""
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")


def write_training_record(trainer, recipe, arguments, world: int, chosen: tuple, path, gflops: float, ranks) -> None:
    """RUN/training.json: how the training went, on what, with which versions."""
    run, state = arguments.output, trainer.state
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, evals = [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line]
    seconds, tokens = sum(line["seconds"] for line in steps), sum(line["tokens"] for line in steps)
    best = min(evals, key=lambda line: line["eval_loss"], default=None)
    write_json(
        run / "training.json",
        {
            "processes": world,
            "threads": torch.get_num_threads(),
            "allocator": allocator(),
            "dtype": str(chosen[0]).removeprefix("torch."),
            "dtype_reason": chosen[1],
            "path": path.as_dict(),
            "matmul_gflops": round(gflops, 1),
            "versions": versions(),
            "hardware": describe_hardware(),
            "base_model": json.loads((run / BASE_RECORD).read_text()),
            "steps": state.global_step,
            "resumed_from": resumed_from(steps),
            "seconds": round(seconds, 2),
            "seconds_to_first_step": next((line["since_start"] for line in steps[::-1] if "since_start" in line), None),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
            "best_step": best["step"] if best and recipe.load_best_model_at_end else None,
            "best_eval_loss": best["eval_loss"] if best else None,
            "eval_loss_first": evals[0]["eval_loss"] if evals else None,
            "eval_loss_last": evals[-1]["eval_loss"] if evals else None,
            "train_loss_first": steps[0]["loss"],
            "train_loss_last": steps[-1]["loss"],
            "peak_memory_gb": max(line["memory_gb"] for line in steps),
            "ranks": ranks,
        },
    )


def resumed_from(steps: list[dict]) -> list[int]:
    """The steps of the checkpoints from which the training went on, of its lines in metrics.jsonl."""
    return [line["step"] - 1 for line in steps if "since_start" in line and line["step"] > 1]


def versions() -> dict[str, str]:
    """Python and the libraries that decide what is computed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
