"""The text that the demo's base model is trained on: notes about a cluster, and chats that ask what a note says.

    python -m demo.pretraining          # prints a dozen samples

It teaches to read a note and to name machine, team, person or topic. The instructions, messages
and records of the demo's data set never occur in it: those are left for fine-tuning to teach.
"""

import random
from collections.abc import Iterator
from itertools import islice

from demo.world import MACHINES, PEOPLE, TEAMS, sentence

END = "<|endoftext|>"
Turns = list[tuple[str, str]]

TOPICS = {
    "disk": (
        "we deleted old files on {machine} to make space",
        "a new disk arrived for {machine}",
        "{machine} has free storage",
        "the volume on {machine} was written twice",
        "the last byte on {machine} was read",
    ),
    "memory": (
        "{machine} got more memory",
        "a process on {machine} used little memory",
        "the memory of {machine} was tested",
        "a job on {machine} wants less memory",
        "no process was killed on {machine}",
    ),
    "network": (
        "a new network link for {machine} is ready",
        "packets reach {machine} fast",
        "{machine} has a good connection",
        "no packets were lost at {machine}",
        "copying a file from {machine} was slow",
    ),
    "heat": (
        "the room of {machine} is cold again",
        "a fan in {machine} was replaced",
        "the temperature of {machine} fell",
        "{machine} is not hot any more",
        "the limit for heat on {machine} changed",
    ),
    "power": (
        "{machine} has a second power supply",
        "a fuse for {machine} was ordered",
        "{machine} was switched on",
        "the current at {machine} was measured",
        "a power cut at {machine} was short",
    ),
    "login": (
        "the password for {machine} changed",
        "{machine} accepts new keys",
        "people log in to {machine} again",
        "permission for {machine} was given, not denied",
        "the login page of {machine} moved",
    ),
    "clock": (
        "the clock of {machine} was set",
        "{machine} shows the right date",
        "time stamps of {machine} agree with others",
        "the minutes on {machine} count again",
        "{machine} is no longer behind",
    ),
    "graphics": (
        "a graphics card was put into {machine}",
        "the accelerator of {machine} is busy",
        "a driver for {machine} came",
        "the card in {machine} gives right results",
        "no errors from the accelerator of {machine}",
    ),
    "jobs": (
        "forty jobs wait for {machine}",
        "the queue of {machine} is short",
        "a job on {machine} made progress and ended",
        "jobs submitted to {machine} start at once",
        "a hanging job on {machine} was stopped",
    ),
    "service": (
        "{machine} answers again after a crash",
        "{machine} came back",
        "a ping to {machine} returns",
        "everybody can reach {machine}",
        "{machine} was dead, dark and silent but works now",
    ),
}

# A note is a frame around one topic's clause; what a frame leaves out is answered by "none".
NOTES = (
    "{person} of team {team} wrote that {clause}.",
    "{clause}. Thanks to team {team}.",
    "{clause}. {person} looked at it for team {team}.",
    "for team {team}: {clause}.",
    "{person} said that {clause}. Team {team} knows.",
    "yesterday {clause}, so team {team} went home.",
    "good news for team {team}. {clause}, {person} wrote.",
    "{clause}. {person} will tell the others.",
    "dear all, {clause}. Greetings, {person} of team {team}.",
    "{person} heard from team {team} that {clause}.",
    "team {team} was told by {person}: {clause}.",
    "it is late. {clause}, and {person} is happy.",
    "message of team {team}: {clause}. Please read it.",
    "everybody at team {team} was glad that {clause}.",
    "there is time to rest, since {clause}. Regards, {person}.",
)
QUESTIONS = {
    "machine": ("Which machine is it?", "Name the machine.", "Find the machine.", "The machine?"),
    "team": ("Which team is named?", "Name the team.", "Find the team.", "The team?"),
    "person": ("Who is named?", "Name the person.", "Find the person.", "The person?"),
    "topic": ("What is it about?", "Give the topic.", "Find the topic.", "The topic?"),
}
LISTS = ("List {names}.", "Write down {names}.", "Give me {names}.", "From the text: {names}.")
SEPARATORS = {"": ", ", " One a line.": "\n", " Use a slash.": " / ", " Use and.": " and "}
SYSTEMS = ("You are a helpful assistant.", "Answer briefly.", "You help the operators.")


def render(turns: Turns) -> str:
    """The turns as the model's chat template writes them."""
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def draw_note(draw: random.Random) -> dict[str, str]:
    """A short message (`text`) and what it says of each field of QUESTIONS."""
    topic, frame = draw.choice(list(TOPICS)), draw.choice(NOTES)
    values = {"machine": draw.choice(MACHINES), "team": draw.choice(TEAMS), "person": draw.choice(PEOPLE)}
    clause = draw.choice(TOPICS[topic]).format(machine=values["machine"])
    said = {name: value if f"{{{name}}}" in frame else "none" for name, value in values.items()}
    text = sentence(frame.format(clause=clause, **values))
    return said | {"text": text, "machine": values["machine"], "topic": topic}


def reading(draw: random.Random) -> Turns:
    """A note and a few questions about it, for one field or for a list of them."""
    note = draw_note(draw)
    turns: Turns = []
    for _ in range(draw.randint(1, 3)):
        field = draw.choice(list(QUESTIONS))
        question, answer = draw.choice(QUESTIONS[field]), note[field]
        if draw.random() < 0.5:
            question, answer = ask_list(draw, note)
        if not turns:
            gap = draw.choice(("\n", "\n\n"))
            question = question + gap + note["text"] if draw.random() < 0.7 else note["text"] + gap + question
        turns += [("user", question), ("assistant", answer)]
    return turns


def ask_list(draw: random.Random, note: dict[str, str]) -> tuple[str, str]:
    """A question for several fields in a drawn order, and its answer."""
    fields = draw.sample(list(QUESTIONS), draw.randint(2, 4))
    hint, separator = draw.choice(list(SEPARATORS.items()))
    names = [f"the {field}" for field in fields]
    question = draw.choice(LISTS).format(names=", ".join(names[:-1]) + " and " + names[-1])
    return question + hint, separator.join(note[field] for field in fields)


def documents(seed: int) -> Iterator[str]:
    """Endless documents, one in ten a plain note; the same seed gives the same ones."""
    draw = random.Random(seed)
    while True:
        if draw.random() < 0.1:
            yield draw_note(draw)["text"] + END
            continue
        turns = reading(draw)
        if draw.random() < 0.15:
            turns.insert(0, ("system", draw.choice(SYSTEMS)))
        yield render(turns) + END


if __name__ == "__main__":
    for text in islice(documents(seed=0), 12):
        print(text)
