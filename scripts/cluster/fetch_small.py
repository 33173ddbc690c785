"""The small files of a run in one stream: one by one, each costs a kubectl here and a Python in the pod.

Nothing hangs on it. What does not come whole and right is left to scripts/cluster/fetch_file.py, file by file.
"""

import hashlib
import subprocess
import tarfile

from tqdm import tqdm

from scripts.cluster.fetch_file import Copies, begin
from scripts.cluster.store_client import PROGRAM, Store

SMALL = 1 << 20  # bytes
AT_ONCE = 50  # names that one command is given: they stand in the address of its request to the API server


def fetch_small(store: Store, root: str, missing: dict[str, dict], copies: Copies, bar: tqdm) -> set[str]:
    """Bring those of the missing files that are small; the names of those that are here now, verified."""
    small = [name for name, facts in missing.items() if facts["size"] <= SMALL]
    groups = [small[start : start + AT_ONCE] for start in range(0, len(small), AT_ONCE)]
    return {name for group in groups for name in receive(store, root, group, missing, copies, bar)}


def receive(store: Store, root: str, names: list[str], facts: dict[str, dict], copies: Copies, bar: tqdm) -> list[str]:
    """What comes of these files in one stream, up to where it is cut; the names of those that are right."""
    came: list[str] = []
    with PROGRAM.open("rb") as program:
        process = subprocess.Popen(
            store.command("pack", root, *names), stdin=program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as stream:
            for member in stream:
                if member.isfile() and member.name in names:
                    content = stream.extractfile(member).read()
                    if hashlib.sha256(content).hexdigest() == facts[member.name]["sha256"]:
                        keep(copies, member.name, content, facts[member.name])
                        came.append(member.name)
                        bar.update(len(content))
    except tarfile.TarError:
        pass  # cut, or no stream at all: the way file by file says why
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return came


def keep(copies: Copies, name: str, content: bytes, facts: dict) -> None:
    """A verified file in its place, and in no other state there."""
    target = copies.directory / name
    partial = begin(target, facts)
    partial.write_bytes(content)
    partial.rename(target)
    copies.keep(name, facts)
