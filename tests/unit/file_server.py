"""A server of files on loopback that keeps ranges, counts what it sends, and misbehaves on demand."""

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files:
    """What is served, and how badly: `cuts` are bytes after which the next answers end, `busy` what is said first."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cuts: list[int] = []
        self.busy: list[tuple[int, str]] = []  # status, Retry-After
        self.ranges, self.lengths = True, True
        self.sent = 0
        self.asked: list[dict[str, str]] = []  # headers of each request
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    files: Files

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        files, path = self.files, self.path.partition("?")[0]
        files.asked.append(dict(self.headers))
        if files.busy:
            status, seconds = files.busy.pop(0)
            return self.say(status, {"Retry-After": seconds} if seconds else {})
        if path in files.redirects:
            return self.say(302, {"Location": files.redirects[path]})
        if path not in files.content:
            return self.say(404)
        content, start = files.content[path], 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and files.ranges:
            start = int(asked[1])
            if start >= len(content):
                return self.say(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if files.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        part = content[start:]
        if files.cuts:
            part = part[: files.cuts.pop(0)]
        self.wfile.write(part)
        files.sent += len(part)
        return None

    def say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def serve() -> Iterator[Files]:
    """The server, while the context lasts; its `address` is http://127.0.0.1:port."""
    files = Files()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"files": files}))
    files.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
