"""A kubectl whose proxy serves what FAKE holds: paths.json, {path: [HTTP status, answer]}; "slow" is a path that hangs.

While FAKE has `absent`, there is no proxy. What is asked of kubectl itself is answered {"by": "kubectl"}. Every call is
noted in calls, and what the proxy is asked in asked.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

HERE = Path(os.environ["FAKE"])


class Answers(BaseHTTPRequestHandler):
    """The API server behind the proxy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer by path."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with (HERE / "asked").open("a") as file:
            file.write(f"{self.command} {self.path} {body}\n")
        if self.path == "/slow":
            time.sleep(5)
        status, answer = json.loads((HERE / "paths.json").read_text()).get(self.path, [200, {}])
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def address_string(self) -> str:
        """Nobody's: a Unix socket has none."""
        return ""

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingMixIn, UnixStreamServer):
    """Several questions at a time."""

    daemon_threads = True


def main() -> int:
    words = sys.argv[1:]
    with (HERE / "calls").open("a") as file:
        file.write(" ".join(words[2:4]) + "\n")
    if "proxy" not in words:
        print('{"by": "kubectl"}')
        return 0
    if (HERE / "absent").exists():
        return 1
    (HERE / "pid").write_text(str(os.getpid()))
    with Server(words[-1], Answers) as server:
        print("Starting to serve on", words[-1], flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
