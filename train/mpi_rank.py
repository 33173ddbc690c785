"""One rank of a training that mpirun started: the names torch knows for what MPI says, then train.finetune.

    mpirun -n 2 python -m train.mpi_rank --recipe R --model DIR --data RUN/data --output RUN

MASTER_ADDR and MASTER_PORT come from whoever calls mpirun. Exit status: that of train.finetune.
"""

import os
import sys

from train import finetune
from train.allocator import prefer_tcmalloc
from train.errors import InputError, problem, run_program

# torch's name: Open MPI's and Intel's (Hydra's), in that order
NAMES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "LOCAL_WORLD_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}


def main() -> int:
    for name, candidates in NAMES.items():
        value = next((os.environ[one] for one in candidates if one in os.environ), None)
        if value is None:
            fix = "start this with mpirun, or use train.launch"
            raise InputError(problem("environment", candidates[0], f"is not set, so {name} is not known", fix))
        os.environ[name] = value
    return finetune.main()


if __name__ == "__main__":
    prefer_tcmalloc()
    if "--help" in sys.argv:
        print(__doc__)
    run_program(main)
