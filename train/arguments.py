"""From the recipe to transformers' Trainer: its arguments, and the checkpoint it goes on from."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from train.checkpoint import newest_valid, remove_leftovers
from train.events import tell
from train.fast.feed import Feed
from train.processes import agree
from train.trainer import FleetTrainer


def make_trainer(recipe, output: Path, model, data, order, pad: int, dtype, path, progress):
    """The trainer, and the checkpoint to go on from (None for a new start). `path` says how it is computed."""
    root = output / "checkpoints"
    if order.rank == 0:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
    resumed_from = agree(newest_valid(root) if order.rank == 0 else None, order.world)
    if order.rank == 0 and resumed_from:
        print(f"going on from {resumed_from}")
        tell("resumed", step=int(resumed_from.name.rpartition("-")[2]))
    feed = None
    if path.packing:
        # The memory of a micro-batch is what the recipe allows: so many rows of the greatest length. Packs of
        # a validation are as large: they keep nothing for a backward pass, so they need less.
        budget = recipe.per_device_train_batch_size * recipe.max_length
        feed = Feed(budget, path.shared_prefixes, order.rank, order.world)
    trainer = FleetTrainer(
        order=order,
        pad_token=pad,
        feed=feed,
        model=model,
        args=training_arguments(
            recipe, output, order, dtype == torch.bfloat16 and path.autocast, resumed_from, data.validation is not None
        ),
        train_dataset=data.train,
        eval_dataset=data.validation,
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer, resumed_from


def shows_progress(seconds: float = 2.0) -> bool:
    """Whether Kubeflow Trainer takes progress for the TrainJob's status, as its variable says; transformers knows how.

    Asked once: where a network policy swallows what is sent there, each of transformers' tries would wait five seconds.
    """
    url = os.environ.get("KUBEFLOW_TRAINER_SERVER_URL")
    if not url:
        return False
    try:
        place = urlsplit(url)
        socket.create_connection((place.hostname, place.port or 443), timeout=seconds).close()
    except (OSError, ValueError) as error:
        print(
            f"no progress in the TrainJob's status: {url} does not answer ({error}); a network policy may close the way"
        )
        return False
    return True


def training_arguments(recipe, output: Path, order, autocast: bool, resumed_from, has_eval: bool):
    """transformers' arguments from the recipe; most keys carry the same name."""
    same_name = ("per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate", "lr_scheduler_type",
                 "warmup_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
                 "seed", "num_train_epochs", "load_best_model_at_end", "save_total_limit")  # fmt: skip
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output / "tensorboard"))
    report_to = [*recipe.report_to, *(["kubeflow"] if order.rank == 0 and shows_progress() else [])]
    steps_per_epoch = order.steps_per_epoch
    every = {"steps": lambda steps: steps, "epoch": lambda _: steps_per_epoch, "no": lambda _: steps_per_epoch}
    sharding = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "cpu_ram_efficient_loading": False}
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        use_cpu=not torch.cuda.is_available(),
        bf16=autocast,
        gradient_accumulation_steps=order.accumulation,
        max_steps=recipe.max_steps or -1,
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
        # An epoch is said in steps: Trainer's own epoch strategy also fires when a signal ends one in the middle.
        eval_strategy="no" if recipe.eval_strategy == "no" or not has_eval else "steps",
        eval_steps=every[recipe.eval_strategy](recipe.eval_steps),
        save_strategy="steps",
        save_steps=every[recipe.save_strategy](recipe.save_steps),
        metric_for_best_model="eval_loss" if recipe.load_best_model_at_end else None,
        greater_is_better=False if recipe.load_best_model_at_end else None,
        eval_on_start=has_eval and recipe.eval_strategy != "no" and resumed_from is None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=report_to,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        fsdp=True if recipe.fsdp and order.world > 1 else None,
        fsdp_config=sharding if recipe.fsdp and order.world > 1 else None,
        **{key: getattr(recipe, key) for key in same_name},
    )
