"""A kubectl whose pods are here: `exec` runs the command with the store of FAKE, and its stream can be made to fail.

FAKE holds: store (the directory), and while they are there: absent (what kubectl says instead of an answer), cut (bytes
of standard input after which the connection ends; taken away when it has), spoil (the byte of standard input that
arrives changed; likewise), slow (seconds that 64 kB take). Every call is noted in calls.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKE"])


def taken(name: str) -> int:
    """The number in a file that holds a fault, which happens once; far away where there is none."""
    path = HERE / name
    if not path.exists():
        return sys.maxsize
    number = int(path.read_text())
    path.unlink()
    return number


def main() -> int:
    words = sys.argv[1:]
    with (HERE / "calls").open("a") as file:
        file.write(" ".join(words[:8]) + "\n")
    if (HERE / "absent").exists():
        print((HERE / "absent").read_text(), file=sys.stderr)
        return 1
    command = words[words.index("--") + 1 :]
    command = [sys.executable, *command[1:], "--store", str(HERE / "store")]
    far = subprocess.Popen(command, stdin=subprocess.PIPE)
    cut, spoil, done = taken("cut"), taken("spoil"), 0
    while block := os.read(0, 65536):
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        block = block[: max(cut - done, 0)]
        if done <= spoil < done + len(block):
            at = spoil - done
            block = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
        done += len(block)
        try:
            far.stdin.write(block)
            far.stdin.flush()
        except BrokenPipeError:
            break
        if done >= cut:
            far.stdin.close()
            far.wait()
            print("error: unexpected EOF", file=sys.stderr)
            return 1
    far.stdin.close()
    return far.wait()


if __name__ == "__main__":
    sys.exit(main())
