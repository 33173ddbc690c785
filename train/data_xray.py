"""Show the data check: as text for a terminal (or a log), and the lengths as a picture."""

import shutil
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

TRAINED, DIM, BOLD, END = "\033[30;42m", "\033[2m", "\033[1m", "\033[0m"
LINES = 16  # of one sample; the middle of a longer one is left out
BAR = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if code != 10} | {9: "⇥", 13: "␍"}
Cells = list[tuple[str, bool]]  # characters of one line, each with whether it carries loss


def xray_text(check: dict[str, Any], colour: bool = False, width: int = 88) -> str:
    """The whole X-ray. In colour the trained tokens have a green ground, otherwise they stand between « and »."""
    paint = (lambda code, text: f"{code}{text}{END}") if colour else (lambda code, text: text)
    lines = [paint(BOLD, "What the model will see"), key_line(check, colour), ""]
    for sample in check["samples"]:
        lines += sample_lines(sample, paint, colour, width)
    for title, body in (
        ("Rows", row_lines(check)),
        ("Tokens", token_lines(check)),
        ("Lengths of all rows, in tokens", histogram_lines(check)),
        ("Checks", check_lines(check)),
        ("Training", training_lines(check)),
    ):
        lines += [paint(BOLD, title), *(f"  {line}" for line in body), ""]
    for note in check["notes"]:
        lines += textwrap.wrap(f"Note: {note}", width, subsequent_indent="      ")
    return "\n".join(lines).rstrip() + "\n"


def key_line(check: dict[str, Any], colour: bool) -> str:
    """How to read the samples."""
    marked = f"{TRAINED}this ground{END}" if colour else "« »"
    return f"Three rows, {check['prompt']}; tokens in {marked} carry loss."


def sample_lines(sample: dict[str, Any], paint: Any, colour: bool, width: int) -> list[str]:
    """One sample, wrapped, under a line that names it."""
    head = f"── {sample['part']} row {sample['row']}: {sample['tokens']} tokens, {sample['trained']} carry loss "
    lines: list[Cells] = [[]]
    for piece in sample["pieces"]:
        mark = piece["loss"] and not colour
        text = f"«{piece['text']}»" if mark else piece["text"]
        for character in text.translate(CONTROLS):
            lines[-1].append(("↵" if character == "\n" else character, piece["loss"]))
            if character == "\n":
                lines.append([])
    lines = [part for line in lines if line for part in wrap(line, width - 2)]
    shown = [f"{paint(DIM, '│')} {cells_text(line, colour)}" for line in lines]
    if len(shown) > LINES:
        left_out = f"{paint(DIM, '┆')} … {len(shown) - LINES + 1} lines left out …"
        shown = [*shown[: LINES // 2], left_out, *shown[-(LINES - LINES // 2 - 1) :]]
    return [paint(DIM, head + "─" * max(0, width - len(head))), *shown, ""]


def wrap(line: Cells, width: int) -> list[Cells]:
    """A line in pieces that fit the width, broken behind a space where there is one."""
    pieces = []
    while len(line) > width:
        spaces = [index for index in range(width // 2, width) if line[index][0] == " "]
        cut = spaces[-1] + 1 if spaces else width
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def cells_text(line: Cells, colour: bool) -> str:
    """A line's characters, with colour where the loss begins and ends."""
    text, on = [], False
    for character, loss in line:
        if colour and loss != on:
            text.append(TRAINED if loss else END)
            on = loss
        text.append(character)
    return "".join(text) + (END if on else "")


def table(rows: list[list[Any]]) -> list[str]:
    """Rows as aligned columns: the first to the left, the others to the right."""
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in texts]
    return ["    ".join(row) for row in aligned]


def row_lines(check: dict[str, Any]) -> list[str]:
    """Rows read, left out for each reason, and kept."""
    parts = list(check["rows"].values())
    rows: list[list[Any]] = [["", *check["rows"]], ["read", *(part["read"] for part in parts)]]
    for key, name in (("filtered", "left by row_filter"), ("held_out", "held out"), ("not_drawn", "not drawn")):
        if any(part.get(key) for part in parts):
            rows.append([name, *(part.get(key, 0) for part in parts)])
    for reason in dict.fromkeys(reason for part in parts for reason in part["dropped"]):
        rows.append([f"dropped: {reason}", *(part["dropped"].get(reason, {"count": 0})["count"] for part in parts)])
    rows.append(["truncated, without stop token", *(part["truncated"]["count"] for part in parts)])
    rows.append(["kept", *(part["kept"] for part in parts)])
    sources = dict.fromkeys(part["source"] for part in parts)
    return [f"from {', '.join(sources)} ({check['data_format']})", *table(rows)]


def token_lines(check: dict[str, Any]) -> list[str]:
    """Tokens, their share with loss, and the lengths of the kept rows."""
    tokens, lengths = check["tokens"].values(), list(check["lengths"].values())
    rows: list[list[Any]] = [["", *check["tokens"]], ["in kept rows", *(part["total"] for part in tokens)]]
    rows.append(["carry loss", *(part["trained"] for part in tokens)])
    rows.append(["share", *(f"{part['share']:.1%}" for part in tokens)])
    names = {"min": "shortest row", "mean": "mean", "p50": "median", "p90": "90 % are at most",
             "p99": "99 % are at most", "max": "longest row"}  # fmt: skip
    rows += [[name, *(part.get(key, "") for part in lengths)] for key, name in names.items()]
    return table(rows)


def histogram_lines(check: dict[str, Any]) -> list[str]:
    """A bar for each range of lengths, the last for rows over max_length."""
    edges, counts = check["histogram"]["edges"], check["histogram"]["counts"]
    labels = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
    over = check["histogram"]["over"]
    bars = [*zip(labels, counts, strict=True), *([(f"over {check['max_length']}", over)] if over else [])]
    top, wide = max([count for _, count in bars] + [1]), max(len(label) for label, _ in bars)
    return [f"{label.rjust(wide)} {bar(count / top)} {count:,}" for label, count in bars]


def bar(share: float) -> str:
    """A bar in eighths of a character; never empty for a share above none."""
    eighths = max(round(share * BAR * 8), 1 if share else 0)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).strip().ljust(BAR)


def check_lines(check: dict[str, Any]) -> list[str]:
    """What was looked for, and what was found."""
    bos, stop = check["bos"], check["stop"]
    begins = f"{bos['token']}, once, put there by the {bos['by']}" if bos["first"] else "none"
    cut = f"; not in {counted(stop['rows_without'])}, cut short" if stop["rows_without"]["count"] else ""
    inside = f"yes: {' or '.join(stop['tokens'])}{cut}" if stop["in_loss"] else "no: every row is cut short"
    twice = check["duplicates"]
    pairs = ", ".join(f"{second} = {first}" for first, second in twice["rows"][:4])
    loss = "prompts and answers" if check["loss_on"] == "everything" else "answers only"
    return table_of({
        "loss on": loss,
        "stop token in the loss": inside,
        "BOS": begins,
        "empty answers": counted(check["empty_answers"], "left out"),
        "in train and validation": counted(check["overlap"], "left out of train"),
        "duplicates in train": f"{twice['count']:,} (rows {pairs}{', …' if twice['count'] > 4 else ''})"
        if twice["count"] else "none",
    })  # fmt: skip


def counted(found: dict[str, Any], done: str = "") -> str:
    """A count with the first row numbers, or none."""
    if not found["count"]:
        return "none"
    rows = ", ".join(map(str, found["rows"][:6])) + (", …" if found["count"] > 6 else "")
    return f"{found['count']:,} (rows {rows}){' ' + done if done else ''}"


def table_of(pairs: dict[str, str]) -> list[str]:
    """Names and what is said of them, aligned."""
    wide = max(map(len, pairs))
    return [f"{name.ljust(wide)}  {said}" for name, said in pairs.items()]


def training_lines(check: dict[str, Any]) -> list[str]:
    """What the rows mean for the training."""
    size = check["per_device_train_batch_size"]
    per_epoch, rows = check["steps_per_epoch"], check["global_batch_size"]
    return table_of({
        "steps": f"{per_epoch:,} an epoch, of {rows} rows each; {check['steps']:,} in all",
        "padding": f"{check['padding_waste']:.0%} of a batch of {size} rows in random order",
    })  # fmt: skip


def terminal_width() -> int:
    """The width to print at: that of the terminal, but no more than reads well."""
    return max(60, min(96, shutil.get_terminal_size((88, 24)).columns - 1))


def draw_lengths(check: dict[str, Any], path: Path) -> None:
    """Write the histogram as a PNG, under a temporary name first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges, counts, over = (check["histogram"][key] for key in ("edges", "counts", "over"))
    width = edges[1] - edges[0] if len(edges) > 1 else 1
    figure, axes = pyplot.subplots(figsize=(7, 3), dpi=110, layout="constrained")
    axes.bar(edges[:-1], counts, [b - a for a, b in pairwise(edges)], align="edge",
             color="#2f7ebc", edgecolor="white")  # fmt: skip
    if over:
        axes.bar(edges[-1], over, width, align="edge", color="#c9473d", edgecolor="white", label="over max_length")
        axes.legend(frameon=False)
    axes.set_xlabel("tokens in a row")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    temporary = path.with_name(f".{path.name}.writing")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    temporary.rename(path)
