"""What lies in a bucket, and whether it is what was pushed: for people."""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scripts.s3 import manifest as manifests
from scripts.s3.address import Address
from scripts.s3.trouble import patiently
from scripts.transfer_view import View, amount
from train.errors import InputError

READERS = 8


def whole_directories(client: Any, address: Address) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """What lies under an address: each whole directory with its files and bytes; the rest, by object, with bytes."""
    there = {name: size for name, (size, _) in manifests.listing(client, address).items()}
    whole, claimed = {}, set()
    for name in sorted(there, key=lambda one: (-one.count("/"), one)):
        folder, _, last = name.rpartition("/")
        if last not in manifests.NAMES or name in claimed:
            continue
        found = manifests.in_bucket(client, address / folder if folder else address)
        names = [f"{folder}/{file}".lstrip("/") for file in found.files] if found else []
        if found and all(
            there.get(one) == found.files[file]["size"] for one, file in zip(names, found.files, strict=True)
        ):
            whole[folder or "."] = (len(names), found.size)
            claimed |= {name, *names}
    return whole, {name: size for name, size in there.items() if name not in claimed}


def show(client: Any, address: Address) -> int:
    """Print what lies under an address."""
    whole, rest = whole_directories(client, address)
    for name, (files, size) in sorted(whole.items()):
        print(f"{amount(size):>10}  {files:>5} files  {name}")
    for name, size in sorted(rest.items()):
        print(f"{amount(size):>10}  an object    {name}")
    print(f"{address}: {len(whole)} whole directories, {len(rest)} other objects")
    return 0


def check(client: Any, address: Address) -> int:
    """Read every byte of what lies at an address; 1 where something is not what was pushed."""
    found = manifests.in_bucket(client, address)
    if found is None:
        raise InputError(manifests.nothing_whole(client, address))
    with View(f"check {address}", found.size) as view, ThreadPoolExecutor(READERS) as pool:
        sums = dict(
            zip(found.files, pool.map(lambda name: remote_hash(client, address, name, view), found.files), strict=True)
        )
    wrong = [name for name, entry in found.files.items() if sums[name] != entry["sha256"]]
    for name in wrong:
        print(f"{address / name}: {'is missing' if sums[name] is None else 'is not what was pushed'}", file=sys.stderr)
    print(f"{address}: {len(found.files) - len(wrong)} of {len(found.files)} files are what was pushed")
    return 1 if wrong else 0


def remote_hash(client: Any, address: Address, name: str, view: View) -> str | None:
    """The sha256 of an object's bytes, None where it is not there."""

    def once() -> str | None:
        digest, read = hashlib.sha256(), 0
        try:
            for block in client.get_object(Bucket=address.bucket, Key=address.key(name))["Body"].iter_chunks(1 << 20):
                digest.update(block)
                read += len(block)
                view.add(len(block))
        except client.exceptions.NoSuchKey:
            return None
        except BaseException:
            view.add(-read)
            raise
        return digest.hexdigest()

    return patiently(once, address / name, tell=view.say)
