"""A parcel under a prefix of an S3 bucket, as a store has it: the manifest last, then what its references mean."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from scripts.deliver_parcel import Parcel
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.objects import push, put_text, reached
from train import stored
from train.files import write_json

LOCKS = Path(__file__).resolve().parents[1] / "build" / "delivered"


def deliver_to_s3(parcel: Parcel, url: str) -> None:
    """Bring it there and say where it lies. Raises InputError, or S3Failed where the server stays away."""
    home = parse(url) / str(parcel.artifact.path.parent)
    revision = parcel.artifact.revision
    with tempfile.TemporaryDirectory() as temporary:
        # Links, so that what came from a path has a manifest beside it too.
        directory = Path(temporary, revision)
        directory.mkdir()
        for name, path in parcel.paths.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).symlink_to(path.resolve())
        write_json(directory / stored.MANIFEST, parcel.manifest)
        push(directory, str(home / revision))
    client = reached(home)
    with stored.lock(replace(parcel.artifact, revision="refs"), LOCKS):  # S3 has none: it serves for this machine alone
        known = json.loads(manifests.read_text(client, home, stored.REFS) or "{}")
        wanted = known | {name: revision for name in parcel.references if name != revision}
        if wanted != known:
            put_text(client, home, stored.REFS, json.dumps(wanted, indent=1) + "\n", {})
    print(f"lies at {home / revision}")
