"""What is published, file by file: the result, the card, the proof, the licence's files; and its manifest."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.publish.origin import Origin
from train import checkpoint, stored

CARD, CURVE, PROOF, NOTICE = "README.md", "loss.png", "proof.json", "NOTICE"
# Of the result's own files: what the publication has its own of, or what belongs to the run alone.
LEFT_OUT = {CARD, CURVE, PROOF, stored.MANIFEST, checkpoint.MANIFEST, "merge.json", "base_model.json"}
# In these files of a model a path of the machine that trained may stand.
NAMING = {"adapter_config.json": "base_model_name_or_path", "config.json": "_name_or_path",
          "tokenizer_config.json": "name_or_path"}  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """`sources`: where each file's bytes are, a path or the bytes themselves; `files`: {"size", "sha256"} of each;
    `revision`: a digest over all of them; `manifest`: what tunefleet.json holds."""

    sources: dict[str, Path | bytes]
    files: dict[str, dict[str, Any]]
    revision: str
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest's own not counted."""
        return sum(entry["size"] for entry in self.files.values())

    def manifest_bytes(self) -> bytes:
        """tunefleet.json as it is written."""
        return (json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n").encode()


def collect(result: Path, entries: dict[str, dict], made: dict[str, bytes], legal: dict[str, Path]) -> dict:
    """Sources of all files: the result's (`entries` names them), the licence's, and those that were made in memory."""
    sources: dict[str, Path | bytes] = {name: result / name for name in entries if name not in LEFT_OUT}
    for name, path in legal.items():
        sources[name] = path
    return sources | made


def rename_base(result: Path, entries: dict[str, dict], base: Origin) -> dict[str, bytes]:
    """The small files that name the base by a path of the machine that trained, naming it as the card does."""
    made = {}
    for name, key in NAMING.items():
        content = stored.read_json(result / name) if name in entries else {}
        if content.get(key) and content[key] != base.name:
            content[key] = base.name
            if key == "base_model_name_or_path" and base.hub:
                content["revision"] = base.revision
            made[name] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    return made


def proof_of(merge: dict[str, Any], base: Origin) -> bytes:
    """The record of the merge for everyone: checks, hashes and versions, without the paths of one machine."""
    kept = {
        "base": {"name": base.name, "revision": base.revision, "files": merge["base"]["files"]},
        "adapter": {"files": merge["adapter"]["files"]},
        "merged": {name: entry for name, entry in merge["files"].items() if name.endswith(".safetensors")},
        "targets": merge.get("targets"),
        "checks": merge["checks"],
        "versions": merge.get("versions"),
    }
    return (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode()


def pack(name: str, sources: dict[str, Path | bytes], known: dict[str, dict], facts: dict[str, Any]) -> Contents:
    """Everything with its hashes and manifest; `known` holds the hashes of the files that were read already."""
    files = {
        file: known[file] if isinstance(source, Path) and file in known else entry_of(source)
        for file, source in sorted(sources.items())
    }
    text = "".join(f"{entry['sha256']}  {file}\n" for file, entry in files.items())
    revision = f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    artifact = stored.Artifact("model", name, revision)
    return Contents(dict(sorted(sources.items())), files, revision, stored.manifest(artifact, files, facts))


def entry_of(source: Path | bytes) -> dict[str, Any]:
    """Size and SHA-256 of a small file or of bytes."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
