"""What the report says of each process of the training: how busy it was, and whom the others waited for."""

from typing import Any

from train.report_facts import Run, percent
from train.utilisation import SLOWER, slowest_of


def rank_rows(run: Run) -> list[dict[str, Any]]:
    """One row a rank, in words; none for a run of before there were such figures."""
    ranks = (run["training"] or {}).get("ranks") or []
    seconds = [one["step_compute_seconds"] for one in ranks]
    slow = slowest_of(seconds) if len(ranks) > 1 and all(seconds) else None
    rows = []
    for one in ranks:
        told = slow and slow[0] == one["rank"] and slow[1] > SLOWER
        rows.append({
            "rank": one["rank"],
            "node": one["node"],
            "cpu": percent(one["cpu_share"]),
            "memory": f"{one['peak_memory_gb']:.2f} GB",
            "computes": in_seconds(one["step_compute_seconds"]),
            "waits": in_seconds(one["step_wait_seconds"]),
            "slow": f"{slow[1]:.1f}x the others" if told else "",
        })  # fmt: skip
    return rows


def in_seconds(value: float | None) -> str:
    """Seconds of a step; where the processes of a training compute together, nobody knows whose they are."""
    return "not known" if value is None else f"{value:.3g} s"
