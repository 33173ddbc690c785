"""Ask the shared store through the data-access pod, where scripts/store.py answers.

The program travels with the question, on Python's standard input: what runs there is of this checkout's version,
whatever image the pod has.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.names import DATA_ACCESS
from train.errors import InputError, problem

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "store.py"
ABSENT = (  # what kubectl says where no pod is there to answer
    'namespaces "',
    "no pods",
    f'"{DATA_ACCESS}" not found',
    "container not found",
    "not running",
    "timed out waiting for the condition",
    "does not have a host assigned",
    "cannot exec",
    "unable to upgrade",
)
# A program of several modules that the data-access pod's image need not have: `start` makes them modules there.
START = """
import sys, types
def start(texts):
    for name, text in texts.items():
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(text, name, "exec"), module.__dict__)
    sys.exit(module.main())
"""
SECONDS_FOR_A_POD = 15
SECONDS_FOR_TEXT = 60


class Store:
    """The store of a namespace; `program` is the text of what answers there, empty for scripts/store.py."""

    def __init__(self, cluster: Cluster, program: str = ""):
        self.cluster = cluster
        self.program = program or PROGRAM.read_text(encoding="utf-8")

    def command(self, *words: str) -> list[str]:
        """kubectl's command line that runs the program with these words."""
        python = ["python", "-I", "-", *words]
        patience = f"--pod-running-timeout={SECONDS_FOR_A_POD}s"
        where = ["-i", patience, f"deployment/{DATA_ACCESS}", "-c", DATA_ACCESS]
        return self.cluster.command("exec", *where, "--", *python)

    def ask(self, *words: str, tell: Callable[[str], None] = lambda line: None, seconds: float = 7200) -> object:
        """The program's answer; `tell` hears what it says meanwhile. Raises Refused where there is none."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as program:
            program.write(self.program)
            program.seek(0)
            process = subprocess.Popen(
                self.command(*words), stdin=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        said: list[str] = []
        listener = threading.Thread(target=listen, args=(process.stderr, said, tell), daemon=True)
        alarm = threading.Timer(seconds, process.kill)
        listener.start()
        alarm.start()
        try:
            answer = process.stdout.read()
            status = process.wait()
        finally:
            alarm.cancel()
            process.kill()
        listener.join(5)
        if status:
            raise refusal(said, status)
        return json.loads(answer)

    def text(self, path: str, file: str) -> str:
        """A small text file of the store, empty where it is not there."""
        command = self.command("send", path, file, "0")
        try:
            with PROGRAM.open("rb") as program:
                done = subprocess.run(
                    command, stdin=program, capture_output=True, check=False, timeout=SECONDS_FOR_TEXT
                )
        except subprocess.TimeoutExpired:
            raise Refused(f"the store did not answer within {SECONDS_FOR_TEXT} s", 124) from None
        said = done.stderr.decode(errors="replace")
        if done.returncode and "is not on the store" not in said:
            raise refusal(said.splitlines(), done.returncode)
        return "" if done.returncode else done.stdout.decode(errors="replace")


def texts(program: str) -> dict[str, str]:
    """The modules that `start` takes: a program about the store, behind those that it imports."""
    names = ("train.files", "train.stored", program)
    return {name: (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8") for name in names}


def listen(stream, said: list[str], tell: Callable[[str], None]) -> None:
    """Keep what the other side says, and pass it on while it is said."""
    for line in stream:
        said.append(line.rstrip())
        tell(line.rstrip())


def refusal(said: list[str], status: int) -> Refused:
    """What went wrong, in one line."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    text = "; ".join(errors) or "\n".join(said[-3:]) or f"exit status {status}"
    return Refused(text, status)


def is_complete(entry: dict) -> bool:
    """Whether a run that the store lists has all that a run makes."""
    return entry["record"].get("status") == "complete" or {"after.json", "report.html"} <= set(entry["has"])


def overlay_of(entry: dict) -> str:
    """The use case of a run that the store lists: as its record says, else what its name begins with."""
    return entry["record"].get("overlay") or entry["name"].rpartition("-")[0] or entry["name"]


def is_absent(refused: Refused) -> bool:
    """Whether it was not the store that answered, but nobody."""
    return "is not on the store" not in str(refused) and any(sign in str(refused) for sign in ABSENT)


def no_data_access(cluster: Cluster, refused: Refused) -> InputError:
    """What to say where the data-access pod does not answer."""
    what = f"no pod answers for the store: {str(refused).splitlines()[-1]}"
    fix = f"make cluster-setup makes it; kubectl -n {cluster.namespace} describe deployment {DATA_ACCESS} tells why not"
    return InputError(problem(f"namespace {cluster.namespace}", DATA_ACCESS, what, fix))


def tell_refusal(cluster: Cluster, refused: Refused, hint: str = "") -> int:
    """Say why the store did not do it; the exit status. Raises InputError where nobody answered for it."""
    if is_absent(refused):
        raise no_data_access(cluster, refused) from refused
    print(f"failed: {refused}{hint}", file=sys.stderr)
    return 1
