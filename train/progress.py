"""What a training run tells while it goes on: a bar or lines, metrics.jsonl, and stopping cleanly on a signal."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import TrainerCallback

from train.errors import see
from train.events import tell
from train.order import GlobalOrder
from train.ranks import STARTED, process_start
from train.utilisation import Utilisation

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_EVENTS = 2.0


class TrainingDiverged(RuntimeError):
    """The loss is no number any more; going on would only spend time."""


class Progress(TrainerCallback):
    """Reports every step on rank 0, and stops all ranks after the same step when any of them got SIGTERM or SIGINT."""

    def __init__(self, run: Path, order: GlobalOrder, lengths, flop: tuple[float, float], matmul_gflops: float):
        self.metrics, self.order, self.lengths = run / "metrics.jsonl", order, lengths
        self.flop, self.matmul_gflops = flop, matmul_gflops  # of a token, of a prediction; of all processes
        self.computed = lambda: (0, 0)
        self.stop_requested = False
        self.seconds = self.memory = self.done = 0.0
        self.counted = (0, 0)
        self.last_line = self.last_event = -math.inf
        self.bar = None

    # ---- stopping ----
    def listen(self, computed: Callable[[], tuple[int, int]]) -> None:
        """From now on SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and a clean end instead of killing.

        `computed` says how many tokens and predictions this process's packs have held since the start.
        """
        self.computed = computed
        # SIGUSR1 as well: it is what mpirun passes on to its ranks; at SIGTERM it kills them.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.request_stop)

    def request_stop(self, number, frame) -> None:
        """Remember the signal; it is acted upon at the end of the step."""
        self.stop_requested = True

    # ---- the loop's events ----
    def on_train_begin(self, args, state, control, **kwargs):
        """Cut the metrics back to the step that training goes on from, and show the bar."""
        if args.process_index == 0:
            trim_metrics(self.metrics, state.global_step)
            if sys.stderr.isatty():
                self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)
        self.begun, self.first_step = time.perf_counter(), state.global_step
        self.busy = Utilisation(args.process_index, args.world_size)
        if not args.fsdp:  # sharded, every layer waits for all processes: nobody's seconds are its own
            self.busy.watch(kwargs["model"].parameters())
        self.busy.begin()

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Tell the order which epoch it is; exact also after a resume in the middle of one."""
        self.order.epoch = state.global_step // self.order.steps_per_epoch

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the step's clock."""
        self.started = time.perf_counter()
        self.busy.step_begins()

    def on_step_end(self, args, state, control, **kwargs):
        """Agree with the other ranks on stopping, add up the memory of all, and see whom they wait for."""
        self.seconds = time.perf_counter() - self.started
        memory = psutil.Process().memory_info().rss / 1e9
        told = torch.tensor([float(self.stop_requested), memory, self.work(), *self.busy.share()])
        if args.world_size > 1:
            told = told.to(args.device)
            dist.all_reduce(told)
        self.memory, self.done = told[1].item(), told[2].item()
        self.busy.take(told[3:].tolist())
        if args.process_index == 0:
            self.tell_slowest(state.global_step)
        if told[0] > 0 and state.global_step < state.max_steps:
            self.stop_requested = True
            control.should_save = control.should_training_stop = True
        elif state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True  # the end is validated, also where it is no multiple of eval_steps
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        """When stopped in the middle of an epoch, leave out what Trainer does at its end: the epoch is not over."""
        if self.stop_requested:
            control.should_evaluate = control.should_save = control.should_log = False
            args.load_best_model_at_end = False
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write and show a step's or a validation's figures."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            if args.process_index == 0:
                tell("diverged", step=state.global_step, loss=str(logs["loss"]))
            raise TrainingDiverged(
                f"the loss of step {state.global_step} is {logs['loss']}: lower learning_rate, or add warmup_steps; "
                f"the last checkpoint is from before{see('loss-is-nan')}"
            )
        if args.process_index != 0 or not ({"loss", "eval_loss"} & logs.keys()):
            return
        line = {"step": state.global_step, "epoch": state.epoch}
        if "eval_loss" in logs:
            line |= {"eval_loss": logs["eval_loss"], "perplexity": logs["perplexity"]}
            self.say(f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}  "
                     f"perplexity {logs['perplexity']:.2f}")  # fmt: skip
            tell("validation", step=state.global_step, total=state.max_steps,
                 eval_loss=logs["eval_loss"], perplexity=logs["perplexity"])  # fmt: skip
        else:
            line |= {key: logs[key] for key in ("loss", "grad_norm", "learning_rate") if key in logs}
            line |= self.speed(state.global_step)
            if state.global_step == self.first_step + 1:
                line["since_start"] = round(time.time() - float(os.environ.get(STARTED) or process_start()), 1)
            self.show_step(state, line)
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        """Gather how busy all ranks were, and close the bar."""
        self.ranks = self.busy.of_all()
        if self.bar is not None:
            self.bar.close()

    # ---- figures ----
    def work(self) -> float:
        """Floating-point operations of this process's packs since the last step; 0 where rows are not packed."""
        before, self.counted = self.counted, self.computed()
        tokens, predictions = (now - then for now, then in zip(self.counted, before, strict=True))
        return tokens * self.flop[0] + predictions * self.flop[1]

    def speed(self, step: int) -> dict[str, float | None]:
        """Tokens, rate and memory of the step that just ended, all ranks together."""
        tokens = int(sum(self.lengths[row] for row in self.order.rows_of_step(step - 1)))
        rate = tokens / max(self.seconds, 1e-9)
        # Packs compute shared beginnings once and logits for predictions alone; otherwise every token needs both.
        work = self.done or tokens * sum(self.flop)
        share = work / max(self.seconds, 1e-9) / (self.matmul_gflops * 1e9) if self.matmul_gflops else None
        return {
            "tokens": tokens,
            "seconds": round(self.seconds, 4),
            "tokens_per_second": round(rate, 1),
            "matmul_share": round(share, 4) if share is not None else None,
            "memory_gb": round(self.memory, 3),
        }

    def show_step(self, state, line: dict) -> None:
        """The bar's next state, or a line every few seconds where nobody watches."""
        share = f" ({line['matmul_share']:.0%} of matmul)" if line["matmul_share"] is not None else ""
        text = f"loss {line['loss']:.4f}  lr {line['learning_rate']:.1e}  "
        text += f"{line['tokens_per_second']:,.0f} tokens/s{share}  {line['memory_gb']:.1f} GB"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(state.global_step - self.bar.n)
            return
        now, last = time.perf_counter(), state.global_step == state.max_steps
        done = state.global_step - self.first_step
        left = (now - self.begun) / max(done, 1) * (state.max_steps - state.global_step)
        if now - self.last_event >= SECONDS_BETWEEN_EVENTS or last:
            self.last_event = now
            shown = ("loss", "learning_rate", "tokens_per_second", "memory_gb")
            tell("step", step=state.global_step, total=state.max_steps, seconds_left=round(left, 1),
                 **{key: line[key] for key in shown})  # fmt: skip
        if now - self.last_line >= SECONDS_BETWEEN_LINES or last:
            self.last_line = now
            self.say(f"step {state.global_step}/{state.max_steps}  {text}  {minutes(left)} left")

    def tell_slowest(self, step: int) -> None:
        """Now and then the rank that computes longest; in words when the others wait for it."""
        found = self.busy.slowest(time.perf_counter())
        if found:
            rank, ratio = found
            words = self.busy.words(rank, ratio)
            tell("ranks", step=step, slowest=rank, node=self.busy.nodes[rank], ratio=ratio, words=words or None)
            if words:
                self.say(words)

    def say(self, text: str) -> None:
        """A line that does not tear the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, flush=True)


def minutes(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def trim_metrics(path: Path, last_step: int) -> None:
    """Keep the lines up to `last_step`: what came later was lost with the process and is computed again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the line that a kill tore
        if last_step > 0 and entry["step"] <= last_step:
            kept.append(line + "\n")
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept))
    temporary.rename(path)
