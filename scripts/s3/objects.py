"""Whole directories to S3 and back: in parallel, verified, going on where they were cut, the manifest last.

python -m scripts.s3.objects push DIRECTORY s3://bucket/prefix     a directory, or a store's model or data set
python -m scripts.s3.objects pull s3://bucket/prefix DIRECTORY     whole or not at all
python -m scripts.s3.objects list s3://bucket/prefix               what lies there, and what is not whole
python -m scripts.s3.objects check s3://bucket/prefix              read every byte there, and compare
python -m scripts.s3.objects delete s3://bucket/prefix [--yes]     one directory or run, manifests first
Credentials, endpoint and region come from the environment: scripts/s3/client.py lists the variables.
"""

import argparse
import base64
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.s3 import manifest as manifests
from scripts.s3.address import Address, parse
from scripts.s3.client import connect
from scripts.s3.look import check, show
from scripts.s3.manifest import Manifest
from scripts.s3.receive import Receiver, bytes_here
from scripts.s3.send import Sender, md5, read
from scripts.s3.trouble import S3Failed, patiently
from scripts.transfer_view import View, amount
from train.errors import InputError, problem, run_program
from train.files import sync

AT_ONCE = 8  # requests
FILES = 4  # files that are read for their hashes
FIRST_SECONDS = 20.0  # for the very first answer, so that a wrong address is known soon
ROOM = 64 << 20  # bytes that stay free


def exists(url: str) -> bool:
    """Whether something whole lies at this address: its manifest is there."""
    return manifests.in_bucket(reached(parse(url)), parse(url)) is not None


def push(directory: Path, url: str) -> None:
    """Bring a directory to an address, its manifest last; what is there already is not sent again.

    Raises InputError for what the user gave, S3Failed where the server stays away; the same again goes on.
    """
    address = parse(url)
    if not directory.is_dir():
        raise InputError(problem(directory, "", "is no directory", "give the directory that is to be pushed"))
    own = manifests.of_directory(directory) or manifests.make(directory)
    client = reached(address)
    with View(f"to {address}", own.size) as view:
        fresh = push_files(client, directory, own, address, AT_ONCE, view.add, {"tell": view.say})
    print(f"{address}: {len(own.files)} files, {amount(own.size)}, {amount(fresh)} of them sent now", file=sys.stderr)


def push_files(
    client: Any, directory: Path, own: Manifest, address: Address, at_once: int, add: Any, patience: dict[str, Any],
    before_last: Any = lambda: None,
) -> int:  # fmt: skip
    """The work of push; returns the bytes that were sent. `before_last` is called when only the manifest is missing."""
    there = manifests.listing(client, address, **patience)
    old = manifests.in_bucket(client, address, **patience) if set(manifests.NAMES) & set(there) else None
    if old and all(in_place(old, name, there) for name in old.files) and same(old, own, directory, there):
        add(own.size)
        return 0
    if old:
        delete_objects(client, address, [old.name], patience)  # from here on nothing whole is there
    with Sender(client, at_once, add, patience) as sender, ThreadPoolExecutor(FILES) as files:
        jobs = {
            name: files.submit(sender.send, directory / name, address, name, entry, there.get(name))
            for name, entry in own.files.items()
        }
        try:
            sent = {name: job.result() for name, job in jobs.items()}
        except BaseException:
            files.shutdown(wait=False, cancel_futures=True)
            raise
    if old:
        delete_objects(client, address, sorted(set(old.files) - set(own.files)), patience)
    if own.text is None:
        listed = {name: {"size": one.size, "sha256": one.sha256} for name, one in sent.items()}
        head = {"kind": "directory", "made": datetime.now(UTC).isoformat(timespec="seconds")}
        own = replace(own, files=listed, text=json.dumps(head | {"files": listed}, indent=1, ensure_ascii=False) + "\n")
    before_last()
    put_text(client, address, own.name, own.text, patience)
    return sender.fresh


def same(old: Manifest, own: Manifest, directory: Path, there: dict[str, tuple[int, str]]) -> bool:
    """Whether a directory is what a manifest says; one without a manifest of its own is read for that."""
    if own.text:
        return own.files == old.files
    if own.files.keys() != old.files.keys():
        return False
    found = ((name, read(directory / name)) for name in old.files)
    return all(one.sha256 == old.files[name]["sha256"] and there[name] == (one.size, one.etag) for name, one in found)


def in_place(old: Manifest, name: str, there: dict[str, tuple[int, str]]) -> bool:
    """Whether an object that a manifest names is there in its size."""
    return there.get(name, (-1, ""))[0] == old.files[name]["size"]


def pull(url: str, directory: Path, keep_manifest: bool = True) -> None:
    """Bring what lies at an address here, as a directory that appears whole or not at all.

    Raises InputError where nothing whole lies there, where there is no room, or where `directory` holds other things.
    """
    address = parse(url)
    client = reached(address)
    found = manifests.in_bucket(client, address)
    if found is None:
        raise InputError(manifests.nothing_whole(client, address))
    with View(f"from {address}", found.size) as view:
        pull_files(client, address, found, directory, view.add, {"tell": view.say}, keep_manifest)
    print(f"{directory}: {len(found.files)} files, {amount(found.size)}, every sha256 verified", file=sys.stderr)


def pull_files(
    client: Any, address: Address, found: Manifest, directory: Path, add: Any, patience: dict[str, Any],
    keep_manifest: bool = True,
) -> None:  # fmt: skip
    """The work of pull: into a hidden directory beside, renamed when all of it is right."""
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    if directory.exists():
        here = manifests.of_directory(directory) if directory.is_dir() else None
        if here and here.files == found.files:
            add(found.size)
            return
        raise InputError(problem(directory, "", "is there, and holds other things", "give another directory"))
    incoming = directory.with_name(f".{directory.name}.incoming")
    incoming.mkdir(parents=True, exist_ok=True)
    check_room(incoming, found, directory)
    with Receiver(client, address, AT_ONCE, add, patience) as receiver, ThreadPoolExecutor(FILES) as files:
        jobs = [files.submit(receiver.receive, name, incoming / name, entry) for name, entry in found.files.items()]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            files.shutdown(wait=False, cancel_futures=True)
            raise
    if keep_manifest:
        (incoming / found.name).write_text(found.text)
        sync(incoming / found.name)
    sync(incoming)
    incoming.rename(directory)
    sync(directory.parent)


def check_room(incoming: Path, found: Manifest, directory: Path) -> None:
    """Raise InputError where the files will not fit, before the first byte."""
    free = shutil.disk_usage(incoming).free
    needed = found.size - sum(bytes_here(incoming / name, entry) for name, entry in found.files.items())
    if needed + ROOM > free:
        what = f"{amount(needed)} more are needed, and {amount(free)} are free"
        raise InputError(problem(directory, "", what, "free some room, or give a directory on another file system"))


def delete(url: str, yes: bool = True) -> None:
    """Take away what lies at an address, a directory or a run, manifests first, so that nobody sees half of it.

    Raises InputError where neither is there, or where `yes` is missing and nobody says it.
    """
    address = parse(url)
    client = reached(address)
    there = manifests.listing(client, address)
    if not {*manifests.NAMES, "run.json"} & set(there):
        raise InputError(manifests.nothing_whole(client, address))
    size = amount(sum(size for size, _ in there.values()))
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(problem(address, "", "deleting needs a yes", "say --yes"))
        if input(f"delete {address} ({size}) for good? Type its last word: ").strip() != url.rstrip("/").split("/")[-1]:
            print("nothing deleted")
            return
    first = sorted(name for name in there if name.rpartition("/")[2] in manifests.NAMES)
    delete_objects(client, address, first + sorted(set(there) - set(first)), {})
    print(f"deleted {address} ({size})", file=sys.stderr)


def delete_objects(client: Any, address: Address, names: list[str], patience: dict[str, Any]) -> None:
    """Delete objects one after the other, in this order."""
    for name in names:
        key = address.key(name)
        patiently(lambda key=key: client.delete_object(Bucket=address.bucket, Key=key), address / name, **patience)


def put_text(client: Any, address: Address, name: str, text: str, patience: dict[str, Any]) -> None:
    """A small object."""
    put_bytes(client, address, name, text.encode(), patience)


def put_bytes(client: Any, address: Address, name: str, body: bytes, patience: dict[str, Any]) -> None:
    """An object in one request, with its MD5, which the server checks."""
    check = base64.b64encode(md5(body)).decode()
    words = {"Bucket": address.bucket, "Key": address.key(name), "Body": body, "ContentMD5": check}
    patiently(lambda: client.put_object(**words), address / name, **patience)


def reached(address: Address) -> Any:
    """A client that has had an answer from this bucket. Raises InputError or S3Failed where there is none."""
    client = connect()
    asked = {"Bucket": address.bucket, "Prefix": address.below, "MaxKeys": 1}
    patiently(lambda: client.list_objects_v2(**asked), address, seconds=FIRST_SECONDS)
    return client


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("push", "pull", "list", "check", "delete"):
        words = {"push": ("directory", "url"), "pull": ("url", "directory")}.get(name, ("url",))
        action = actions.add_parser(name)
        for word in words:
            action.add_argument(word, type=Path if word == "directory" else str)
        if name == "delete":
            action.add_argument("--yes", action="store_true", help="ask no question")
    given = parser.parse_args()
    try:
        if given.action == "push":
            push(given.directory, given.url)
        elif given.action == "pull":
            pull(given.url, given.directory)
        elif given.action == "delete":
            delete(given.url, given.yes)
        else:
            return (show if given.action == "list" else check)(reached(parse(given.url)), parse(given.url))
    except S3Failed as failed:
        print(
            f"error: {failed}; is the address right? The same command goes on where this one stopped", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    run_program(main)
