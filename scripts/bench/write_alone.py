"""What a merge's hashes and proof cost: the same weight files written by the same code without them. No use otherwise.

python -m scripts.bench.write_alone --base DIR --adapter DIR --output DIR
"""

import argparse
from functools import partial
from pathlib import Path

from train.adapter import read_pair
from train.errors import run_program
from train.merge_weights import opened
from train.safetensors_io import JOB, blocks, in_order, ranges, workers


def main() -> None:
    """Write every weight file with the targets merged."""
    parser = argparse.ArgumentParser(description="Write a merged model's weight files without hashes and proof.")
    for name in ("base", "adapter", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"directory of the {name}")
    arguments = parser.parse_args()
    base, adapter = read_pair(arguments.base, arguments.adapter)
    targets = {target.tensor.name for target in adapter.targets}
    arguments.output.mkdir()
    for name, shard in base.shards.items():
        with opened(shard, arguments.output / name, adapter) as write, workers() as pool:
            jobs = (
                partial(part, start, stop)
                for tensor in shard.tensors
                for part in [write(tensor)]
                for start, stop in (blocks(tensor) if tensor.name in targets else ranges(0, tensor.size, JOB))
            )
            for _ in in_order(pool, jobs):
                pass


if __name__ == "__main__":
    run_program(main)
