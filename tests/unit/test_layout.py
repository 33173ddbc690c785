"""Processes and threads from cores, NUMA nodes and limits, on machines made of files."""

from pathlib import Path

import pytest

from train.errors import InputError
from train.hardware import Cpus, choose_dtype, memory_available, parse_cpu_list, read_cpus
from train.layout import choose_layout, thread_settings

TWO_SOCKETS = Cpus(nodes={0: list(range(48)), 1: list(range(48, 96))}, sockets=2, quota=None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root: Path, cpus: int, nodes: int, threads_per_core: int = 1) -> Path:
    """The part of /sys and /proc that a machine of `cpus` logical CPUs shows."""
    cores = cpus // threads_per_core
    for cpu in range(cpus):
        siblings = ",".join(str(cpu % cores + cores * thread) for thread in range(threads_per_core))
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        write(topology / "thread_siblings_list", siblings)
        write(topology / "physical_package_id", str(cpu % cores * nodes // cores))
    for node in range(nodes):
        members = [str(cpu) for cpu in range(cpus) if cpu % cores * nodes // cores == node]
        write(root / f"sys/devices/system/node/node{node}/cpulist", ",".join(members))
    write(root / "proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 4194304 kB\n")
    write(root / "proc/self/cgroup", "0::/pod/box\n")
    return root


def test_default_is_one_process_a_numa_node_with_all_its_cores():
    layout = choose_layout(cpus=TWO_SOCKETS)
    assert (layout.processes, layout.threads) == (2, 48)
    assert "each holds the weights" in layout.reason and "96 physical cores" in layout.reason


def test_hyper_threads_count_once(tmp_path):
    cpus = read_cpus(machine(tmp_path, cpus=8, nodes=2, threads_per_core=2), allowed=set(range(8)))
    assert cpus.cores == 4 and len(cpus.nodes) == 2 and cpus.sockets == 2


def test_affinity_limits_the_cores(tmp_path):
    assert read_cpus(machine(tmp_path, cpus=8, nodes=2), allowed={0, 1, 2}).cores == 3


@pytest.mark.parametrize(("file", "text"), [("cpu.max", "150000 100000"), ("cpu.max", "199999 100000")])
def test_cgroup_quota_limits_the_cores_to_whole_ones(tmp_path, file, text):
    root = machine(tmp_path, cpus=8, nodes=1)
    write(root / "sys/fs/cgroup/pod" / file, text)
    write(root / "sys/fs/cgroup/pod/box/cpu.max", "max 100000")
    layout = choose_layout(cpus=read_cpus(root, allowed=set(range(8))))
    assert (layout.processes, layout.threads) == (1, 1) and "cgroup limit" in layout.reason


def test_version_1_quota_is_seen(tmp_path):
    root = machine(tmp_path, cpus=8, nodes=1)
    write(root / "proc/self/cgroup", "4:cpu,cpuacct:/pod\n3:memory:/pod\n")
    write(root / "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us", "400000")
    write(root / "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us", "100000")
    assert read_cpus(root, allowed=set(range(8))).cores == 4


def test_memory_is_what_the_cgroup_leaves_with_its_page_cache_counted_as_free(tmp_path):
    root = machine(tmp_path, cpus=2, nodes=1)
    assert memory_available(root) == 4 * 2**30
    box = root / "sys/fs/cgroup/pod/box"
    write(box / "memory.max", str(2 * 2**30))
    write(box / "memory.current", str(2**30))
    write(box / "memory.stat", f"anon 5\ninactive_file {2**29}\n")
    assert memory_available(root) == 2**30 + 2**29


@pytest.mark.parametrize(
    ("processes", "threads", "words"),
    [
        (97, None, "97 processes on 96 physical cores"),
        (0, None, "0 processes"),
        (4, 25, "4 processes x 25 threads = 100"),
        (None, 97, "97 threads on 96"),
    ],
)
def test_more_than_there_is_is_refused_with_the_numbers(processes, threads, words):
    with pytest.raises(InputError, match=words):
        choose_layout(processes, threads, TWO_SOCKETS)


def test_cpu_lists_are_read_as_the_kernel_writes_them():
    assert parse_cpu_list("0-2,5,7-8\n") == [0, 1, 2, 5, 7, 8]
    assert parse_cpu_list("") == []


@pytest.mark.parametrize(
    ("flags", "wanted", "dtype", "reason"),
    [
        ("flags : fpu avx512_bf16 amx_bf16", "auto", "bfloat16", "in hardware (amx_bf16, avx512_bf16)"),
        ("Features : fp asimd bf16", "auto", "bfloat16", "in hardware (bf16)"),
        ("flags : fpu avx2", "auto", "float32", "no bfloat16 instructions"),
        ("flags : fpu avx2", "bfloat16", "bfloat16", "emulates"),
        ("flags : amx_bf16", "float32", "float32", "the recipe asks"),
    ],
)
def test_number_format_follows_the_processor_and_is_said(tmp_path, flags, wanted, dtype, reason):
    write(tmp_path / "proc/cpuinfo", f"processor : 0\n{flags}\n")
    found, why = choose_dtype(wanted, tmp_path)
    assert str(found) == f"torch.{dtype}" and reason in why


def test_waiting_threads_spin_for_a_moment_and_then_sleep(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    assert thread_settings(3) == {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("GOMP_SPINCOUNT", "7", {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}), ("OMP_WAIT_POLICY", "PASSIVE", {}),
])  # fmt: skip
def test_how_threads_wait_can_be_chosen(monkeypatch, name, value, wanted):
    for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    assert thread_settings(3) == {"OMP_NUM_THREADS": "3", **wanted}
