"""transformers' Trainer with other ways for: order of rows and packs, token-weighted loss, checkpoints, sharding."""

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from train.checkpoint import remove_leftovers, rotate, seal
from train.events import tell
from train.fast.feed import Feed
from train.order import GlobalOrder, WithEmptyRows, pad_batch, share_of_rows


def token_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
    """Cross-entropy summed over the tokens that carry loss, over their number in the whole global batch.

    outputs.logits: [rows, length, vocabulary]; labels: [rows, length], -100 where no loss. Computed in float32.
    """
    logits = outputs.logits[:, :-1].flatten(0, 1).float()
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    return loss / num_items_in_batch


class FleetTrainer(Trainer):
    """Trainer whose loss curve does not depend on how many processes compute it."""

    def __init__(self, *, order: GlobalOrder, pad_token: int, feed: Feed | None, **kwargs):
        self.order, self.pad_token, self.feed = order, pad_token, feed
        self.tokens = self.predictions = 0  # computed by this process in packs, since the start
        super().__init__(compute_loss_func=token_loss, **kwargs)

    # ---- data ----
    def get_train_dataloader(self) -> DataLoader:
        """This process's micro-batches. Not handed to accelerate, which would share them out a second time."""
        if self.feed:
            return self.feed.steps(self.train_dataset, self.order)
        return self.loader(self.train_dataset, self.order)

    def loader(self, rows, batches) -> DataLoader:
        """Batches of rows as padded tensors. Its own generator keeps the global random state untouched."""
        rows = WithEmptyRows(rows, self.pad_token)
        collate = partial(pad_batch, pad_token=self.pad_token)
        return DataLoader(rows, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())

    # ---- a step of packs ----
    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's packs of a step; copies share gradients in the last one's backward."""
        if not self.feed:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        total = torch.zeros((), device=self.args.device)
        # Gradients are averaged over the processes, hence the factor that makes a sum of it.
        scale = self.args.world_size / max(inputs["predictions"], 1)
        packs = inputs["packs"]
        for number, pack in enumerate(packs, 1):
            # Sharded, gradients that wait would be held whole by every process: they are shared pack by pack.
            waits = number < len(packs) and not self.is_fsdp_enabled
            with self.accelerator.no_sync(model=model) if waits else nullcontext():
                loss = model(pack=pack.to(self.args.device)) * scale
                self.accelerator.backward(loss)
            total += loss.detach()
            self.tokens += pack.computed
            self.predictions += int((pack.weights > 0).sum())
        return total

    def computed(self) -> tuple[int, int]:
        """Tokens through the layers and predictions through the output layer, of this process's packs so far."""
        return self.tokens, self.predictions

    def floating_point_ops(self, inputs) -> int:
        """Not counted as Trainer does, from the padded tokens of a batch: train.progress knows better."""
        return 0

    # ---- the last step ----
    def _run_epoch(self, *args, **kwargs) -> None:
        """Compute nothing where training goes on from its last step: Trainer takes a step before it looks."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---- validation ----
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Validation loss per token over all processes, and perplexity; logged like Trainer's own."""
        args = self.args
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=args.device)  # summed loss, tokens
        with torch.no_grad():
            for loss, tokens in self.validation_losses():
                total += torch.stack([loss.double(), tokens.double()])
        if args.world_size > 1:
            dist.all_reduce(total)
        self.model.train()
        loss = (total[0] / total[1]).item()
        metrics = {f"{metric_key_prefix}_loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def validation_losses(self):
        """The summed loss and the number of predictions of each of this process's validation batches."""
        rows, args = self.eval_dataset, self.args
        if self.feed:
            for pack in self.feed.validation(rows):
                pack = pack.to(args.device)
                yield self.model(pack=pack), pack.weights.sum()
            return
        mine = share_of_rows(len(rows), args.per_device_eval_batch_size, args.process_index, args.world_size)
        for batch in self.loader(rows, mine):
            batch = self._prepare_inputs(batch)
            labels = batch.pop("labels")
            yield token_loss(self.model(**batch), labels, 1), (labels[:, 1:] != -100).sum()

    # ---- checkpoints ----
    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint aside, seal it, rename it; then remove those that are too many."""
        root, state = Path(self.args.output_dir), self.state
        final = root / f"checkpoint-{state.global_step}"
        aside = root / f".{final.name}.tmp"
        if self.args.should_save:
            remove_leftovers(root)
            aside.mkdir(parents=True)
        self.barrier()
        self.save_model(str(aside), _internal_call=True)
        self._save_optimizer_and_scheduler(str(aside))
        self._save_rng_state(str(aside))
        if state.best_global_step:
            state.best_model_checkpoint = str(root / f"checkpoint-{state.best_global_step}")
        if self.args.should_save:
            state.save_to_json(str(aside / TRAINER_STATE_NAME))
        self.barrier()
        if self.args.should_save:
            seal(aside, final)
            rotate(root, self.args.save_total_limit, state.best_global_step)
            tell("checkpoint", step=state.global_step)
        self.barrier()

    def _save(self, output_dir=None, state_dict=None) -> None:
        """Weights alone: tokenizer and arguments lie in the run's directory once, not in every checkpoint."""
        if self.args.should_save:
            options = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
            self.model.save_pretrained(output_dir, state_dict=state_dict, **options)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.args.world_size > 1:
            dist.barrier()

    # ---- sharding on CPUs ----
    def create_accelerator_and_postprocess(self) -> None:
        """Let accelerate shard on CPUs too.

        accelerate 1.15 turns FSDP on for accelerators alone and would silently train with whole copies instead; its
        FSDP2 code itself runs on CPUs over gloo, so its state is told that this run is sharded.
        """
        super().create_accelerator_and_postprocess()
        if not self.args.fsdp or self.is_fsdp_enabled:
            return
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        if self.args.bf16:
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )
        for shared in (AcceleratorState._shared_state, PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = plugin
        self.is_fsdp_enabled = True
