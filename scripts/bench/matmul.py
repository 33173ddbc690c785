"""The machine's matrix-multiply rate in GFLOP/s, in a number format: the best of what fits into two seconds.

    OMP_NUM_THREADS=2 python -m scripts.bench.matmul bfloat16|float32

[2048 x 4096] by [4096 x 4096], as large as the products of a model's layers.
"""

import sys
import time

import torch

ROWS, INNER, COLUMNS = 2048, 4096, 4096
SECONDS = 2.0


def main() -> None:
    dtype = getattr(torch, sys.argv[1])
    left, right = torch.randn(ROWS, INNER).to(dtype), torch.randn(INNER, COLUMNS).to(dtype)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    print(f"{2 * ROWS * INNER * COLUMNS / best / 1e9:.1f}")


if __name__ == "__main__":
    main()
