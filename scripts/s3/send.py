"""Bring files up: read once for their hashes, sent in parts where they are large, never twice where they are there."""

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.s3.address import Address
from scripts.s3.trouble import patiently
from train.errors import InputError, problem

MULTIPART = 64 << 20  # bytes from which a file goes in parts
PART = 16 << 20
MOST_PARTS = 9000  # S3 takes 10,000
BLOCK = 1 << 20


@dataclass(frozen=True)
class Read:
    """What reading a file once tells: its sha256, and the MD5 of each part that it is sent in."""

    size: int
    sha256: str
    parts: list[bytes]

    @property
    def etag(self) -> str:
        """The ETag that S3 gives these bytes when they are sent so; another one under encryption by KMS."""
        if self.size < MULTIPART:
            return self.parts[0].hex()
        return f"{md5(b''.join(self.parts)).hex()}-{len(self.parts)}"


def part_size(size: int) -> int:
    """Bytes of each part of a file, the last one excepted; the same for the same size, so that a cut upload goes on."""
    if size < MULTIPART:
        return max(size, 1)
    least = -(-size // MOST_PARTS)
    return max(PART, -(-least // BLOCK) * BLOCK)


def md5(data: bytes) -> bytes:
    """What S3 checks a body by on arrival; not a matter of safety, which sha256 is for."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def read(path: Path) -> Read:
    """Read a file for its hashes."""
    size = path.stat().st_size
    whole, parts, step = hashlib.sha256(), [], part_size(size)
    with path.open("rb") as file:
        while True:
            part, left = hashlib.md5(usedforsecurity=False), step
            while left and (block := file.read(min(BLOCK, left))):
                whole.update(block)
                part.update(block)
                left -= len(block)
            if left == step and parts:
                break
            parts.append(part.digest())
            if left:
                break
    return Read(size, whole.hexdigest(), parts)


class Sender:
    """Sends files to one bucket, `at_once` parts at a time; `tell` hears of what has to be waited for."""

    def __init__(self, client: Any, at_once: int, add: Callable[[int], None], patience: dict[str, Any]):
        self.client, self.add, self.patience = client, add, patience
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix="s3-part")
        self.fresh = 0  # bytes that were sent, not found there
        self.lock = threading.Lock()

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.pool.shutdown(cancel_futures=True)

    def send(
        self, path: Path, address: Address, name: str, wanted: dict[str, Any], there: tuple[int, str] | None
    ) -> Read:
        """Bring one file to `address`/`name`; returns what was read of it.

        Not sent again where `there` (size, ETag) is the same. Raises InputError where the file is not what the
        manifest says.
        """
        found = read(path)
        if found.size != wanted["size"] or found.sha256 != wanted.get("sha256", found.sha256):
            what = f"is not what its manifest says: {found.size} bytes, sha256 {found.sha256}"
            raise InputError(problem(path, "", what, "fetch or make it again; nothing was published"))
        if there == (found.size, found.etag):
            self.add(found.size)
        elif found.size < MULTIPART:
            self.put(path, address, name, found)
        else:
            self.put_parts(path, address, name, found)
        return found

    def put(self, path: Path, address: Address, name: str, found: Read) -> None:
        """A small file, in one request."""
        where = {"Bucket": address.bucket, "Key": address.key(name)}
        check = base64.b64encode(found.parts[0]).decode()

        def once() -> None:
            with path.open("rb") as file:
                self.client.put_object(**where, Body=file, ContentMD5=check, ContentLength=found.size)

        patiently(once, address / name, **self.patience)
        self.sent(found.size)

    def put_parts(self, path: Path, address: Address, name: str, found: Read) -> None:
        """A large file in parts, several at a time; what an interrupted upload brought there is kept."""
        where = {"Bucket": address.bucket, "Key": address.key(name)}
        asked = partial(patiently, where=address / name, **self.patience)
        upload, have = asked(lambda: self.find_upload(where, found))
        if upload is None:
            upload = asked(lambda: self.client.create_multipart_upload(**where)["UploadId"])
        numbers = range(1, len(found.parts) + 1)
        work = partial(self.put_part, path, where | {"UploadId": upload}, address / name, found, have)
        etags = list(self.pool.map(work, numbers))
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in zip(numbers, etags, strict=True)]

        def complete() -> None:
            try:
                self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
            except self.client.exceptions.NoSuchUpload:  # a try before this one did it, and its answer was lost
                if self.client.head_object(**where)["ContentLength"] != found.size:
                    raise

        asked(complete)

    def find_upload(self, where: dict[str, str], found: Read) -> tuple[str | None, dict[int, str]]:
        """An upload of this key that was cut, and the parts of it that are this file's: number -> ETag."""
        answer = self.client.list_multipart_uploads(Bucket=where["Bucket"], Prefix=where["Key"])
        uploads = [one for one in answer.get("Uploads", []) if one["Key"] == where["Key"]]
        for one in sorted(uploads, key=lambda one: one["Initiated"], reverse=True)[:1]:
            return one["UploadId"], dict(self.own_parts(where | {"UploadId": one["UploadId"]}, found))
        return None, {}

    def own_parts(self, upload: dict[str, str], found: Read) -> Iterator[tuple[int, str]]:
        """The parts that are there and hold this file's bytes, by their MD5."""
        asked = dict(upload)
        while True:
            answer = self.client.list_parts(**asked)
            for part in answer.get("Parts", []):
                number, etag = part["PartNumber"], part["ETag"].strip('"')
                if number <= len(found.parts) and etag == found.parts[number - 1].hex():
                    yield number, part["ETag"]
            if not answer.get("IsTruncated"):
                return
            asked["PartNumberMarker"] = answer["NextPartNumberMarker"]

    def put_part(
        self, path: Path, upload: dict[str, str], where: object, found: Read, have: dict[int, str], number: int
    ) -> str:
        """One part; returns its ETag."""
        step = part_size(found.size)
        size = min(step, found.size - (number - 1) * step)
        if number in have:
            self.add(size)
            return have[number]
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, (number - 1) * step)
        check = base64.b64encode(found.parts[number - 1]).decode()
        words = {"PartNumber": number, "Body": data, "ContentMD5": check}
        answer = patiently(lambda: self.client.upload_part(**upload, **words), where, **self.patience)
        self.sent(size)
        return answer["ETag"]

    def sent(self, size: int) -> None:
        """So many bytes more went over the network."""
        self.add(size)
        with self.lock:
            self.fresh += size
