"""A hub on loopback that speaks the protocol of huggingface_hub to the real client, and misbehaves when told to.

    python -m tests.hub.server REPOSITORIES [--host 127.0.0.1] [--port 0] [--rate BYTES_PER_SECOND] [--token TOKEN]

REPOSITORIES/<models or datasets>/<owner>/<name>/<branch>/…   the files; hub.json beside the branches may say
{"gated": "manual", "private": true, "let_in": ["token"]}. The licence is read from README.md, as the real hub does.
In a test: `with serve(repositories) as hub:` and then hub.endpoint, hub.faults, hub.sent, hub.log.
"""

import argparse
import contextlib
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.state import KINDS, Blob, Hub, Repository

PIECE = 64 << 10


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def setup(self) -> None:
        # Small, so that what was counted as sent has nearly arrived when a client is killed.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Find out what is asked, and whether something goes wrong with it."""
        parts = urlsplit(self.path)
        words = [unquote(word) for word in parts.path.strip("/").split("/")]
        path = "/".join(words)
        self.fault = self.hub.fault(self.command, path)
        with self.hub.lock:
            self.hub.asked[self.command, path] += 1
            self.hub.log.append((time.monotonic(), self.command, path, self.headers.get("Authorization", "")))
        if self.fault and self.fault.kind == "answer":
            self.reply(self.fault.status, {}, self.fault.headers)
        elif words[0] == "stalled" or (self.fault and self.fault.kind == "stall" and words[0] == "api"):
            self.hub.closing.wait()
        elif words[0] == "api" and len(words) > 3:
            self.question(words[1], "/".join(words[2:4]), words[4:], parse_qs(parts.query))
        elif "resolve" in words:
            at = words.index("resolve")
            kind = words[0] if words[0] in KINDS else "models"
            self.file(kind, "/".join(words[at - 2 : at]), words[at + 1], "/".join(words[at + 2 :]))
        elif words[0] == "storage":
            self.content(self.blob(words[1]), "/".join(words[2:]))
        else:
            self.refuse(404, "", "Not found")

    # ---- questions ----

    def question(self, kind: str, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
        """The hub's API: a revision, its files, its branches."""
        repository = self.hub.repositories.get(f"{kind}/{name}")
        if not self.admitted(repository, reading=False):
            return
        if rest[:1] == ["refs"]:
            branches = [
                {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in repository.refs.items()
            ]
            self.reply(200, {"branches": branches, "tags": [], "converts": []})
            return
        if rest[:1] == ["xet-read-token"]:
            connection = {"X-Xet-Cas-Url": f"{self.hub.endpoint}/stalled", "X-Xet-Access-Token": "t",
                          "X-Xet-Token-Expiration": str(int(time.time()) + 3600)}  # fmt: skip
            self.reply(200, {}, connection)
            return
        commit = self.commit(repository, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return
        blobs = repository.commits[commit]
        if rest[:1] == ["tree"]:
            self.reply(200, [self.entry(path, blob) for path, blob in blobs.items()])
            return
        settings = {key: repository.settings.get(key, False) for key in ("gated", "private")}
        about = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in blobs]}
        self.reply(200, about | settings | {"cardData": repository.card(commit)})

    def entry(self, path: str, blob: Blob) -> dict:
        """A file in a listing."""
        entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
        return entry

    def admitted(self, repository: Repository | None, reading: bool) -> bool:
        """Whether the caller may go on; says no by itself. Questions about a gated repository are open to all."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and self.hub.token and given != self.hub.token:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return False
        if repository is None or (repository.settings.get("private") and not given):
            self.refuse(401 if not given else 404, "RepoNotFound", "Repository not found")
            return False
        if reading and repository.settings.get("gated") and given not in repository.settings.get("let_in", []):
            self.refuse(403 if given else 401, "GatedRepo", "Access to this repository is restricted")
            return False
        return True

    def commit(self, repository: Repository, revision: str) -> str | None:
        """The commit that a revision means; says by itself that there is none."""
        commit = repository.refs.get(revision) or (revision if revision in repository.commits else None)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # ---- files ----

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        """A file of a repository, or where it lies."""
        repository = self.hub.repositories.get(f"{kind}/{name}")
        if not self.admitted(repository, reading=True):
            return
        commit = self.commit(repository, revision)
        if commit is None:
            return
        blob = repository.commits[commit].get(path)
        if blob is None or (self.fault and self.fault.kind == "missing"):
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        about = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if blob.large:
            about |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"'}
            if self.hub.fast:
                route = f"{self.hub.endpoint}/api/{kind}/{name}/xet-read-token/{commit}"
                about |= {"X-Xet-Hash": blob.sha256, "X-Xet-Refresh-Route": route}
            if self.hub.storage:
                self.reply(302, {}, about | {"Location": f"{self.hub.storage}/storage/{blob.sha256}/{path}"})
                return
        self.content(blob, path, about)

    def blob(self, sha256: str) -> Blob | None:
        """A large file by its content, as a storage host knows it."""
        blobs = [
            blob for one in self.hub.repositories.values() for files in one.commits.values() for blob in files.values()
        ]
        return next((blob for blob in blobs if blob.sha256 == sha256), None)

    def content(self, blob: Blob | None, path: str, about: dict[str, str] | None = None) -> None:
        """A file's bytes, or those behind an offset."""
        if blob is None:
            self.refuse(404, "", "Not found")
            return
        wanted = "" if self.fault and self.fault.kind == "whole" else self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
        if first > blob.size:
            self.refuse(416, "", "Range not satisfiable")
            return
        self.send_response(206 if wanted else 200)
        for key, value in (about or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(blob.size - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{blob.size - 1}/{blob.size}")
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(ConnectionError):
                self.stream(blob, path, first)

    def stream(self, blob: Blob, path: str, first: int) -> None:
        """Send bytes as fast as the rate allows, until the end or the fault."""
        kind = self.fault.kind if self.fault else ""
        end = min(first + self.fault.after, blob.size) if kind in ("drop", "stall") else blob.size
        with blob.path.open("rb") as source:
            at, cuts = first, self.hub.cuts
            while at < end:
                if self.hub.cuts != cuts:
                    end = at
                    break
                count = min(PIECE, end - at)
                self.hub.wait_for_room(count)
                if kind == "wrong" and at == first:
                    count = self.connection.send(bytes([source.read(1)[0] ^ 1]))
                else:
                    count = os.sendfile(self.connection.fileno(), source.fileno(), at, count)
                at += count
                with self.hub.lock:
                    self.hub.sent[path] += count
        if kind == "stall" and end < blob.size:
            self.hub.closing.wait()
        if end < blob.size:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    # ---- answers ----

    def reply(self, status: int, content: object, headers: dict[str, str] | Message | None = None) -> None:
        """An answer in JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        """A refusal as the hub words it."""
        self.reply(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message} | (headers or {}))


class Server(ThreadingHTTPServer):
    """Connections that a client leaves are its own affair."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: socketserver.BaseRequestHandler, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serve(
    repositories: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    rate: float | None = None,
    token: str | None = None,
) -> Iterator[Hub]:
    """A hub of these repositories for as long as the context lasts."""
    hub = Hub(repositories, rate, token)
    server = Server((host, port), type("Bound", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, help="bytes a second, all connections together")
    parser.add_argument("--token", help="the only token that is not refused")
    given = parser.parse_args()
    with serve(given.repositories, given.host, given.port, given.rate, given.token) as hub:
        print(hub.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
