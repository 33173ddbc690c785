"""What the hub of the tests knows and a test sees and changes: repositories, what goes wrong, what was sent."""

import fnmatch
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

LARGE = (".safetensors", ".bin", ".parquet", ".arrow", ".gguf", ".h5", ".pth", ".onnx", ".model")
LARGE_SIZE = 10 << 20
KINDS = ("models", "datasets")


@dataclass
class Fault:
    """What goes wrong, how often, and for which files ("*": the hub's questions too)."""

    kind: str  # drop, stall, answer, wrong, missing, whole (a Range is ignored)
    path: str = "*"
    times: int = 1
    after: int = 0  # bytes of the answer that are still right
    status: int = 503  # of answer
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"


@dataclass
class Blob:
    """The content of a file."""

    path: Path
    size: int
    sha256: str
    oid: str

    @property
    def large(self) -> bool:
        return self.path.suffix in LARGE or self.size > LARGE_SIZE

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class Repository:
    """A repository: its commits, and what its branches mean now."""

    settings: dict
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)

    def add(self, branch: str, directory: Path) -> str:
        """Let a branch mean what lies in a directory; returns the commit."""
        blobs = {
            str(path.relative_to(directory)): read_blob(path) for path in sorted(directory.rglob("*")) if path.is_file()
        }
        listing = json.dumps({name: blob.oid for name, blob in blobs.items()})
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = blobs
        self.refs[branch] = commit
        return commit

    def card(self, commit: str) -> dict:
        """The front matter of README.md."""
        readme = self.commits[commit].get("README.md")
        parts = readme.path.read_text().split("---") if readme else []
        return yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else {}


def read_blob(path: Path) -> Blob:
    """Size and hashes of a file; of a large one git holds a pointer only."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    blob = Blob(path, size, sha256, "")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    content = pointer if blob.large else path.read_bytes()
    blob.oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return blob


class Hub:
    """What the server knows, and what a test sees and changes."""

    def __init__(self, repositories: Path, rate: float | None = None, token: str | None = None):
        self.rate, self.token = rate, token
        self.repositories: dict[str, Repository] = {}  # models/owner/name
        self.faults: list[Fault] = []
        self.sent: Counter = Counter()  # bytes of content by file
        self.asked: Counter = Counter()  # requests by method and path
        self.log: list[tuple[float, str, str, str]] = []  # when, method, path, Authorization
        self.storage: str | None = None  # another server's address: large files are redirected there
        self.fast = False  # offer xet, from a storage that never answers
        self.endpoint = ""
        self.lock = threading.Lock()
        self.allowance, self.filled = 0.0, time.monotonic()
        self.closing = threading.Event()
        self.cuts = 0
        for home in sorted(path for kind in KINDS for path in (repositories / kind).glob("*/*")):
            about = home / "hub.json"
            repository = Repository(json.loads(about.read_text()) if about.exists() else {})
            for branch in sorted(path for path in home.iterdir() if path.is_dir()):
                repository.add(branch.name.replace("--", "/"), branch)
            self.repositories[str(home.relative_to(repositories))] = repository

    def cut(self) -> None:
        """Cut every connection that is sending a file now."""
        self.cuts += 1

    def total(self) -> int:
        """Bytes of content sent so far."""
        return sum(self.sent.values())

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, counted down."""
        with self.lock:
            for one in self.faults:
                if one.times > 0 and one.method in (method, "*") and fnmatch.fnmatch(path, one.path):
                    one.times -= 1
                    return one
        return None

    def wait_for_room(self, count: int) -> None:
        """Hold back until so many bytes may be sent: a token bucket of a twentieth of a second."""
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            self.allowance = min(self.allowance + (now - self.filled) * self.rate, self.rate / 20)
            self.filled = now
            self.allowance -= count
            seconds = -self.allowance / self.rate
        if seconds > 0:
            time.sleep(seconds)
