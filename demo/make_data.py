"""Write the demo's data set: operators' messages and the one-line records they stand for.

    python -m demo.make_data            # rewrites demo/data/train.jsonl and demo/data/validation.jsonl

A row is {"instruction", "input", "output"}; the output is `problem / machine / team / urgency`. The problem is one of
ten words that the message paraphrases in one of five ways, machine and team are named in the message (`none` where no
team is), and the urgency follows from how it is put. The same seed gives the same bytes; no message is in both files.
"""

import argparse
import json
import random
from pathlib import Path

from demo.world import MACHINES, TEAMS, sentence

HERE = Path(__file__).resolve().parent
SEED = 20250101
TRAIN_ROWS = 2000
VALIDATION_ROWS = 200

INSTRUCTIONS = (
    "Turn the message into a record.",
    "Write this message as a record.",
    "Make a one-line record of the message.",
    "Give the record for this message.",
    "Convert the message to a ticket record.",
    "Fill in a record: problem, machine, team, urgency.",
    "Summarise the message as a record for the ticket desk.",
    "What is the record of this message?",
)

PROBLEMS = {
    "disk": (
        "the disk on {machine} is full",
        "{machine} has no space left on its disk",
        "writes fail on {machine} because the volume is full",
        "there is not one free byte on the disk of {machine}",
        "the storage of {machine} has run out of space",
    ),
    "service": (
        "{machine} does not answer at all",
        "{machine} has gone dark",
        "nobody can reach {machine}",
        "{machine} crashed and did not come back",
        "{machine} is dead and no ping returns",
    ),
    "memory": (
        "{machine} has run out of memory",
        "jobs on {machine} are killed for want of memory",
        "the memory of {machine} is used up",
        "{machine} kills processes because no memory is left",
        "there is no free memory on {machine}",
    ),
    "graphics": (
        "the graphics card in {machine} reports errors",
        "the accelerator of {machine} is broken",
        "{machine} lost its graphics card",
        "one accelerator in {machine} gives wrong results",
        "the driver on {machine} no longer finds the accelerator",
    ),
    "network": (
        "the network of {machine} is very slow",
        "copying files to {machine} takes forever",
        "packets to {machine} get lost",
        "the link to {machine} crawls",
        "{machine} has a slow connection",
    ),
    "heat": (
        "{machine} is far too hot",
        "the temperature of {machine} is above the limit",
        "the fans of {machine} have stopped and it is getting hot",
        "{machine} slows down because of the heat",
        "{machine} overheats",
    ),
    "jobs": (
        "a job on {machine} has been hanging",
        "a job on {machine} makes no progress",
        "the queue of {machine} does not move",
        "nothing that is submitted to {machine} ever starts",
        "a job is stuck on {machine}",
    ),
    "login": (
        "nobody can log in to {machine}",
        "{machine} rejects every password",
        "{machine} refuses our keys",
        "logging in to {machine} fails",
        "{machine} says permission denied at login",
    ),
    "clock": (
        "the clock of {machine} is wrong",
        "{machine} shows the wrong date",
        "{machine} runs five minutes behind the others",
        "the clock on {machine} drifts",
        "time stamps from {machine} lie in the future",
    ),
    "power": (
        "{machine} has lost power",
        "the power supply of {machine} failed",
        "{machine} switched itself off after a power cut",
        "there is no power at {machine}",
        "a fuse blew and {machine} is without current",
    ),
}

# How a message is put, and the urgency that follows from it.
FRAMES = {
    "normal": (
        "{problem}, please move the jobs of team {team}.",
        "{problem}. Team {team} asks for help.",
        "team {team} reports that {problem}.",
        "hello, {problem}, says team {team}.",
        "this is team {team}. Since this morning {problem}.",
        "it looks as if {problem}. First seen by team {team}.",
        "{problem}. Please help, team {team}.",
        "the monitor saw that {problem}.",
    ),
    "high": (
        "urgent for team {team}: {problem}.",
        "team {team} cannot work: {problem}. Please hurry.",
        "{problem}, and team {team} has been blocked since then. Urgent.",
        "emergency at team {team}! Since today {problem}.",
        "everybody stop, {problem}. Team {team} needs help at once.",
        "urgent: {problem}.",
    ),
    "low": (
        "no hurry, but {problem}. Regards, team {team}.",
        "when there is time: team {team} noticed that {problem}.",
        "sorry to disturb, {problem}. Team {team} can wait.",
        "just so you know, {problem}. No hurry, says team {team}.",
        "{problem}, which can wait.",
    ),
}


def draw_row(draw: random.Random) -> dict[str, str]:
    """One row."""
    label, urgency = draw.choice(list(PROBLEMS)), draw.choice(list(FRAMES))
    machine, team = draw.choice(MACHINES), draw.choice(TEAMS)
    frame = draw.choice(FRAMES[urgency])
    problem = draw.choice(PROBLEMS[label]).format(machine=machine)
    named = team if "{team}" in frame else "none"
    return {
        "instruction": draw.choice(INSTRUCTIONS),
        "input": sentence(frame.format(problem=problem, team=team)),
        "output": f"{label} / {machine} / {named} / {urgency}",
    }


def draw_rows(seed: int = SEED) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Training and validation rows, all messages different."""
    draw, messages, rows = random.Random(seed), set(), []
    while len(rows) < TRAIN_ROWS + VALIDATION_ROWS:
        row = draw_row(draw)
        if row["input"] not in messages:
            messages.add(row["input"])
            rows.append(row)
    return rows[:TRAIN_ROWS], rows[TRAIN_ROWS:]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON lines under a temporary name and rename the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    aside.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "data", help="directory of the two files")
    output = parser.parse_args().output
    for name, rows in zip(("train", "validation"), draw_rows(), strict=True):
        write_rows(output / f"{name}.jsonl", rows)
        print(f"{output / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
