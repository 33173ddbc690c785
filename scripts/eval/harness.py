"""One model asked by EleutherAI's lm-evaluation-harness, in the environment that scripts/eval/install.py makes.

    build/eval/venv/bin/python -m scripts.eval.harness JOB.json

Each task's figures are written as soon as they are there, so that what is interrupted goes on behind them.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from scripts.eval import results
from train.errors import run_program

SMALL = 30_000_000  # weights below which one thread is fastest (train/generate.py)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    logging.disable(logging.WARNING)  # what the harness leaves open in a task file; progress and errors are shown
    import lm_eval.utils
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if not job["code"]:
        lm_eval.utils.env = sandboxed(lm_eval.utils.env)
    # Told where tasks lie, it lists all files there; its own twelve thousand would take half a minute.
    tasks = TaskManager(include_path=job["tasks_dir"], include_defaults=False)
    model = load(job)
    for task in job["tasks"]:
        started = time.monotonic()
        print(f"{job['side']}: {task['name']}", flush=True)
        found = simple_evaluate(
            model=model, tasks=[task["name"]], task_manager=tasks, limit=job["about"]["limit"], log_samples=False,
            apply_chat_template=job["about"]["chat"], system_instruction=job["about"]["system"],
        )  # fmt: skip
        measured = results.figures(found, task["name"])
        measured |= {"model": job["model"], "adapter": job["adapter"], "seconds": round(time.monotonic() - started, 1)}
        results.keep(Path(task["output"]), task["name"], job["side"], task["about"], measured)


def load(job: dict[str, Any]) -> Any:
    """The model, with its adapter where there is one, asked as the job says."""
    import torch
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=job["model"], peft=job["adapter"], dtype=job["about"]["dtype"], trust_remote_code=False,
        batch_size=job["batch_size"], add_bos_token=job["about"]["bos"],
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    if sum(parameter.numel() for parameter in model.model.parameters()) < SMALL:
        torch.set_num_threads(1)
    return model


def sandboxed(plain: Any) -> Any:
    """The environment of the tasks' templates, in which they reach nothing of Python's."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    own = ImmutableSandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    own.filters, own.globals = plain.filters, plain.globals
    return own


if __name__ == "__main__":
    run_program(main)
