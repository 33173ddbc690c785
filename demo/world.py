"""Names that all of the demo's text is about. Imported by make_data.py and pretraining.py; nothing to run here."""


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


TEAMS = listed("red blue green amber violet silver copper coral indigo olive ivory teal falcon otter heron lynx")
MACHINES = listed(
    "atlas orion vega altair rigel sirius deneb castor pollux mira antares spica juno ceres pallas vesta "
    "titan rhea dione mimas triton oberon umbriel ariel"
)
PEOPLE = listed("Ana Ben Carla David Elif Farid Grace Hugo Ines Jonas Kaito Lena Marco Nadia Oscar Priya")


def sentence(text: str) -> str:
    """The text with a capital first letter, leaving machine names as they are written."""
    return text if text.split()[0] in MACHINES else text[0].upper() + text[1:]
