"""A hub that takes uploads, on loopback: who one is, new repositories, LFS in one piece, commits, and the listing.

What huggingface_hub 2.4 asks when it commits (HF_HUB_DISABLE_XET=1). It can refuse and spoil on demand.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".png")


@dataclass
class Hub:
    """What it holds and how it behaves. A repository is a list of commits: (identifier, {path: bytes})."""

    role: str = "write"
    user: str = "ann"
    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    refuse: tuple[str, int] | None = None  # part of a path, and the status it is answered with
    spoil: str = ""  # the file that ends up with other bytes
    address: str = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Make a commit with these files; returns its identifier."""
        history = self.repositories.setdefault(name, [])
        text = f"{name} {len(history)} {sorted(files)}"
        history.append((hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), files))
        return history[-1][0]

    def files(self, name: str) -> dict[str, bytes]:
        """The newest state of a repository."""
        return self.repositories[name][-1][1]


class Handler(BaseHTTPRequestHandler):
    """One request; the hub is the server's."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes) -> None:
        """Find what was asked for."""
        hub: Hub = self.server.hub
        path = self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        if hub.refuse and hub.refuse[0] in path:
            return self.reply(hub.refuse[1], {"error": "not today"})
        if path.startswith("/lfs/"):
            hub.objects[path.removeprefix("/lfs/")] = body
            return self.reply(200, {})
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.reply(401, {"error": "Invalid username or password."})
        if path == "/api/whoami-v2":
            token = {"displayName": "test", "role": hub.role}
            return self.reply(200, {"type": "user", "name": hub.user, "orgs": [{"name": "guild"}],
                                    "auth": {"type": "access_token", "accessToken": token}})  # fmt: skip
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(hub, json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(hub, json.loads(body))
        parts = path.removeprefix("/api/models/").split("/")
        return self.repository(hub, "/".join(parts[:2]), parts[2:], body)

    def create(self, hub: Hub, wanted: dict) -> None:
        """A new repository, with the hub's own first commit."""
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in hub.repositories:
            return self.reply(409, {"error": "You already created this model repo", "url": f"{hub.address}/{name}"})
        hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        hub.private[name] = wanted.get("visibility") == "private" or wanted.get("private") is True
        return self.reply(200, {"url": f"{hub.address}/{name}", "name": name})

    def batch(self, hub: Hub, wanted: dict) -> None:
        """Where to put large files; nowhere for those that are there."""
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in hub.objects
               else {"actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}})
            for one in wanted["objects"]
        ]  # fmt: skip
        self.reply(200, {"transfer": "basic", "objects": objects})

    def repository(self, hub: Hub, name: str, words: list[str], body: bytes) -> None:
        """Questions about one repository."""
        if name not in hub.repositories:
            return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        commit, files = hub.repositories[name][-1]
        if words[:1] == ["tree"]:
            return self.reply(200, [entry(path, content) for path, content in files.items()])
        if words[:1] == ["preupload"]:
            found = [{"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                      "shouldIgnore": False} for one in json.loads(body)["files"]]  # fmt: skip
            return self.reply(200, {"files": found})
        if words[:1] == ["commit"]:
            return self.commit(hub, name, dict(files), commit, body)
        return self.reply(200, {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def commit(self, hub: Hub, name: str, files: dict[str, bytes], parent: str, body: bytes) -> None:
        """A commit; refused where its parent is not the newest one."""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                hub.messages.append(value["summary"])
                if value.get("parentCommit") not in (None, parent):
                    return self.reply(412, {"error": "A commit has happened since."})
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        if hub.spoil:
            files[hub.spoil] += b" "
        new = hub.commit(name, files)
        return self.reply(200, {"success": True, "commitOid": new, "commitUrl": f"{hub.address}/{name}/commit/{new}"})

    def reply(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def entry(path: str, content: bytes) -> dict:
    """A file as the hub lists it: git's identifier, and of a large one the sha256 too."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {"type": "file", "path": path, "size": len(content), "oid": git} | (
        {"lfs": large} if path.endswith(LARGE) else {}
    )


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub on a free port; its address is in hub.address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub, hub.address = hub, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
