"""Runs one step of module_utils/node.py on the node. Documentation: plugins/modules/image_step.py."""

import json
import time
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.bundle import NODE_PROGRAMS, bundle, command
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.layout import LayoutError, read_image
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.settings import configured_interpreter


class ActionModule(ActionBase):
    _VALID_ARGS = frozenset(("step", "image", "runtime", "directory", "user", "missing", "force"))
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        given = self._task.args
        try:
            image = read_image(Path(given["image"]))
        except LayoutError as error:
            return {**result, "failed": True, "msg": str(error)}
        step = given["step"]
        check = self._task.check_mode
        if check and step in ("clear", "prepare", "bring_in"):
            return {**result, "changed": True}  # what it would do
        request = {
            "step": step,
            "image": image.for_nodes(),
            "runtime": given["runtime"],
            "directory": image.place(given["directory"]),
            "user": given.get("user", ""),
            "missing": given.get("missing", []),
            "force": bool(given.get("force", False)),
            "check": check,
        }
        sent = bundle(*NODE_PROGRAMS) + json.dumps(request).encode()
        began = time.monotonic()
        done = self._low_level_execute_command(command("node", configured_interpreter(task_vars)), in_data=sent)
        return {**result, "seconds": round(time.monotonic() - began, 1), **read_answer(done)}


def read_answer(done: dict) -> dict:
    """The node's JSON, the last line it printed. Whatever goes wrong is an answer too, a `problem`: all nodes are heard
    before anything is said, and one node's trouble must not end the others' work."""
    lines = [line for line in done["stdout"].splitlines() if line.startswith("{")]
    if done["rc"] == 0 and lines:
        return {"changed": False, **json.loads(lines[-1])}
    said = (done["stderr"] or done["stdout"]).strip().splitlines()
    return {"changed": False, "problem": f"exit {done['rc']}: {said[-1] if said else 'no output'}"}
