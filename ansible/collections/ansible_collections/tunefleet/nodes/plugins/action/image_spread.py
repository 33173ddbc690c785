"""Spreads the missing layers over all nodes of the play at once. Documentation: plugins/modules/image_spread.py."""

from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.bundle import command
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.layout import Image, read_image
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.settings import (
    NotSsh,
    configured_interpreter,
    privileged,
    ssh_command,
)
from ansible_collections.tunefleet.nodes.plugins.plugin_utils.spread import Spread, Target


class ActionModule(ActionBase):
    BYPASS_HOST_LOOP = True  # once for all nodes: they pass the layers on among each other
    _VALID_ARGS = frozenset(("image", "directory", "port", "patience", "leave_behind", "nodes", "only"))
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        given = self._task.args
        if self._task.check_mode:
            return {**result, "changed": False, "nodes": {}}
        image = read_image(Path(given["image"]))
        targets, answers = [], {}
        for name, look in given["nodes"].items():
            if not look.get("able") or name not in given.get("only", given["nodes"]):
                continue
            if not look["missing"]:
                answers[name] = {"done": True, "problem": "", "received": 0, "seconds": 0.0, "behind": False}
                continue
            try:
                targets.append(make_target(name, task_vars["hostvars"][name], look, image, given))
            except NotSsh as error:
                answers[name] = {"done": False, "problem": str(error), "received": 0, "seconds": 0.0, "behind": False}
        if targets:
            display = Display()
            patience, leave_behind = float(given["patience"]), bool(given["leave_behind"])
            spread = Spread(image, targets, patience, leave_behind, lambda line: display.display(f"  {line}"))
            spread.run()
        for target in targets:
            done = spread.links.nodes[target.name].done
            answers[target.name] = {
                "done": done,
                "behind": not done and not target.fatal,
                "problem": "" if done else target.problem or "fell behind the others",
                "received": target.received,
                "seconds": round(target.seconds or 0.0, 1),
            }
        return {**result, "changed": bool(targets), "nodes": answers}


def make_target(name: str, variables: dict, look: dict, image: Image, given: dict) -> Target:
    """A node as the inventory describes it. The task's own values are those of the first host of the play: a host's
    variables go before them. Raises NotSsh."""
    ssh, interpreter = ssh_command(variables), configured_interpreter(variables)
    directory = image.place(variables.get("tunefleet_image_directory", given["directory"]))
    follower = privileged(variables, command("follower", interpreter)) if look["follows"] else None
    job = {"image": image.for_nodes(), "runtime": look["runtime"], "directory": directory, "missing": look["missing"]}
    return Target(
        name,
        argv=[*ssh, command("agent", interpreter)],
        peer=str(variables.get("tunefleet_image_peer_address") or look["address"] or variables["ansible_host"]),
        port=int(variables.get("tunefleet_image_peer_port", given["port"])),
        directory=directory,
        missing=look["missing"],
        follower_argv=[*ssh, follower] if follower else None,
        follower_job=job,
    )
