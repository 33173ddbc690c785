"""Lines of text in columns."""


def table(rows: dict[str, dict], stage: str, digest: str) -> list[str]:
    """A line a node, under a line of headings; the digest where the node was seen to hold it. Sizes in MB of
    1,000,000 bytes.
    """
    columns = {"node": list(rows), "runtime": [row["runtime"] for row in rows.values()]}
    if stage in ("plan", "check"):
        columns["to bring"] = [megabytes(0 if row["result"] == "has it" else row["to_bring"]) for row in rows.values()]
    if stage == "push":
        columns["received"] = [megabytes(row["received"]) for row in rows.values()]
        columns["seconds"] = [f"{row['seconds']:.1f}" for row in rows.values()]
        columns["digest"] = [digest[:19] if row["result"].startswith("ha") else "none" for row in rows.values()]
        columns["kept by"] = ["pin" if row["pinned"] else "use only" for row in rows.values()]
    columns["result"] = [row["result"] for row in rows.values()]
    widths = [max(len(heading), *map(len, cells)) for heading, cells in columns.items()]
    lines = [tuple(columns), *zip(*columns.values(), strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 or size == 0 else f"{size / 1e3:.1f} kB"
