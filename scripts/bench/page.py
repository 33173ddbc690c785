"""The benchmark's result as text for the terminal, as a Markdown page and as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench.table import HEAD, LOSS_HEAD, as_markdown, as_text, cells, loss_cells, spread, verdict

Rows = list[Sequence[str]]
CURVES = "curve.png"  # beside the page
CURVES_TITLE = "Loss curves"


def tables(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """A title, rows (the first is the head) and a remark for each section that the result holds."""
    make = {
        "train": train_table,
        "curve": curve_table,
        "ranks": ranks_table,
        "data": data_table,
        "length": length_table,
        "merge": merge_table,
    }
    return [table for name, of in make.items() if name in result["sections"] for table in of(result)]


def train_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """Ours and the others."""
    found, setting = result["sections"]["train"], result["setting"]
    rate = spread(found["matmul_gflops"])
    remark = (
        f"{verdict(found['rows'])}"
        f"Median (least-greatest) over the rounds of the command, one seed a round; a row without a spread ran once. "
        f"Real tokens only, the first step not counted. Share: tokens/s x {found['flop_per_token'] / 1e9:.2f} GFLOP (4 "
        f"for each weight that multiplies, whatever a variant saves or does twice) over the measured rate in "
        f"{setting['dtype']}, {rate.words(',.0f')} GFLOP/s. Peak: VmHWM of the training process. "
        f"To first step: from the program's start to the end of its first step, loading and compiling counted. "
        f"{setting['steps']} steps of 32 rows, {found['tokens']:,} tokens. Other processes took at most "
        f"{max(run['disturbed'] for run in found['runs']):.2f} of {setting['hardware']['cores']} cores meanwhile."
    )
    learnt = (
        "Difference: of a step's loss to that of the reference, ours in float32 and padded, same rows and seed; "
        "the largest of the first round's steps. None for what packs in an order of its own: its steps hold other rows."
    )
    return [
        ("Training", [HEAD, *(cells(row) for row in found["rows"])], remark),
        ("Training: what was learnt", [LOSS_HEAD, *(loss_cells(row) for row in found["rows"])], learnt),
    ]


def curve_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """What ours and the others have learnt after many steps."""
    found = result["sections"]["curve"]
    ours = next(row["eval_loss"].median for row in found["rows"] if row["variant"] == "ours")
    rows: Rows = [("", "weights / autocast", "first step's loss", "last step's loss", "validation loss",
                   "ours' median from its")]  # fmt: skip
    for row in found["rows"]:
        theirs = row["eval_loss"]
        off = f"{ours - theirs.median:+.4f}"
        if row["rounds"] > 1:  # one seed has no range
            off += f", {'in' if theirs.least <= ours <= theirs.greatest else 'outside'} its range"
        first = spread([run["losses"][0] for run in found["runs"] if run["variant"] == row["variant"]])
        rows.append((row["words"], row["format"], first.words(".4f"), row["train_loss"].words(".4f"),
                     theirs.words(".4f"), "" if row["variant"] == "ours" else off))  # fmt: skip
    remark = (
        f"Median (least-greatest) over the seeds ({found['rows'][0]['rounds']}), the same for each row, after "
        f"{found['steps']} steps of 32 rows with a small model: {words(found['geometry'])}, random weights; "
        f"{words(found['recipe'])}. The losses of all steps over each other: {CURVES}."
    )
    return [(CURVES_TITLE, rows, remark)]


def ranks_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """One process and two."""
    found = result["sections"]["ranks"]
    rows = [("", "tokens/s", "of linear"),
            ("1 process x 1 thread", spread(found["one"]).words(",.0f"), ""),
            ("2 processes x 1 thread", spread(found["two"]).words(",.0f"),
             spread(found["share_of_linear"]).words(".0%"))]  # fmt: skip
    return [("Two processes", rows, "Of linear: tokens/s of two over twice those of one, of the same round.")]


def data_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """Preparation."""
    sizes = result["sections"]["data"]["sizes"]
    rows = [("rows", "tokens", "seconds, whole program", "tokens/s, preparation alone")]
    rows += [(f"{size['rows']:,}", f"{size['tokens']:,}", f"{size['seconds']:.1f}", f"{size['tokens_per_second']:,.0f}")
             for size in sizes]  # fmt: skip
    remark = "Preparation alone: reading, rendering, tokenising and judging, without the program's start and the X-ray."
    trained = ours_rate(result)
    if trained:
        times = sizes[-1]["tokens_per_second"] / trained
        remark += f" That is {times:,.0f} times as fast as the training above ({trained:,.0f} tokens/s)."
    return [("Data preparation", rows, remark)]


def ours_rate(result: dict[str, Any]) -> float | None:
    """Ours' tokens a second where the result holds them."""
    rows = result["sections"].get("train", {}).get("rows", [])
    return next((row["tokens_per_second"].median for row in rows if row["variant"] == "ours"), None)


def length_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """Cost against the number of rows and against their length."""
    found = result["sections"]["length"]
    few, middle, many = found["by_rows"]
    each = (many["seconds"] - few["seconds"]) / (many["tokens"] - few["tokens"])
    start = few["seconds"] - each * few["tokens"]
    off = middle["seconds"] / (start + each * middle["tokens"]) - 1
    counts = [("rows", "tokens", "seconds, whole program")]
    counts += [(str(run["rows"]), f"{run['tokens']:,}", f"{run['seconds']:.1f}") for run in found["by_rows"]]
    remark = (
        f"A straight line through the first and the last: {start:.1f} s of start and end, then "
        f"{1 / each:,.0f} tokens/s; the middle one is {off:+.1%} off it."
    )
    lengths = [("tokens a row", "tokens/s")]
    lengths += [(str(run["longest"]), f"{run['tokens_per_second']:,.0f}") for run in found["by_length"]]
    equal = "All rows equally long; 2,048 tokens a micro-batch and 8,192 a step whatever the length."
    return [("Number of rows", counts, remark), ("Length of rows", lengths, equal)]


def merge_table(result: dict[str, Any]) -> list[tuple[str, Rows, str]]:
    """Merging."""
    rows: Rows = [("", "seconds", "times cp", "peak GB")]
    for found in result["sections"]["merge"].values():
        turns = found["turns"]
        copies = {turn["round"]: turn["seconds"] for turn in turns if turn["way"] == "cp"}
        for way in dict.fromkeys(turn["way"] for turn in turns):
            mine = [turn for turn in turns if turn["way"] == way]
            rows.append((
                f"{found['bytes'] / 1e9:.1f} GB: {way}", spread([turn["seconds"] for turn in mine]).words(".1f"),
                spread([turn["seconds"] / copies[turn["round"]] for turn in mine]).words(".2f"),
                spread([turn["peak_gb"] for turn in mine]).words(".2f"),
            ))  # fmt: skip
    remark = (
        "In turns; before each the base is read into the page cache and earlier output removed; seconds end after "
        "sync. Ours proves every tensor in all its rows. Within a run: the merge as `make run` starts it, forked from "
        "a process that has imported the libraries by then; all other rows are whole processes, imports included. "
        "Neither proven nor hashed: what no command does, to show what proof and hashes cost. "
        "Peak: VmHWM, mapped file pages counted."
    )
    return [("Merging", rows, remark)]


def terminal(result: dict[str, Any]) -> str:
    """All tables as text."""
    return "\n\n".join(f"{title}\n{as_text(rows)}\n{remark}" for title, rows, remark in tables(result))


def markdown(result: dict[str, Any]) -> str:
    """All tables as a page, with machine, versions, command and date."""
    setting = result["setting"]
    hardware, others = setting["hardware"], result["others"]
    lines = [
        "# Performance, measured", "",
        f"{result['date']}, `{result['command']}`, {hardware['cores']} cores of {hardware['cpu']} "
        f"({', '.join(flag for flag in hardware['flags'] if 'bf16' in flag) or 'no bf16 instructions'}), "
        f"{setting['threads']} threads, Linux {hardware['kernel']}.",
        f"Ours: {words(setting['versions'])}. The others: {words(others) if others else 'not measured'}.",
        f"Model: Llama with random weights, {words(setting['geometry'])}, the rest as TinyLlama. "
        f"Rows: {setting['rows']}.",
    ]  # fmt: skip
    for title, rows, remark in tables(result):
        lines += ["", f"## {title}", "", as_markdown(rows), "", remark]
        lines += ["", f"![{title}]({CURVES})"] if title == CURVES_TITLE else []
    return "\n".join(lines) + "\n"


def words(versions: dict[str, Any]) -> str:
    """`torch 2.13.0, peft 0.21.2`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def picture(result: dict[str, Any], path: Path) -> None:
    """Bars of tokens a second with their spread, ours first; nothing where training was not measured."""
    if "train" not in result["sections"]:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = result["sections"]["train"]["rows"]
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(rows) + 1.4), layout="constrained")
    for place, row in enumerate(rows):
        rate = row["tokens_per_second"]
        axes.barh(place, rate.median, color="#1b6ca8" if row["variant"].startswith("ours") else "#b0b7bf",
                  xerr=[[rate.median - rate.least], [rate.greatest - rate.median]], capsize=3)  # fmt: skip
        compared = row["variant"] != "ours" and not math.isnan(row["ratio"].median)
        times = f"; ours is {row['ratio'].median:.2f} times as fast" if compared else ""
        axes.text(rate.greatest, place, f"  {rate.median:,.0f}{times}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["words"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(row["tokens_per_second"].greatest for row in rows))
    axes.set_xlabel("real tokens per second")
    hardware = result["setting"]["hardware"]
    axes.set_title(f"LoRA fine-tuning, {hardware['cores']} cores of {hardware['cpu']}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def draw_curves(result: dict[str, Any], path: Path) -> None:
    """The losses of ours and the others over each other, a panel a seed; nothing where none were measured."""
    if "curve" not in result["sections"]:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    runs = result["sections"]["curve"]["runs"]
    rounds = sorted({run["round"] for run in runs})
    styles = {"ours": {"color": "#9cc4e4", "linewidth": 4}, "trl": {"color": "#c1121f", "linewidth": 1.2},
              "plain": {"color": "#222222", "linewidth": 1.2, "linestyle": (0, (4, 3))}}  # fmt: skip
    figure, panels = plt.subplots(1, len(rounds), figsize=(4.2 * len(rounds), 3.4), sharey=True, squeeze=False,
                                  layout="constrained")  # fmt: skip
    for number, axes in zip(rounds, panels[0], strict=True):
        for run in (run for run in runs if run["round"] == number):
            steps = range(1, len(run["losses"]) + 1)
            axes.plot(steps, run["losses"], label=run["words"], **styles[run["variant"]])
        axes.set_title(f"seed {number + 1}", loc="left", fontsize=10)
        axes.set_xlabel("optimiser step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("training loss")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140)
    plt.close(figure)
