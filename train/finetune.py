"""Fine-tune: every process of a run executes this program, started by train.launch (torchrun) or alone.

    python -m train.launch --nproc 2 -- --recipe R --model DIR --data RUN/data --output RUN

Goes on from the newest whole checkpoint in RUN/checkpoints, and ends with RUN/adapter (method full: RUN/model).
Exit status: 0 finished, 2 bad input (never worth a retry), 75 stopped by a signal with a checkpoint saved.
"""

import argparse
import os
import sys
from pathlib import Path

from train.allocator import allocator
from train.errors import EXIT_BAD_INPUT, InputError, report_problems
from train.libraries import import_libraries
from train.orphans import die_with_parent

EXIT_STOPPED = 75


def main() -> int:
    arguments = parse_arguments()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    die_with_parent()
    import_libraries()
    try:
        return finetune(arguments, rank, world)
    except InputError as error:
        if rank == 0:
            report_problems(error)
        return EXIT_BAD_INPUT


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="train.yaml of this run")
    parser.add_argument("--model", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--data", type=Path, required=True, help="prepared rows, written by train.check_data")
    parser.add_argument("--output", type=Path, required=True, help="directory of the run")
    parser.add_argument("--profile", type=Path, help="directory for where the time of a few steps goes: make profile")
    return parser.parse_args()


def finetune(arguments: argparse.Namespace, rank: int, world: int) -> int:
    """Load, train, save. Returns the exit status."""
    import torch
    from transformers import AutoTokenizer, set_seed
    from transformers.utils.logging import disable_progress_bar

    from train.arguments import make_trainer
    from train.fast.choose import choose_path, take_what_all_can
    from train.hardware import choose_dtype, measure_matmul
    from train.model import build_trainable, flop_per_token, require_ipex, trainable_parameters
    from train.order import choose_order
    from train.prepared import load_prepared
    from train.processes import agree, check_batch, join_processes, sum_over_ranks
    from train.progress import Progress
    from train.recipe import load_recipe
    from train.results import save_result, write_training_record

    # ---- what is learned, from what, in which number format ----
    recipe = load_recipe(arguments.recipe)
    check_batch(recipe, world, arguments.recipe)
    if recipe.use_ipex:
        require_ipex()
    backend = join_processes(recipe, rank, world)
    data = load_prepared(arguments.data)
    dtype, reason = agree(choose_dtype(recipe.dtype), world)  # machines may differ
    gflops = sum_over_ranks(measure_matmul(dtype), world)
    if rank == 0:
        print(f"dtype {str(dtype).removeprefix('torch.')}: {reason}")
        print(describe_processes(world, torch.get_num_threads(), backend, gflops))

    # ---- model; the seed makes the new adapter the same on every rank ----
    disable_progress_bar()
    set_seed(recipe.seed)
    model = build_trainable(recipe, arguments.model, dtype)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False, local_files_only=True)
    trained, total = trainable_parameters(model)
    path = take_what_all_can(choose_path(recipe, model, dtype), model, world)
    if rank == 0:
        share = f"{recipe.method}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"
        print(share, *path.in_words(), sep="\n")

    # ---- training ----
    pad = tokenizer.pad_token_id or 0
    order = choose_order(recipe, len(data.train), path.packing, rank, world)
    progress = Progress(arguments.output, order, data.train.lengths, flop_per_token(recipe, model, total), gflops)
    trainer, resumed_from = make_trainer(recipe, arguments.output, model, data, order, pad, dtype, path, progress)
    profile(trainer, arguments.profile)
    if resumed_from is None:
        torch.manual_seed(recipe.seed + rank)  # so dropout differs between ranks; a resume restores each rank's state
    progress.listen(trainer.computed)
    trainer.train(resume_from_checkpoint=str(resumed_from) if resumed_from else None)
    if progress.stop_requested:
        return stopped(trainer.state.global_step, rank)

    # ---- results ----
    save_result(trainer, recipe, tokenizer, arguments.model, arguments.output)
    if rank == 0:
        write_training_record(trainer, recipe, arguments, world, (dtype, reason), path, gflops, progress.ranks)
    trainer.barrier()
    return 0


def stopped(step: int, rank: int) -> int:
    """Say after which step training was stopped; returns the exit status for that."""
    if rank == 0:
        print(f"stopped after step {step}; the same command goes on from there.", flush=True)
    return EXIT_STOPPED


def describe_processes(world: int, threads: int, backend: str, gflops: float) -> str:
    """Who computes, in a line."""
    processes = f"{world} process{'es' if world > 1 else ''} x {threads} threads"
    rate = f"measured matrix-multiply rate {gflops:,.0f} GFLOP/s"
    return f"{processes}, backend {backend}, memory by {allocator()}, {rate}"


def profile(trainer, directory: Path | None) -> None:
    """Have a few of the steps say where their time goes, if a directory for that is given."""
    if directory:
        from train.profiling import Profiled

        trainer.add_callback(Profiled(directory))


if __name__ == "__main__":
    status = main()
    # Ranks may still hold communication threads; the status must not wait for them.
    sys.stdout.flush()
    sys.exit(status)
