"""What this machine can do: cores, memory, number formats, matrix-multiply rate. Reads /proc and /sys; no root needed.

Limits are those of the process: CPU affinity and cgroup quota (version 1 and 2), not what the host has.
"""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

# Flags that say the processor multiplies bfloat16 in hardware: x86 AMX and AVX-512, Arm's BF16 extension.
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "avx_ne_convert_bf16", "bf16")


@dataclass(frozen=True)
class Cpus:
    """The processors this process may use. `nodes` maps a NUMA node to its physical cores (one logical CPU each)."""

    nodes: dict[int, list[int]]
    sockets: int
    quota: float | None  # cgroup limit in CPUs, None for no limit

    @property
    def cores(self) -> int:
        """Physical cores that may be used at once."""
        count = sum(len(cores) for cores in self.nodes.values())
        return count if self.quota is None else max(1, min(count, int(self.quota)))


def read_cpus(root: Path = Path("/"), allowed: set[int] | None = None) -> Cpus:
    """Physical cores by NUMA node, out of the CPUs that the affinity allows; hyper-threads count once."""
    allowed = allowed if allowed is not None else os.sched_getaffinity(0)
    base = root / "sys/devices/system"
    node_of = {}
    for directory in base.glob("node/node[0-9]*"):
        for cpu in parse_cpu_list(read_text(directory / "cpulist")):
            node_of[cpu] = int(directory.name[4:])
    nodes: dict[int, list[int]] = {}
    seen, sockets = set(), set()
    for cpu in sorted(allowed):
        topology = base / f"cpu/cpu{cpu}/topology"
        siblings = read_text(topology / "thread_siblings_list") or str(cpu)
        if siblings in seen:
            continue
        seen.add(siblings)
        sockets.add(read_text(topology / "physical_package_id") or "0")
        nodes.setdefault(node_of.get(cpu, 0), []).append(cpu)
    return Cpus(nodes=nodes, sockets=len(sockets), quota=cpu_quota(root))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The tightest CPU limit of this process's cgroups, in CPUs."""
    limits = []
    for directory in cgroup_directories(root, "cpu"):
        limit = read_text(directory / "cpu.max").split() or [
            read_text(directory / "cpu.cfs_quota_us"),
            read_text(directory / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():
            limits.append(int(limit[0]) / int(limit[1]))
    return min(limits, default=None)


def memory_available(root: Path = Path("/")) -> int:
    """Bytes this process can still take: what the kernel calls available, or the rest of the cgroup's limit."""
    info = dict(line.split(":", 1) for line in read_text(root / "proc/meminfo").splitlines() if ":" in line)
    free = [int(info["MemAvailable"].split()[0]) * 1024]
    for directory in cgroup_directories(root, "memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit_text, usage_text = read_text(directory / limit), read_text(directory / usage)
            if limit_text.isdigit() and usage_text.isdigit():
                free.append(int(limit_text) - int(usage_text) + reclaimable(directory))
    return max(0, min(free))


def reclaimable(directory: Path) -> int:
    """Bytes of page cache in a cgroup, which count as used but are given back on demand."""
    stat = dict(line.split() for line in read_text(directory / "memory.stat").splitlines() if len(line.split()) == 2)
    return int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))


def cgroup_directories(root: Path, controller: str) -> list[Path]:
    """The directories of this process's cgroup and of its parents, for one controller, version 1 or 2."""
    directories = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        # In a container the path is that of the host; what is mounted is the container's own, hence the climb to top.
        inner = path.strip("/").split("/") if path.strip("/") else []
        directories += [top.joinpath(*inner[:depth]) for depth in range(len(inner), -1, -1)]
    return [directory for directory in directories if directory.is_dir()]


def parse_cpu_list(text: str) -> list[int]:
    """CPU numbers in the kernel's list form, such as 0-3,8."""
    cpus = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def read_text(path: Path) -> str:
    """A small file's text without surrounding blanks; empty where it is absent or not readable."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_flags(root: Path = Path("/")) -> set[str]:
    """The instruction sets the processor names (flags on x86, Features on Arm)."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def choose_dtype(wanted: str, root: Path = Path("/")):
    """The torch dtype to compute in for the recipe's `dtype`, and the reason in words."""
    import torch

    if wanted == "float32":
        return torch.float32, "the recipe asks for float32"
    if torch.cuda.is_available():
        return torch.bfloat16, "the GPU computes bfloat16"
    found = [flag for flag in BF16_FLAGS if flag in cpu_flags(root)]
    if found:
        return torch.bfloat16, f"the processor multiplies bfloat16 in hardware ({', '.join(found)})"
    if wanted == "bfloat16":
        return torch.bfloat16, "the recipe asks for bfloat16; this processor emulates it, which is slow"
    return torch.float32, "this processor has no bfloat16 instructions (AMX, AVX512_BF16 or Arm BF16)"


def describe_hardware(root: Path = Path("/")) -> dict:
    """What the run record says of the machine."""
    cpus, flags = read_cpus(root), cpu_flags(root)
    lines = read_text(root / "proc/cpuinfo").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": cpus.cores,
        "sockets": cpus.sockets,
        "numa_nodes": len(cpus.nodes),
        "memory_gb": round(memory_available(root) / 2**30, 1),
        "flags": sorted(flag for flag in flags if flag.startswith(("amx", "avx512", "avx2")) or flag in BF16_FLAGS),
        "kernel": platform.release(),
    }


def measure_matmul(dtype, seconds: float = 0.4) -> float:
    """Matrix-multiply rate of this process with its threads, in GFLOP/s: the best of the runs within `seconds`."""
    import torch

    size = 1024
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best, deadline = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best
