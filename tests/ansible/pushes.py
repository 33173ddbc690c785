"""Running the playbooks as `make push`, `make image-check` and `make image-remove` do, and reading what they report."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.ansible.cluster import ROOT, Cluster
from tests.ansible.images import Image


@dataclass
class Done:
    """What a playbook ended with. `rows` is the report's file: node -> result, problem, received, seconds, ..."""

    code: int
    said: str
    rows: dict[str, dict]
    changed: dict[str, int]
    seconds: float

    def healthy(self, names: list[str]) -> bool:
        return all(self.rows[name]["result"] in ("has it", "had it") for name in names)


class Playbook:
    """One run of a playbook, in a process group of its own, like one typed into a terminal."""

    def __init__(self, cluster: Cluster, playbook: str, image: Image, *flags: str, limit=None, **settings: object):
        self.cluster, self.limit = cluster, limit or cluster.names
        self.folder = tempfile.TemporaryDirectory(prefix="push-", dir="/tmp")  # short: sockets lie in it
        settings = {"tunefleet_image_record": str(image.record), **settings}
        settings["tunefleet_image_result"] = f"{self.folder.name}/result.json"
        argv = [cluster.ansible, "-i", str(cluster.inventory), f"{playbook}.yml", "-e", json.dumps(settings), *flags]
        argv += ["--limit", ",".join(self.limit)]
        environment = {**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": self.folder.name, "ANSIBLE_NOCOLOR": "1"}
        self.log = Path(self.folder.name, "log")
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                argv, cwd=ROOT / "ansible", env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_until(self, happened, seconds: float = 40) -> None:
        """Until then the playbook must still be running."""
        end = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"ended too early:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"waited {seconds} s in vain:\n{self.log.read_text()}"
            time.sleep(0.05)

    def wait(self, seconds: float = 120) -> Done:
        try:
            code = self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                print(self.log.read_text())
        said, took = self.log.read_text(), time.monotonic() - self.began
        self.hang_up()
        result = Path(self.folder.name, "result.json")
        rows = json.loads(result.read_text())["nodes"] if result.exists() else {}
        changed = {name: int(n) for name, n in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", said, re.MULTILINE)}
        print(said)
        self.folder.cleanup()
        return Done(code, said, rows, changed, took)

    def hang_up(self) -> None:
        """End the connections Ansible keeps for the next minute: the next test must log in anew."""
        for socket in Path(self.folder.name).iterdir():
            if socket.is_socket():
                subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "node"], capture_output=True)


def push(cluster: Cluster, image: Image, *flags: str, **more: object) -> Done:
    return Playbook(cluster, "push-image", image, *flags, **more).wait()
