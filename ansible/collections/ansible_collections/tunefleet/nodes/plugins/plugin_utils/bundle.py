"""Packs the programs of module_utils so that a node can run them without a file of theirs being written there.

What goes over the line: one line with the length of the bundle, the bundle, and then what the program reads from its
stdin. An Ansible module would do the same with 200 kB of Ansible's own code a call; this takes a few kilobytes, and a
second push has to stay under 100.
"""

import json
import shlex
import zlib
from pathlib import Path

MODULE_UTILS = Path(__file__).resolve().parent.parent / "module_utils"
# All that node.py and follower.py import.
NODE_PROGRAMS = ("chunks", "tools", "archive", "containerd", "docker", "storage", "runtimes", "node", "follower")
PACKAGE = "ansible_collections.tunefleet.nodes.plugins.module_utils"

# Modules are found under their usual names, without files: each is run when it is first imported.
LOADER = """
import importlib.abc, importlib.machinery, json, sys, zlib
SOURCES = json.loads(zlib.decompress(sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))))
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in SOURCES or (PACKAGE + '.').startswith(name + '.'):
            return importlib.machinery.ModuleSpec(name, self, is_package=name not in SOURCES)
    def exec_module(self, module):
        if module.__name__ in SOURCES:
            exec(compile(SOURCES[module.__name__], module.__name__, 'exec'), module.__dict__)
PACKAGE = '%s'
sys.meta_path.insert(0, Finder())
"""


def command(program: str, interpreter: str | None = None) -> str:
    """The shell command that runs module_utils/<program>.py's main(stdin) on a node, given its bundle first."""
    code = LOADER % PACKAGE + f"from {PACKAGE}.{program} import main\nmain(sys.stdin.buffer)\n"
    # Where nothing is configured: what `python3` is, or the place Red Hat keeps one of its own.
    python = shlex.quote(interpreter) if interpreter else '"$(command -v python3 || echo /usr/libexec/platform-python)"'
    return f"{python} -c {shlex.quote(code)}"


def bundle(*programs: str) -> bytes:
    """The sources of these modules, as the command wants them at the beginning of its stdin."""
    sources = {f"{PACKAGE}.{name}": (MODULE_UTILS / f"{name}.py").read_text() for name in programs}
    packed = zlib.compress(json.dumps(sources).encode(), 9)
    return b"%d\n" % len(packed) + packed
