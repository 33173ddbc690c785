"""Running programs on a node. Python 3.8, standard library."""

from __future__ import annotations

import os
import shutil
import subprocess

# sudo's path often lacks these; k3s and RKE2 live there.
PLACES = os.pathsep.join(
    [
        os.environ.get("PATH", ""),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
        "/opt/bin",
        "/var/lib/rancher/rke2/bin",
        "/var/lib/rancher/k3s/data/current/bin",
    ]
)
os.environ["PATH"] = PLACES

QUICK = 30  # seconds a question may take
LONG = 3600  # seconds an import may take


class NodeError(Exception):
    """Something a person has to mend: what is wrong and the fix."""

    def __init__(self, problem, fix):
        super().__init__(f"{problem}\n  fix: {fix}")


def find(program):
    return shutil.which(program, path=PLACES)


def run(argv, seconds=QUICK, stdin=None):
    """Its output. Raises NodeError with the last words of a program that failed."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"{argv[0]} did not answer for {seconds} s", "look at that service on the node") from error
    if done.returncode:
        raise failed(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout.decode(errors="replace")


FREE = "free space on the node, then push again (docs/runbooks/out-of-disk-on-nodes.md)"


def failed(argv, status, said):
    words = said.decode(errors="replace").strip().splitlines()[-2:]
    what = f"{' '.join(argv[:6])}: exit {status}: {' '.join(words)}"
    if "no space left" in what.lower():
        return NodeError(f"the disk is full ({what})", FREE)
    return NodeError(what, "see the message; what arrived is kept, pushing again goes on from there")


def feed(argv, write):
    """Run a program and write its stdin by write(stream). Raises NodeError when it fails, or what write raised."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        write(process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended early: its exit status and words say why
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = process.stdout.read()
    status = process.wait()
    if status:
        raise failed(argv, status, said)
