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

from botocore.exceptions import ClientError

from scripts.s3.address import Address
from scripts.s3.trouble import S3Failed, patiently
from train.errors import InputError, problem

MULTIPART = 64 << 20  # bytes from which a file goes in parts
PART = 16 << 20
MOST_PARTS = 9000  # S3 takes 10,000
BLOCK = 1 << 20
GONE = ("NoSuchUpload", "InvalidPart")  # the second where parts went with it
UPLOADS = 3  # of one file, where each is ended by somebody else


class UploadGone(Exception):
    """Somebody has completed this upload, or given it up."""


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
        """A large file in parts; where somebody else has ended the upload meanwhile, it is begun anew."""
        for _ in range(UPLOADS):
            counted: list[int] = []
            try:
                return self.upload(path, address, name, found, counted)
            except UploadGone:  # by another push of the same, or by a try before this one whose answer was lost
                if self.there(address, name) == (found.size, found.etag):  # its size alone may be an older one's
                    return None
                self.add(-sum(counted))
        raise S3Failed(f"{address / name}: somebody else has ended its upload {UPLOADS} times")

    def upload(self, path: Path, address: Address, name: str, found: Read, counted: list[int]) -> None:
        """One upload, several parts at a time; what an interrupted one brought there is kept. Raises UploadGone."""
        where = {"Bucket": address.bucket, "Key": address.key(name)}
        asked = partial(patiently, where=address / name, **self.patience)
        upload, have = asked(lambda: self.find_upload(where, found))
        if upload is None:
            upload = asked(lambda: self.client.create_multipart_upload(**where)["UploadId"])
        numbers = range(1, len(found.parts) + 1)
        work = partial(self.put_part, path, where | {"UploadId": upload}, address / name, found, have, counted)
        etags = list(self.pool.map(work, numbers))
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in zip(numbers, etags, strict=True)]
        words = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
        answer = asked(lambda: self.of_upload(self.client.complete_multipart_upload, **where, **words))
        # Some servers (Versity) say yes to an upload that is gone where any object of that name lies.
        if self.there(address, name) != (found.size, answer["ETag"].strip('"')):
            raise UploadGone

    def there(self, address: Address, name: str) -> tuple[int, str] | None:
        """Size and ETag of an object, None where there is none."""
        asked = {"Bucket": address.bucket, "Prefix": address.key(name)}
        found = patiently(lambda: self.client.list_objects_v2(**asked), address / name, **self.patience)
        listed = {one["Key"]: (one["Size"], one["ETag"].strip('"')) for one in found.get("Contents", [])}
        return listed.get(address.key(name))

    def of_upload(self, call: Callable, **words: Any) -> Any:
        """The answer to a request about an upload. Raises UploadGone where there is no such upload any more."""
        try:
            return call(**words)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in GONE:
                raise UploadGone from None
            raise

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
            answer = self.of_upload(self.client.list_parts, **asked)
            for part in answer.get("Parts", []):
                number, etag = part["PartNumber"], part["ETag"].strip('"')
                if number <= len(found.parts) and etag == found.parts[number - 1].hex():
                    yield number, part["ETag"]
            if not answer.get("IsTruncated"):
                return
            asked["PartNumberMarker"] = answer["NextPartNumberMarker"]

    def put_part(
        self, path: Path, upload: dict[str, str], where: object, found: Read, have: dict[int, str],
        counted: list[int], number: int,
    ) -> str:  # fmt: skip
        """One part; returns its ETag."""
        step = part_size(found.size)
        size = min(step, found.size - (number - 1) * step)
        if number in have:
            self.add(size)
            counted.append(size)
            return have[number]
        with path.open("rb") as file:
            data = os.pread(file.fileno(), size, (number - 1) * step)
        check = base64.b64encode(found.parts[number - 1]).decode()
        words = {"PartNumber": number, "Body": data, "ContentMD5": check}
        put = partial(self.of_upload, self.client.upload_part, **upload, **words)
        answer = patiently(put, where, **self.patience)
        self.sent(size)
        counted.append(size)
        return answer["ETag"]

    def sent(self, size: int) -> None:
        """So many bytes more went over the network."""
        self.add(size)
        with self.lock:
            self.fresh += size
