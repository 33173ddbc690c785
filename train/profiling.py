"""Where the time of some training steps goes: a callback of transformers' Trainer, for `make profile`.

    trainer.add_callback(Profiled(directory, first_step=3, steps=3))

leaves directory/profile.json (seconds by kind of work) and directory/trace.json (for chrome://tracing or Perfetto).
"""

import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from train.files import write_json
from train.profile_kinds import MARK, seconds_by_kind

FIRST_STEP = 3  # the first two compile kernels and fill caches
STEPS = 3


class Profiled(TrainerCallback):
    """Profiles `steps` steps from `first_step` (counted from 1) on rank 0; all other steps run as ever."""

    def __init__(self, directory: Path, first_step: int = FIRST_STEP, steps: int = STEPS):
        self.directory, self.first, self.last = directory, first_step, first_step + steps - 1
        self.profile = None
        self.marks: list = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Start with the first of the steps. Trainer has fetched its rows by then, so those of the next are counted."""
        if args.process_index != 0 or self.profile or state.global_step + 1 != self.first:
            return
        self.marks = mark_norms(model)
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.profile.__enter__()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop after the last of them, or where training ends before."""
        if self.profile and (state.global_step == self.last or state.global_step == state.max_steps):
            self.finish(state.global_step - self.first + 1)

    def on_train_end(self, args, state, control, **kwargs):
        """Stop, where training was stopped in the middle."""
        if self.profile:
            self.finish(state.global_step - self.first + 1)

    def finish(self, steps: int) -> None:
        """Write both files and take the marks off the model."""
        wall = time.perf_counter() - self.began
        self.profile.__exit__(None, None, None)
        for mark in self.marks:
            mark.remove()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.profile.export_chrome_trace(str(self.directory / "trace.json"))
        kinds = seconds_by_kind(self.profile.events(), wall)
        facts = {"steps": steps, "seconds": round(wall, 4), "threads": torch.get_num_threads(), "kinds": kinds}
        write_json(self.directory / "profile.json", facts)
        self.profile = None


def mark_norms(model: torch.nn.Module) -> list:
    """Put an annotation around each normalisation, whose operations are those of anything elementwise."""
    marks = []
    for module in model.modules():
        if "Norm" in type(module).__name__ and not list(module.children()):
            marks += [module.register_forward_pre_hook(begin_mark), module.register_forward_hook(end_mark)]
    return marks


def begin_mark(module: torch.nn.Module, inputs: tuple) -> None:
    """Open the annotation of a normalisation."""
    module.profiled = record_function(f"{MARK}normalisation")
    module.profiled.__enter__()


def end_mark(module: torch.nn.Module, inputs: tuple, output: object) -> None:
    """Close it."""
    module.profiled.__exit__(None, None, None)
    del module.profiled
