"""How fast a model is fetched over a link of 1 Gbit/s, hashing included, beside curl; behind `make bench-fetch`.

    python -m scripts.bench_fetch [--megabytes 1000] [--rate 125000000] [--rounds 3]

The hub of the tests serves one random safetensors file, in a process of its own that lets no more bytes a second
through. curl and our fetch take turns; the medians of their times are compared. No hash is checked by curl.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts.transfer_view import amount
from train.errors import InputError, problem, run_program

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.9


def main() -> int:
    given = parse_arguments()
    if not shutil.which("curl"):
        fix = "install it (apt-get install curl); it is what a fetch is compared with"
        raise InputError(problem("bench-fetch", "curl", "is not installed", fix))
    size = given.megabytes * 1_000_000
    with tempfile.TemporaryDirectory(prefix="bench-fetch-", dir=given.directory) as work:
        make_model(Path(work, "repositories/models/bench/model/main"), size)
        server = serve(Path(work, "repositories"), given.rate)
        try:
            endpoint = server.stdout.readline().strip()
            times: dict[str, list[float]] = {"curl": [], "fetch": []}
            for turn in range(given.rounds):
                times["curl"].append(timed(lambda: curl(endpoint, Path(work, "curl"))))
                store = Path(work, "store")
                times["fetch"].append(timed(lambda store=store: fetch(endpoint, store)))
                shutil.rmtree(store)  # so that no round needs more room than the first
                print(f"round {turn + 1}: curl {times['curl'][-1]:.2f} s, fetch {times['fetch'][-1]:.2f} s", flush=True)
        finally:
            server.kill()
            server.wait()
    return report(times, size, given.rate)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the model")
    parser.add_argument("--rate", type=float, default=125e6, help="bytes a second that the server lets through")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument(
        "--directory", type=Path, help="where a few gigabytes may lie; default: the system's temporary one"
    )
    return parser.parse_args()


def make_model(directory: Path, size: int) -> None:
    """A repository with random weights of this size and an empty configuration."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}\n")
    with (directory / "model.safetensors").open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))


def serve(repositories: Path, rate: float) -> subprocess.Popen:
    """The tests' hub; it prints its address when it is ready."""
    command = [sys.executable, "-m", "tests.hub.server", str(repositories), "--rate", str(rate)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def timed(action: Callable[[], None]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def curl(endpoint: str, target: Path) -> None:
    """The same file by curl, to the same disk."""
    url = f"{endpoint}/bench/model/resolve/main/model.safetensors"
    subprocess.run(["curl", "--fail", "--silent", "--show-error", "--output", str(target), url], check=True)
    target.unlink()


def fetch(endpoint: str, store: Path) -> None:
    """The model by our own command, from its start to its end."""
    command = [sys.executable, "-m", "scripts.fetch.model", "--model", "bench/model", "--store", str(store)]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(store / ".hub")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def report(times: dict[str, list[float]], size: int, rate: float) -> int:
    """Print both rates and their ratio; returns 1 where the goal is missed."""
    seconds = {name: statistics.median(found) for name, found in times.items()}
    ratio = seconds["curl"] / seconds["fetch"]
    print(f"{amount(size)} over a link of {rate * 8 / 1e9:.2f} Gbit/s, {machine()}")
    for name, found in seconds.items():
        print(f"  {name:6} {found:6.2f} s  {amount(size / found)}/s")
    print(f"  fetch runs at {ratio:.2f} of curl, hashing included (goal {GOAL})")
    return 0 if ratio >= GOAL else 1


def machine() -> str:
    """Processor, cores, and how many processes wanted them besides."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    return f"{os.cpu_count()} cores of {model}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    run_program(main)
