"""How an MPIJob's launcher starts programs on the workers: mpirun over ssh, Open MPI or Intel's."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from scripts.pod_peers import answers
from scripts.pod_place import PORT, Place

HOSTFILE = Path("/etc/mpi/hostfile")
SSH_PORT = 2222
ENTRYPOINT = "/usr/local/lib/tunefleet/entrypoint.sh"
# What a process on a worker has of its own, or the operator meant for the launcher alone.
NOT_PASSED = ("HOME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "PATH", "POD_IP", "POD_NAME", "NODE_NAME")
NOT_PASSED_PREFIXES = ("OMPI_", "I_MPI_", "HYDRA_", "K_MPI_", "KUBERNETES_", "NVIDIA_", "PMI")


def read_hosts(path: Path = HOSTFILE) -> list[str]:
    """The workers' names, from lines such as `host slots=2` (Open MPI) or `host:2` (Intel)."""
    return [line.split()[0].partition(":")[0] for line in path.read_text().splitlines() if line.strip()]


def wait_for(hosts: list[str], say: Callable[[list[str]], None], port: int = SSH_PORT) -> None:
    """Return when every host answers at its port; tells the silent ones now and then. Waiting has no end of its own."""
    told = 0.0
    while silent := [host for host in hosts if not answers(host, port)]:
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(silent)
        time.sleep(1)


def passed_on(environment: dict[str, str]) -> list[str]:
    """Names of the variables that ranks get from the launcher: ssh gives a process nothing of its container's."""
    return sorted(name for name in environment if name not in NOT_PASSED and not name.startswith(NOT_PASSED_PREFIXES))


def on_first(hosts: list[str], words: list[str], environment: dict[str, str]) -> list[str]:
    """The command line that runs one program on the first worker, with all its processors."""
    if is_intel():
        return ["mpirun", "-n", "1", "-hosts", hosts[0], *names(environment), ENTRYPOINT, *words]
    return ["mpirun", "-n", "1", "--host", hosts[0], "--bind-to", "none", *names(environment), ENTRYPOINT, *words]


def on_all(place: Place, hosts: list[str], words: list[str], environment: dict[str, str]) -> list[str]:
    """The command line that runs the ranks of a training, as many on each worker as the placement says."""
    environment |= {"MASTER_ADDR": hosts[0], "MASTER_PORT": str(PORT)}
    count = ["-n", str(place.nodes * place.processes)]
    if is_intel():
        return ["mpirun", *count, "-ppn", str(place.processes), *names(environment), ENTRYPOINT, *words]
    share = ["--map-by", f"ppr:{place.processes}:node", "--bind-to", "none"]
    return ["mpirun", *count, *share, *names(environment), ENTRYPOINT, *words]


def names(environment: dict[str, str]) -> list[str]:
    """mpirun's words for the variables to pass on: names alone, so that no value stands on a command line."""
    if is_intel():
        return ["-genvlist", ",".join(passed_on(environment))]
    return [word for name in passed_on(environment) for word in ("-x", name)]


def is_intel() -> bool:
    """Whether the operator prepared this pod for Intel's mpirun."""
    return "I_MPI_HYDRA_HOST_FILE" in os.environ
