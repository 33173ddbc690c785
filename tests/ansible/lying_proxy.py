"""A proxy that connections are redirected to by iptables, and that changes one byte of everything it passes back.

python tests/ansible/lying_proxy.py PORT
"""

import contextlib
import socket
import struct
import sys
import threading

ORIGINAL = 80  # SO_ORIGINAL_DST: where the connection was to go
MARK = 1  # on its own connections, so that they are not redirected


def main() -> None:
    listener = socket.create_server(("", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=pass_on, args=(client,), daemon=True).start()


def pass_on(client: socket.socket) -> None:
    _, port, address = struct.unpack("!HH4s8x", client.getsockopt(socket.IPPROTO_IP, ORIGINAL, 16))
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    server.connect((socket.inet_ntoa(address), port))
    threading.Thread(target=copy, args=(client, server, False), daemon=True).start()
    copy(server, client, True)


def copy(source: socket.socket, target: socket.socket, lie: bool) -> None:
    with contextlib.suppress(OSError):
        passed = 0
        while data := bytearray(source.recv(65536)):
            if lie and passed <= 100_000 < passed + len(data):
                data[100_000 - passed] ^= 1
                print("lied", flush=True)
            passed += len(data)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
