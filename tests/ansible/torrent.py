"""A BitTorrent swarm for the benchmark: aria2 on every node, a tracker here. BEP 3, as far as aria2 needs it."""

import hashlib
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.ansible.cluster import Cluster

PIECE = 1 << 18
FLAGS = (
    "--quiet --enable-dht=false --enable-dht6=false --bt-enable-lpd=false --enable-peer-exchange=true "
    "--file-allocation=none --check-integrity=true --bt-max-peers=0 --bt-tracker-interval=2 --listen-port=6881"
)


def spread(cluster: Cluster, names: list[str], path: Path, directory: str) -> None:
    """The file to every node; returns when the last one has it whole."""
    host = "10.77.0.1"  # the workstation's end of the testbed's bridge
    tracker = ThreadingHTTPServer((host, 0), Tracker)
    tracker.peers = set()
    threading.Thread(target=tracker.serve_forever, daemon=True).start()
    meta = path.with_suffix(".torrent")
    meta.write_bytes(torrent_file(path, f"http://{host}:{tracker.server_port}/announce"))
    seeder = ["aria2c", *FLAGS.split(), "--seed-ratio=0", f"--dir={path.parent}", f"--interface={host}", str(meta)]
    seed = subprocess.Popen(seeder)
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: fetch(cluster, name, meta, directory, path.name), names))
    finally:
        seed.terminate()
        seed.wait()
        tracker.shutdown()
        cluster.on_all(names, f"pkill aria2c; rm -f {directory}/{path.name}.aria2 {directory}/bench.*; true")


def fetch(cluster: Cluster, name: str, meta: Path, directory: str, file: str) -> None:
    """Take part until the file is whole here, and then go on giving."""
    subprocess.run(
        [*cluster.ssh_command(name), f"cat > {directory}/bench.torrent"], input=meta.read_bytes(), check=True
    )
    # aria2 keeps its own notes until it has done giving: a program of ours tells that the file is whole.
    script = f"{directory}/bench.sh"
    told = f"printf '#!/bin/sh\\ntouch {directory}/bench.whole\\n' > {script}; chmod +x {script}"
    flags = f"{FLAGS} --seed-time=60 --dir={directory} --on-bt-download-complete={script}"
    client = f"nohup aria2c {flags} {directory}/bench.torrent >/dev/null 2>&1 </dev/null &"
    whole = f"until [ -e {directory}/bench.whole ]; do sleep 0.2; done"
    cluster.on(name, f"{told}; {client} {whole}", seconds=3600)


def torrent_file(path: Path, announce: str) -> bytes:
    data = path.read_bytes()
    pieces = b"".join(hashlib.sha1(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE))
    info = {"length": len(data), "name": path.name, "piece length": PIECE, "pieces": pieces}
    return encode({"announce": announce, "info": info})


def encode(value) -> bytes:
    """Bencoding."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, dict):
        return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    if isinstance(value, list):
        return b"l" + b"".join(map(encode, value)) + b"e"
    value = value.encode() if isinstance(value, str) else value
    return b"%d:" % len(value) + value


class Tracker(BaseHTTPRequestHandler):
    """Tells each peer of all others."""

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query, encoding="latin-1")
        self.server.peers.add((self.client_address[0], int(asked["port"][0])))
        peers = b"".join(bytes(map(int, host.split("."))) + port.to_bytes(2, "big") for host, port in self.server.peers)
        answer = encode({"interval": 2, "min interval": 1, "peers": peers})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words) -> None:
        """Quiet."""
