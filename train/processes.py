"""The processes of one run: whether the batch can be shared out among them, and how they meet."""

import os
from types import SimpleNamespace
from typing import Any

from train.errors import InputError, problem
from train.ranks import MEETING


def check_batch(recipe: SimpleNamespace, world: int, where: object) -> None:
    """The global batch must be micro-batch x processes x a whole number. Raises InputError with what would fit."""
    micro, total = recipe.per_device_train_batch_size, recipe.global_batch_size
    if total % (micro * world):
        what = (
            f"{total} cannot be cut into {world} processes x {micro} rows (per_device_train_batch_size): "
            f"{total} / {micro * world} = {total / (micro * world):.2f} is no whole number of accumulation steps"
        )
        fits = [size for size in range(1, total // world + 1) if total % (size * world) == 0]
        near = min(fits, key=lambda size: abs(size - micro), default=None)
        fix = f"take per_device_train_batch_size {near}" if near else f"take global_batch_size {micro * world}"
        raise InputError(problem(where, "global_batch_size", what, f"{fix}, or another number of processes"))


def join_processes(recipe: SimpleNamespace, rank: int, world: int) -> str:
    """Let the processes of the run meet; returns the communication library's name."""
    import torch
    import torch.distributed as dist

    backend = recipe.ddp_backend
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    require_backend(backend)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group(backend, rank=rank, world_size=world, store=own_store(rank, world))
    return backend if world > 1 else "none needed"


def own_store(rank: int, world: int):
    """The store at the socket that train.launch opened for its forks; None where torchrun or mpirun started them."""
    if MEETING not in os.environ:
        return None
    import torch.distributed as dist

    given = {"master_listen_fd": int(os.environ[MEETING])} if rank == 0 else {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, world, is_master=rank == 0, timeout=dist.default_pg_timeout, **given)


def require_backend(backend: str, where: object = "recipe") -> None:
    """Raise InputError, in words, where a communication library cannot be had."""
    import torch

    if backend == "nccl" and not torch.cuda.is_available():
        fix = "set ddp_backend: gloo (or auto)"
        raise InputError(problem(where, "ddp_backend", "nccl needs an NVIDIA GPU, and there is none", fix))
    if backend == "ccl":
        try:
            import oneccl_bindings_for_pytorch  # noqa: F401
        except (ImportError, OSError) as error:
            what = (
                f"ccl needs oneCCL's torch binding, which does not load here ({error}); the last one was made for "
                f"torch 2.8, this is torch {torch.__version__}"
            )
            fix = "run the intel image, or set ddp_backend: gloo"
            raise InputError(problem(where, "ddp_backend", what, fix)) from None


def sum_over_ranks(value: float, world: int) -> float:
    """The sum of a figure over all processes."""
    import torch
    import torch.distributed as dist

    if world == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    if torch.cuda.is_available():
        tensor = tensor.cuda()
    dist.all_reduce(tensor)
    return tensor.item()


def agree(choice: Any, world: int) -> Any:
    """Rank 0's choice, known to all ranks: no rank may start otherwise than the others."""
    if world == 1:
        return choice
    import torch.distributed as dist

    chosen = [choice]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def from_every_process(value: Any, world: int) -> list[Any]:
    """What each process says, by its rank."""
    if world == 1:
        return [value]
    import torch.distributed as dist

    said: list[Any] = [None] * world
    dist.all_gather_object(said, value)
    return said
