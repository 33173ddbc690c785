"""What make deliver sends: a model or a data set of the local store, or a directory or file of this machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import stored
from train.errors import InputError, problem
from train.files import hash_file

NOT_SENT = ("run.json", "train.yaml")  # what training leaves beside a model and no model needs
WORDS = {"model": "MODEL", "dataset": "DATA"}


@dataclass(frozen=True)
class Parcel:
    """A model or data set ready to be sent: its manifest, where each file lies here, and what else it is called."""

    manifest: dict[str, Any]
    paths: dict[str, Path]
    references: list[str]
    listed: bool  # the manifest was there before: a file that does not fit it is damaged

    @property
    def artifact(self) -> stored.Artifact:
        """Kind, name and revision."""
        return stored.Artifact(self.manifest["kind"], self.manifest["name"], self.manifest["revision"])

    @property
    def files(self) -> dict[str, dict]:
        """name -> {"size": bytes, "sha256": hex}"""
        return self.manifest["files"]

    @property
    def size(self) -> int:
        """All bytes."""
        return sum(entry["size"] for entry in self.files.values())

    def damaged(self, name: str, what: str) -> InputError:
        """What to say of a file that is not what the manifest says."""
        word = WORDS[self.artifact.kind]
        if not self.listed:
            fix = "the same command again"
            return InputError(problem(self.paths[name], "", f"{what}: it was changed meanwhile", fix))
        say = f"{word.lower()} {word}={self.artifact.name}"
        fix = f"make verify-{say} names all that is wrong, make fetch-{say} mends it"
        return InputError(problem(self.paths[name], "", what, fix))


def find_parcel(kind: str, given: str, revision: str | None, store: Path | None) -> Parcel:
    """What was asked for. Raises InputError where it is neither in the store nor a path, or is not whole."""
    directory = stored.find(store, kind, given, revision)
    if directory:
        return from_store(kind, directory, revision)
    path = Path(given).expanduser()
    if path.exists() and not revision:
        return from_path(kind, path)
    word = WORDS[kind]
    there = names_in(store, kind)
    what = f"{given}{f' in revision {revision}' if revision else ''} is not in the store {store or '(none: STORE=)'}"
    has = ", ".join(there) or "nothing"
    fix = f"make fetch-{word.lower()} {word}={given} first, or give a path; the store has: {has}"
    raise InputError(problem(word, "", what, fix))


def names_in(store: Path | None, kind: str) -> list[str]:
    """What the store holds of this kind: name@revision."""
    found = [stored.read_manifest(path) for path in (stored.published(store) if store else [])]
    return [f"{one['name']}@{one['revision'][:12]}" for one in found if one.get("kind") == kind]


def from_store(kind: str, directory: Path, revision: str | None) -> Parcel:
    """A published directory, whose files must have the sizes that its manifest says."""
    manifest = stored.read_manifest(directory)
    home = next(above for above in directory.parents if (above / stored.REFS).exists() or above == directory.parent)
    known = stored.read_json(home / stored.REFS)
    references = [name for name, commit in known.items() if commit == manifest["revision"]]
    references += ["main"] if revision is None and "main" not in references else []
    parcel = Parcel(manifest, {name: directory / name for name in manifest["files"]}, references, True)
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise parcel.damaged(name, "is missing, and the manifest beside it lists it")
        if path.stat().st_size != entry["size"]:
            has = path.stat().st_size
            raise parcel.damaged(name, f"has {has:,} bytes, and {entry['size']:,} by the manifest beside it")
    return parcel


def from_path(kind: str, path: Path) -> Parcel:
    """A directory or a file that no fetch brought: its manifest is made now, its revision is its content's hash."""
    if path.is_file():
        paths = {path.name: path}
    else:
        paths = {
            str(one.relative_to(path)): one
            for one in sorted(path.rglob("*"))
            if one.is_file() and not any(part.startswith(".") for part in one.relative_to(path).parts)
        }
        paths = {name: one for name, one in paths.items() if name not in (*NOT_SENT, stored.MANIFEST)}
    word = WORDS[kind]
    if not paths:
        raise InputError(problem(word, str(path), "holds no file", "give the directory with the model or the rows"))
    if kind == "model" and "config.json" not in paths:
        raise InputError(problem(word, str(path), "is no model: config.json is missing", "give a model's directory"))
    files = {name: {"size": one.stat().st_size, "sha256": hash_file(one)} for name, one in paths.items()}
    name = path.resolve().stem if path.is_file() else path.resolve().name
    artifact = stored.Artifact(kind, name, f"sha256-{content_digest(files)[:16]}")
    facts = {"source": {"path": path.name}, "licence": None}
    return Parcel(stored.manifest(artifact, files, facts), paths, ["main"], False)


def content_digest(files: dict[str, dict]) -> str:
    """One hash for a file or a whole directory: a single file's own, else of all names and hashes."""
    if len(files) == 1:
        return next(iter(files.values()))["sha256"]
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
