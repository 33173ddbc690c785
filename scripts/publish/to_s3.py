"""A publication under a prefix in S3: verified by scripts/s3, its manifest last: half of it counts as nothing."""

import json
import os
import shutil
from pathlib import Path

from scripts.publish.contents import Contents
from scripts.publish.objections import Objection, objection
from scripts.publish.targets import PublishFailed
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.objects import delete_objects, in_place, push, put_text, reached
from scripts.s3.trouble import S3Failed
from train import stored
from train.errors import InputError, problem

FIX = "give another prefix"
MARK = ".publishing.json"  # lies there first, and goes last: what is there was put by a publication, which may be cut


def look(place: str, contents: Contents) -> tuple[bool, list[Objection]]:
    """Whether just this publication is there already; and what is there instead.

    Raises InputError for objects that no publication made: nothing allows to replace those.
    """
    address = parse(place)
    try:
        client = reached(address)
        found = manifests.listing(client, address)
        there = manifests.in_bucket(client, address) if found else None
    except S3Failed as failed:
        raise PublishFailed(str(failed)) from None
    if not found:
        return False, []
    if there is None or there.name != stored.MANIFEST:
        if MARK in found:  # what a publication left that was cut: it goes on
            return False, []
        what = f"is not empty, and no publication lies there ({', '.join(sorted(found)[:3])}, …)"
        raise InputError(problem("TO", place, what, FIX))
    content = json.loads(there.text)
    if "published" not in content:
        raise InputError(problem("TO", place, f"holds a {content.get('kind')}, no publication", FIX))
    if there.files == contents.files:  # push sends again what is missing or of another size
        return MARK not in found and all(in_place(there, name, found) for name in there.files), []
    what = f"holds another publication, {content.get('name')} {content.get('revision')}"
    return False, [objection("replace", f"TO: {place}", what, FIX)]


def put(place: str, contents: Contents, run: Path) -> str:
    """Send everything and return what to tell of it. Raises InputError or PublishFailed."""
    staged = run / ".publish.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, source in contents.sources.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                path.write_bytes(source)
            else:
                link(source, path)
        (staged / stored.MANIFEST).write_bytes(contents.manifest_bytes())
        address = parse(place)
        client = reached(address)
        put_text(client, address, MARK, json.dumps({"revision": contents.revision}), {})
        push(staged, place)
        delete_objects(client, address, [MARK], {})
    except S3Failed as failed:
        raise PublishFailed(str(failed)) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return place


def link(source: Path, path: Path) -> None:
    """The same file under a second name; a copy where the file system or the file's place allows no link."""
    try:
        os.link(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)
