"""Takes a model or a data set into the shared store, inside a pod that has it mounted.

python -m scripts.store_receive [--store /store]       the other end is scripts/cluster/deliver_link.py
The workstation gives this file to Python in the data-access pod, with train/stored.py and train/files.py: all three
need the standard library only, and both sides are of one version.
Standard input: a line of JSON with what is to come, then for each file a line {"file", "offset", "size"} and just so
many raw bytes, at last {"publish": true}. An empty object only says that the sender lives. Standard output, by lines:
  {"waits": who holds the lock}    {"reads": bytes}         it lives, and is busy
  {"have": {file: bytes}}                                   what earlier tries left, to go on from
  {"landed": bytes}                                         of this session, on the disk
  {"verified": file, "sha256"}     {"damaged": file}        read back from the disk
  {"published": path, "manifest": sha256, "again": true where it was there already}
  {"short": bytes that are missing, "free": bytes}          there is no room; exit status 2
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from train.files import hash_file
from train.stored import MANIFEST, Artifact, lock, publish, read_manifest, remember

BLOCK = 1 << 20
BEHIND = 32 << 20  # so far the reading back stays behind the writing: less would wait for the disk all the time
SECONDS_BETWEEN_WORDS = 0.5
SECONDS_OF_SILENCE = 60.0  # then the sender is gone, and another may have the lock


class Refusal(Exception):
    """What was asked for cannot be; the message is for people."""


class Cut(Exception):
    """The sender is gone in the middle; what came stays."""


class Sender:
    """The other end: its bytes, and words for it. A silence of a minute ends this program."""

    def __init__(self):
        self.input = sys.stdin.buffer
        with contextlib.suppress(OSError):  # no pipe, or more than is allowed: it works with less, too
            fcntl.fcntl(self.input.fileno(), fcntl.F_SETPIPE_SZ, BLOCK)
        self.lock = threading.Lock()
        self.heard = self.told = time.monotonic()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """End the program, and let go of the lock, when nothing comes any more."""
        while time.monotonic() - self.heard < SECONDS_OF_SILENCE:
            time.sleep(1)
        print(f"error: nothing came for {SECONDS_OF_SILENCE:.0f} s", file=sys.stderr, flush=True)
        os._exit(1)

    def say(self, **facts) -> None:
        """One line to the sender."""
        with self.lock:
            print(json.dumps(facts), flush=True)
            self.told = time.monotonic()

    def busy(self, **facts) -> None:
        """A sign of life, at most twice a second; being busy is no silence."""
        self.heard = time.monotonic()
        if self.heard - self.told > SECONDS_BETWEEN_WORDS:
            self.say(**facts)

    def message(self) -> dict:
        """The next line. Raises Cut where there is none."""
        line = self.input.readline()
        self.heard = time.monotonic()
        if not line.endswith(b"\n"):
            raise Cut
        return json.loads(line)

    def blocks(self, size: int) -> Iterator[memoryview]:
        """So many bytes as they come, each block in the place of the one before. Raises Cut where fewer do."""
        room = memoryview(bytearray(BLOCK))
        while size:
            count = self.input.readinto1(room[: min(BLOCK, size)])
            if not count:
                raise Cut
            self.heard = time.monotonic()
            size -= count
            yield room[:count]


class Landing:
    """A file on its way to the disk, read back from its beginning meanwhile, so that its hash is soon known."""

    def __init__(self, path: Path, offset: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self.file.truncate(offset)
        self.file.seek(offset)
        self.digest, self.written, self.ended = hashlib.sha256(), offset, False
        self.trouble: OSError | None = None
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self.read_back, daemon=True)
        self.reader.start()

    def write(self, block: memoryview) -> None:
        """Append a block."""
        size = len(block)
        while block:
            block = block[self.file.write(block) :]
        with self.news:
            self.written += size
            self.news.notify()
        if self.trouble:
            raise self.trouble

    def read_back(self) -> None:
        """Hash what is on the disk, not what is in memory."""
        done = 0
        number, room = self.file.fileno(), memoryview(bytearray(BLOCK))
        try:
            while not (self.ended and done == self.written):
                with self.news:
                    self.news.wait_for(lambda from_=done: self.ended or self.written - from_ >= BEHIND)
                    until = self.written
                os.fdatasync(number)
                os.posix_fadvise(number, done, until - done, os.POSIX_FADV_DONTNEED)
                while done < until:
                    count = os.preadv(number, [room[: min(BLOCK, until - done)]], done)
                    if not count:
                        raise OSError(f"{self.file.name}: became shorter while it was written")
                    self.digest.update(room[:count])
                    done += count
        except OSError as error:
            self.trouble = error

    def finish(self, sender: Sender) -> str:
        """The hash of the whole file as the disk gives it."""
        with self.news:
            self.ended = True
            self.news.notify()
        while self.reader.is_alive():
            self.reader.join(1)
            sender.busy(reads=self.written)
        self.file.close()
        if self.trouble:
            raise self.trouble
        return self.digest.hexdigest()


# ---- one delivery ----


class Delivery:
    """A model or data set on its way into the store; `files`: name -> {"size", "sha256"}."""

    def __init__(self, store: Path, order: dict, sender: Sender):
        manifest = dict(order["manifest"])
        self.files: dict[str, dict] = manifest.pop("files")
        self.facts, self.references = manifest, order["references"]
        names = [manifest["name"], manifest["revision"], *self.files]
        if bad := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise Refusal(f"{bad[0]}: is no name for a store")
        self.artifact = Artifact(manifest["kind"], manifest["name"], manifest["revision"])
        self.store, self.sender = store, sender
        self.incoming, self.final = self.artifact.incoming(store), store / self.artifact.path
        self.verified: set[str] = set()
        self.landed = 0

    def take(self) -> None:
        """Everything from the lock to the publication."""
        with lock(self.artifact, self.store, lambda holder: self.sender.busy(waits=holder)):
            there = self.is_there()
            if not there:
                self.survey()
                while not (message := self.sender.message()).get("publish"):
                    if message:
                        self.receive(**message)
                if missing := set(self.files) - self.verified:
                    raise Refusal(f"{min(missing)}: is not whole")
                publish(self.artifact, self.store, self.files, self.facts)
            for reference in self.references:
                remember(self.artifact, self.store, reference)
            self.sender.say(published=str(self.final), manifest=hash_file(self.final / MANIFEST), again=there)

    def is_there(self) -> bool:
        """Whether it is published with all its files, by their sizes."""
        if read_manifest(self.final).get("files") != self.files:
            return False
        paths = {self.final / name: entry["size"] for name, entry in self.files.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def survey(self) -> None:
        """Say what earlier tries left, and whether the rest finds room; hashed is it all while the rest comes."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        sizes = {name: (self.incoming / name).stat().st_size for name in self.files if (self.incoming / name).is_file()}
        have = {name: size for name, size in sizes.items() if 0 < size <= self.files[name]["size"]}
        missing = sum(entry["size"] for entry in self.files.values()) - sum(have.values())
        free = shutil.disk_usage(self.incoming).free
        if missing > free:
            self.sender.say(short=missing - free, free=free)
            raise Refusal(f"{missing} bytes are to come, {free} are free")
        self.sender.say(have=have)

    def receive(self, file: str, offset: int, size: int) -> None:
        """One file from the byte that the sender says; kept only if its hash is right."""
        path = self.incoming / file
        if file not in self.files or (offset and path.stat().st_size != offset):
            raise Refusal(f"{file}: was not announced, or not from byte {offset} on")
        landing = Landing(path, offset)
        for block in self.sender.blocks(size):
            landing.write(block)
            self.landed += len(block)
            self.sender.busy(landed=self.landed)
        found = landing.finish(self.sender)
        self.sender.say(landed=self.landed)
        if found == self.files[file]["sha256"]:
            self.verified.add(file)
            self.sender.say(verified=file, sha256=found)
        else:
            path.unlink()
            self.sender.say(damaged=file, sha256=found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("/store"), help="where it is mounted")
    store = parser.parse_args().store.resolve()
    sender = Sender()
    try:
        Delivery(store, sender.message(), sender).take()
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    except Cut:
        print("error: the sender went away in the middle; what came stays", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
