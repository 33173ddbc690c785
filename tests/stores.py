"""Stores as fetches leave them, for the tests of what looks into one."""

from pathlib import Path

from train import stored
from train.files import hash_file

FIRST, SECOND = "a" * 40, "b" * 40


def put(store: Path, kind: str, name: str, revision: str, files: dict[str, bytes], reference: str = "main") -> Path:
    """Publish a model or data set as a fetch does; returns its directory."""
    artifact = stored.Artifact(kind, name, revision)
    incoming = artifact.incoming(store)
    for file, content in files.items():
        (incoming / file).parent.mkdir(parents=True, exist_ok=True)
        (incoming / file).write_bytes(content)
    listed = {file: {"size": len(content), "sha256": hash_file(incoming / file)} for file, content in files.items()}
    directory = stored.publish(artifact, store, listed, {"source": "a test", "licence": "apache-2.0"})
    stored.remember(artifact, store, reference)
    return directory


def put_model(store: Path, name: str, revision: str, model: Path) -> Path:
    """Publish the model of a directory."""
    return put(store, "model", name, revision, {path.name: path.read_bytes() for path in model.iterdir()})
