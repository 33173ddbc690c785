"""Fetch a model or a data set of a hub into a store: pinned to a commit, chosen, resumed, verified, published whole."""

import os
import re
import shutil
import time
from pathlib import Path
from subprocess import Popen
from urllib.parse import urlsplit

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from scripts.fetch import ask
from scripts.fetch.choose import INDEX, Choice, choose_dataset, choose_model
from scripts.fetch.follow import Growing
from scripts.fetch.messages import Asked, FetchFailed, endpoint, host, shown_endpoint, store_watched
from scripts.fetch.watchdog import STALL, Order, ready, transfer
from scripts.transfer_view import amount, clock
from train import stored
from train.errors import InputError, problem
from train.events import tell
from train.files import hash_file

__all__ = ["FetchFailed", "fetch"]

COMMIT = re.compile(r"[0-9a-f]{40}")
ROOM_TO_SPARE = 64 << 20  # bytes that must stay free
VARIABLES = {"model": "MODEL", "dataset": "DATA"}


@store_watched()
def fetch(kind: str, name: str, revision: str | None, store: Path, stall: float = STALL) -> Path:
    """Bring a model or a data set ("model", "dataset") into the store, if it is not there; returns its directory.

    revision: a branch, a tag or a commit, None for the main branch; stall: seconds without a byte after which the
    transfer is begun again. Raises InputError for what the user can mend, FetchFailed for what may pass; the same call
    goes on where this one stopped.
    """
    asked = Asked(kind, name, revision)
    check_beforehand(asked, store)
    if revision and COMMIT.fullmatch(revision) and (there := intact(stored.find(store, kind, name, revision))):
        print(f"{asked} is there: {there}", flush=True)
        return there
    with ready() as spare:
        found = ask.resolve(asked)
        artifact = stored.Artifact(kind, name, found.commit)
        print(
            f"{asked} on {host()} is commit {found.commit}, licence {found.facts['licence'] or 'not stated'}",
            flush=True,
        )
        with stored.lock(artifact, store, Patience(artifact)):
            final = store / artifact.path
            if intact(stored.find(store, kind, name, found.commit)):
                stored.remember(artifact, store, revision or "main")
                print(f"{artifact} is there: {final}", flush=True)
                return final
            return bring(asked, artifact, found, store, stall, spare)


def bring(asked: Asked, artifact: stored.Artifact, found: ask.Found, store: Path, stall: float, spare: Popen) -> Path:
    """Choose, make sure of the room, transfer, publish. Hold the artifact's lock."""
    began = time.monotonic()
    files = ask.listing(asked, found.commit)
    where = f"{asked.kind} {asked.name}"
    if asked.kind == "model":
        index = ask.index_of(asked, found.commit, files)
        choice = choose_model(files, ask.shards_of(index, asked), where)
    else:
        choice = choose_dataset(files, where)
    incoming = artifact.incoming(store)
    incoming.mkdir(parents=True, exist_ok=True)
    salvage(store / artifact.path, incoming, choice)
    if asked.kind == "model" and index and not (incoming / INDEX).exists():
        (incoming / INDEX).write_bytes(index)
    there = sum(Growing(file, incoming).present for file in choice.files)
    print(choice.table() + (f"\n  {amount(there):>9}  of it are here from before" if there else ""), flush=True)
    check_room(choice.size - there, store)
    entries = transfer(Order(asked, found.commit, choice.files, incoming), stall, spare)
    source = {"hub": host(), "repository": asked.name, "commit": found.commit, "reference": asked.revision or "main"}
    final = stored.publish(artifact, store, entries, {"source": source} | found.facts)
    stored.remember(artifact, store, asked.revision or "main")
    seconds = time.monotonic() - began
    digest = hash_file(final / stored.MANIFEST)
    print(
        f"{artifact}: {amount(choice.size)} verified in {clock(seconds)}, manifest {digest[:12]}: {final}", flush=True
    )
    tell("fetched", name=asked.name, revision=found.commit, bytes=choice.size, seconds=seconds, manifest=digest)
    return final


# ---- beforehand ----


def check_beforehand(asked: Asked, store: Path) -> None:
    """Everything that can be known without the hub. Raises InputError with all problems."""
    problems = []
    try:
        validate_repo_id(asked.name)
    except HFValidationError as error:
        fix = "write it as on the hub: owner/name"
        problems.append(problem(VARIABLES[asked.kind], asked.name, f"is no name of a hub ({error})", fix))
    parts = urlsplit(endpoint())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fix = "write http:// or https:// and a host, or unset it for the public hub"
        problems.append(problem("HF_ENDPOINT", shown_endpoint(), "is no address of a hub", fix))
    problems += store_problems(store)
    if problems:
        raise InputError(problems)


def store_problems(store: Path) -> list[str]:
    """Whether the store is, or can become, a directory that we may write to."""
    probe = store / f".probe-{os.getpid()}.tmp"
    try:
        store.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        return [problem("STORE", str(store), "is a file, not a directory", "give a directory: STORE=store")]
    except OSError as error:
        fix = "give a directory of yours with STORE=, or the right to write there"
        return [problem("STORE", str(store), f"cannot be written to ({error.strerror})", fix)]
    return []


def check_room(needed: int, store: Path) -> None:
    """Raises InputError where the files will not fit, before the first of them comes."""
    free = shutil.disk_usage(store).free
    if needed + ROOM_TO_SPARE > free:
        what = f"has {amount(free)} free, needed are {amount(needed)} and {amount(ROOM_TO_SPARE)} to spare"
        fix = "remove what no run uses (make models lists it), or give another STORE="
        raise InputError(problem("STORE", str(store), what, fix))


# ---- what is there already ----


def intact(directory: Path | None) -> Path | None:
    """The directory if its files have the sizes that were fetched, else None: it is fetched again."""
    files = stored.read_manifest(directory).get("files", {}) if directory else {}
    for name, entry in files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            print(f"{directory} is damaged ({name}); mending it", flush=True)
            return None
    return directory if files else None


def salvage(final: Path, incoming: Path, choice: Choice) -> None:
    """Take over what is whole in a directory that is damaged or has no manifest; every byte is hashed again."""
    for file in choice.files:
        old, new = final / file.name, incoming / file.name
        if old.is_file() and old.stat().st_size == file.size and not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.hardlink_to(old)
            except OSError:  # a file system without hard links: it is fetched again
                return


class Patience:
    """Says once who fetches what we wait for."""

    def __init__(self, artifact: stored.Artifact):
        self.artifact, self.told = artifact, ""

    def __call__(self, holder: str) -> None:
        if holder != self.told:
            self.told = holder
            print(f"{self.artifact} is being fetched by {holder}; waiting for it", flush=True)
